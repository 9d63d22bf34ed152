"""Arm instructions: the same on every start of the emulated board, and different where the work is."""

import pytest
from emulated_files import repeated_256, write_files

from edgeks.errors import EdgeksError
from edgeks.instructions import Counted, count_instructions, count_instructions_of
from edgeks.target import load_target

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(1800)]

REPEATS_TO = 0.001


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"), repeated_256(), ("int8",))


def test_counts_repeat_to_a_thousandth_on_another_start(files):
    counted = [Counted(file.path, file.target) for file in files]
    first, second = count_instructions_of([*counted, *counted]), count_instructions_of(counted[::-1])[::-1]
    for one, again, other in zip(first[: len(files)], first[len(files) :], second, strict=True):
        assert not isinstance(one, EdgeksError) and not isinstance(again, EdgeksError)
        assert not isinstance(other, EdgeksError)
        for found in (again, other):
            assert abs(found.inference / one.inference - 1) < REPEATS_TO, (one, found)


def test_dot_products_halve_the_work_of_int8(files):
    (onnx,) = (file for file in files if file.path.suffix == ".onnx")
    a72, a76 = (count_instructions(onnx.path, onnx.target, cpu).inference for cpu in ("cortex-a72", "cortex-a76"))
    assert a76 < a72 / 2


def test_a_process_that_dies_does_not_take_the_others_along(files):
    (tflite,) = (file for file in files if file.path.suffix == ".tflite")
    cached = Counted(tflite.path, load_target("tflite"), "litert-compiled")  # needs ARMv8.1
    good = Counted(tflite.path, load_target("tflite"))
    lost, found = count_instructions_of([cached, good])
    assert isinstance(lost, EdgeksError) and "needs ARMv8.1" in str(lost)
    assert not isinstance(found, EdgeksError) and found.inference > 10e6
