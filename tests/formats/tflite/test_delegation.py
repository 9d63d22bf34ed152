"""Which operators XNNPACK takes is read from the interpreter: small flatbuffers with what it is known to leave."""

import numpy as np
import pytest
from tflite_by_hand import SAME, VALID, TfliteGraph

from edgeks.errors import ModelFileError
from edgeks.formats.tflite.delegation import delegation, partition
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.target import LiteRtSession

SHAPE = (1, 6, 6, 4)
SCALE = 0.05


class Net(TfliteGraph):
    """A chain on 1×6×6×4, in float32 or int8."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.scale = dtype, SCALE if dtype == "int8" else None
        self.x = self.y = self.tensor(SHAPE, dtype, self.scale)

    def then(self, op, *more, shape=SHAPE, **options):
        self.y = self.op(op, [self.y, *more], self.tensor(shape, self.dtype, self.scale), **options)
        return self

    def conv(self, w=None, padding=SAME, shape=SHAPE):
        rng = np.random.default_rng(0)
        if self.dtype == "int8":
            w = self.constant(rng.integers(-127, 128, (4, 3, 3, 4)).astype(np.int8), [0.001] * 4)
            b = self.constant(np.zeros(4, np.int32), [0.001 * SCALE] * 4)
        else:
            w = w or self.constant(rng.standard_normal((4, 3, 3, 4)).astype(np.float32))
            b = self.constant(np.zeros(4, np.float32))
        options = {"padding": padding, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
        return self.then("CONV_2D", w, b, shape=shape, table="Conv2DOptions", **options)

    def gelu(self):
        return self.then("GELU", table="GeluOptions")

    def saved(self, path):
        return self.write(path, [self.x], [self.y])


def test_a_float_chain_is_one_piece(tmp_path):
    found = delegation(Net("float32").conv().gelu().then("RELU").conv().saved(tmp_path / "m.tflite"), 1, seconds=0)
    assert (found.partitions, found.delegated, found.left) == (1, {"CONV_2D": 2, "GELU": 1, "RELU": 1}, {})
    assert found.xnnpack_ms > 0 and found.builtin_ms > 0
    assert found.faster == ("xnnpack" if found.xnnpack_ms <= found.builtin_ms else "builtin")


@pytest.mark.parametrize("op", ["GELU", "RELU", "RELU6", "HARD_SWISH"])
def test_int8_activations_are_left_and_cut_the_graph(op, tmp_path):
    options = (
        {"table": {"GELU": "GeluOptions", "HARD_SWISH": "HardSwishOptions"}[op]} if op in "GELU HARD_SWISH" else {}
    )
    net = Net("int8").conv().then(op, **options).conv().conv()
    found = delegation(net.saved(tmp_path / "m.tflite"), 1, seconds=0)
    assert (found.partitions, found.delegated, found.left) == (2, {"CONV_2D": 3}, {op: 1})


def test_in_float_between_dequantize_and_quantize_they_are_taken(tmp_path):
    net = Net("int8").conv()
    real = net.op("DEQUANTIZE", [net.y], net.tensor(SHAPE), table="DequantizeOptions")
    made = net.op("GELU", [real], net.tensor(SHAPE), table="GeluOptions")
    net.y = net.op("QUANTIZE", [made], net.tensor(SHAPE, "int8", SCALE), table="QuantizeOptions")
    found = delegation(net.conv().saved(tmp_path / "m.tflite"), 1, seconds=0)
    assert (found.partitions, found.left) == (1, {})
    assert found.delegated == {"CONV_2D": 2, "DEQUANTIZE": 1, "GELU": 1, "QUANTIZE": 1}


def test_a_kernel_behind_dequantize_and_a_pad_are_taken(tmp_path):
    net = Net("float32")
    codes = net.constant(np.ones((4, 3, 3, 4), np.int8), [0.01, 0.02, 0.03, 0.04])
    kernel = net.op("DEQUANTIZE", [codes], net.tensor((4, 3, 3, 4)), table="DequantizeOptions")
    amounts = net.constant(np.array([[0, 0], [2, 0], [1, 1], [0, 0]], np.int32))
    net.then("PAD", amounts, shape=(1, 8, 8, 4), table="PadOptions").conv(kernel, VALID)
    found = delegation(net.saved(tmp_path / "m.tflite"), 1, seconds=0)
    assert (found.partitions, found.left) == (1, {})
    assert found.delegated == {"CONV_2D": 1, "DEQUANTIZE": 1, "PAD": 1}


def test_without_a_delegate_everything_is_left(tmp_path):
    path = Net("float32").conv().saved(tmp_path / "m.tflite")
    assert partition(open_interpreter(path, LiteRtSession(1, "builtin"))) == (0, {}, {"CONV_2D": 1})


def test_no_such_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"m\.tflite"):
        delegation(tmp_path / "m.tflite", 1)
