"""The public face: every name that `edgeks` offers is there, documented, and lazily loaded."""

import inspect
import subprocess
import sys

import pytest

import edgeks


@pytest.mark.parametrize("name", edgeks.__all__)
def test_public_name_exists_and_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(edgeks, name))


def test_all_is_the_table_of_lazy_names() -> None:
    assert sorted(edgeks.__all__) == sorted(edgeks._PUBLIC)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = edgeks.exprot


def test_footprint_function_does_not_load_torch_or_a_runtime() -> None:
    code = "import sys, edgeks; edgeks.footprint; print(*(m for m in ('torch', 'onnxruntime') if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
