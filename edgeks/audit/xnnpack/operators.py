"""Which operators TFLite's XNNPACK delegate takes: one rule per operator.

The conditions are those of LiteRT 2.3's xnnpack_delegate.cc (`VisitNode`), as its Python package is built: int8 and
uint8 are on, a matrix that is computed is not. tflite-runtime 2.14 takes float32 only, and fewer operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.xnnpack.graph import FLOAT16, FLOAT32, INT2, INT4, INT8, INT32, UINT8, Graph, Node, Tensor
from edgeks.model_files.tflite_file import whole_numbers

FLOATS = {FLOAT32, FLOAT16}
MAX_RANK = 6  # of a tensor in XNNPACK


def takes(graph: Graph, node: Node) -> bool:
    """Whether the delegate takes an operator of its own accord."""
    rule = (RULES if graph.version == "litert" else FLOAT_RULES).get(node.name)
    if rule is None or not node.outputs or len(node.inputs) not in rule.inputs:
        return False
    if any(node.inputs[place] < 0 for place in range(min(len(node.inputs), rule.inputs.start))):
        return False
    if graph.version == "tflite-runtime" and any(kind in _NARROW for kind in _types(graph, node)):
        return False
    activated = node.option("fusedActivationFunction") in range(4)  # none, RELU, RELU_N1_TO_1, RELU6
    return activated and rule.accepts(graph, node)


_NARROW = {FLOAT16, INT8, UINT8, INT4, INT2}


def _types(graph: Graph, node: Node) -> list[int]:
    return [graph.tensors[index].type for index in (*node.inputs, *node.outputs) if index >= 0]


@dataclass(frozen=True, slots=True)
class Rule:
    """`inputs`: how many an operator may have. `accepts`: whether the delegate takes one with that many."""

    inputs: range
    accepts: Callable[[Graph, Node], bool]


def _number(tensor: Tensor) -> bool:
    """Float, or 8 bits with one scale."""
    return tensor.type in FLOATS or (tensor.type in (INT8, UINT8) and len(tensor.scales) == 1 and tensor.axis == 0)


def _float(tensor: Tensor) -> bool:
    return tensor.type in FLOATS


def _shaped(tensor: Tensor, ranks: Iterable[int] = range(MAX_RANK + 1)) -> bool:
    return len(tensor.shape) in ranks and all(size > 0 for size in tensor.shape)


def _ends(graph: Graph, node: Node, first: int = 0) -> tuple[Tensor, Tensor]:
    """Input number `first` and the first output."""
    return graph.tensors[node.inputs[first]], graph.tensors[node.outputs[0]]


def _positive(scales: Iterable[float]) -> bool:
    return all(np.finfo(np.float32).tiny <= scale < math.inf for scale in scales)


def _valid(tensor: Tensor) -> bool:
    """Quantised as XNNPACK wants constants: positive scales; zero points other than 0 only of a single scale."""
    single = len(tensor.scales) == 1
    return _positive(tensor.scales) and (single or not any(tensor.zero_points))


def _kernel(tensor: Tensor, axis: int) -> bool:
    if tensor.type in FLOATS:
        return True
    per_channel = len(tensor.scales) > 1
    if tensor.type == INT8 and tensor.scales:
        return (not per_channel or tensor.axis == axis) and _valid(tensor)
    return tensor.type == UINT8 and len(tensor.scales) == 1 and tensor.axis == 0 and _valid(tensor)


def _bias(graph: Graph, index: int, channels: int | None = None) -> bool:
    tensor = graph.tensors[index]
    if not graph.known(index) or (channels is not None and tensor.elements != channels):
        return False
    if tensor.type in FLOATS:
        return True
    return tensor.type == INT32 and bool(tensor.scales) and tensor.axis == 0 and _valid(tensor)


def _same_precision(graph: Graph, kernel: int, bias: int) -> bool:
    """A float32 kernel takes a float32 bias; a float16 one either."""
    kinds = [FLOAT16 if tensor in graph.halves else graph.tensors[tensor].type for tensor in (kernel, bias)]
    return kinds[0] not in FLOATS or kinds[0] == kinds[1] or kinds == [FLOAT16, FLOAT32]


def _convolution(axis: int) -> Callable[[Graph, Node], bool]:
    def accepts(graph: Graph, node: Node) -> bool:
        x, y = _ends(graph, node)
        kernel, bias = node.inputs[1], node.inputs[2]
        weights = graph.tensors[kernel]
        if not (_number(x) and _number(y) and all(_shaped(tensor, [4]) for tensor in (x, y, weights))):
            return False
        if not (_kernel(weights, axis) and graph.known(kernel) and _bias(graph, bias)):
            return False
        strides = ("strideW", "strideH", "dilationWFactor", "dilationHFactor")
        if len(graph.tensors[bias].shape) != 1 or any(node.option(name, 1) < 1 for name in strides):
            return False
        dynamic = axis == 0 and (x.type, weights.type) == (FLOAT32, INT8)
        if axis == 3:
            multiplier = node.option("depthMultiplier")
            return x.type == y.type == weights.type and multiplier > 0 and weights.shape[3] % multiplier == 0
        groups = x.shape[3] // weights.shape[3]
        mixed = x.type != weights.type and not dynamic
        return x.type == y.type and not mixed and groups > 0 and _same_precision(graph, kernel, bias)

    return accepts


def _transposed_convolution(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node, 2)
    weights, shape = graph.tensors[node.inputs[1]], graph.content(node.inputs[0])
    if not (_number(x) and _number(y) and FLOAT16 not in (x.type, y.type) and shape is not None and len(shape) == 4):
        return False
    if not (graph.known(node.inputs[1]) and _kernel(weights, 0) and all(_shaped(t, [4]) for t in (x, y, weights))):
        return False
    if len(node.inputs) > 3 and node.inputs[3] >= 0 and not _bias(graph, node.inputs[3]):
        return False
    if weights.shape[0] != shape[3] or weights.shape[3] != x.shape[3]:
        return False
    steps = node.option("strideH"), node.option("strideW")
    if any(step < 1 for step in steps):
        return False
    if node.option("padding") == schema.Padding.VALID:
        return all(weights.shape[i + 1] <= shape[i + 1] for i in range(2))
    return all(x.shape[i + 1] == -(-shape[i + 1] // steps[i]) and weights.shape[i + 1] >= steps[i] for i in range(2))


def _matrix(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    kernel = node.inputs[1]
    weights = graph.tensors[kernel]
    if node.option("weightsFormat") or node.code_version == 8 or not (_number(x) and _number(y)):
        return False
    if not (_shaped(weights, [2]) and graph.known(kernel)) or x.type != y.type:
        return False
    integer = weights.type in (INT8, INT4, INT2)
    if integer and not (weights.scales and (len(weights.scales) == 1 or weights.axis == 0)):
        return False
    if not integer and not _kernel(weights, 0):
        return False
    if len(node.inputs) > 2 and node.inputs[2] >= 0:
        bias = node.inputs[2]
        if not (_bias(graph, bias, weights.shape[0]) and _same_precision(graph, kernel, bias)):
            return False
    if integer and x.type not in (*FLOATS, INT8):
        return False
    if not integer and x.type != weights.type:
        return False
    if x.type == INT8 and weights.type == INT8 and len(weights.zero_points) == 1 and weights.zero_points[0]:
        return False
    return weights.shape[1] % {INT4: 2, INT2: 4}.get(weights.type, 1) == 0


def _batch_matrix(graph: Graph, node: Node) -> bool:
    (a, y), b = _ends(graph, node), graph.tensors[node.inputs[1]]
    axis = len(b.shape) - (2 if node.option("adjY") else 1)
    if not (_number(a) and _number(y) and _kernel(b, axis) and len(a.shape) > 1 and len(b.shape) > 1):
        return False
    if a.type == FLOAT32 and b.type == INT8:
        return True
    single = len(b.scales) == 1
    return a.type == b.type and (not b.scales or (single and not any(b.zero_points)))


def _unary(kind: Callable[[Tensor], bool]) -> Callable[[Graph, Node], bool]:
    def accepts(graph: Graph, node: Node) -> bool:
        x, y = _ends(graph, node)
        return _shaped(x) and kind(x) and kind(y)

    return accepts


def _elu(tensor: Tensor) -> bool:
    return _float(tensor) or (tensor.type == INT8 and _number(tensor))


def _leaky(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    slope = float(node.option("alpha", 0.0))
    if not (_shaped(x) and _number(x) and _number(y)) or not _positive([abs(slope)]):
        return False
    if not (x.scales and y.scales):
        return True
    up = x.scales[0] / y.scales[0]
    down = up * slope
    return 1 / 256 <= up <= 128 and -127.99609375 <= down <= 128 and abs(down) >= 1 / 256


def _quantise(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    if not (_shaped(x) and _number(x) and _number(y)):
        return False
    return x.type in FLOATS or (x.type == y.type and 1 / 256 <= x.scales[0] / y.scales[0] <= 128)


def _dequantise(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    return _shaped(x) and x.type in (INT8, UINT8) and _number(x) and _float(y)


def _binary(ratio: tuple[float, float] | None = None, product: bool = False) -> Callable[[Graph, Node], bool]:
    """Elementwise; `ratio`: bounds of the scale of each input (or of their product) over the output's."""

    def accepts(graph: Graph, node: Node) -> bool:
        a, b, y = (graph.tensors[index] for index in (*node.inputs, node.outputs[0]))
        if not (_shaped(a) and _shaped(b)):
            return False
        if ratio is None:
            return _float(a) and _float(b) and _float(y)
        if not (_number(a) and _number(b) and _number(y) and a.type == b.type == y.type):
            return False
        if a.type in FLOATS:
            return True
        scales = [a.scales[0] * b.scales[0]] if product else [a.scales[0], b.scales[0]]
        return all(ratio[0] <= scale / y.scales[0] < ratio[1] for scale in scales)

    return accepts


def _prelu(graph: Graph, node: Node) -> bool:
    return _binary()(graph, node) and graph.known(node.inputs[1])


def _prelu_per_channel(graph: Graph, node: Node) -> bool:
    """tflite-runtime 2.14: one slope per channel."""
    slope = graph.tensors[node.inputs[1]]
    return _prelu(graph, node) and slope.shape[-1:] == (slope.elements,)


def _pool(kind: Callable[[Tensor], bool]) -> Callable[[Graph, Node], bool]:
    def accepts(graph: Graph, node: Node) -> bool:
        x, y = _ends(graph, node)
        sides = [(node.option(f"filter{side}"), node.option(f"stride{letter}")) for side, letter in POOL_SIDES]
        fits = all(0 < stride <= size for size, stride in sides)
        return kind(x) and kind(y) and fits

    return accepts


POOL_SIDES = (("Height", "H"), ("Width", "W"))


def _reduce(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    axes = graph.tensors[node.inputs[1]]
    numbers = graph.content(node.inputs[1])
    if axes.type != INT32 or len(axes.shape) > 1 or not numbers:
        return False
    return _number(x) and _number(y) and len(numbers) <= MAX_RANK and (numbers != [0] or x.shape != ())


def _spatial_reduction(graph: Graph, node: Node) -> bool:
    """tflite-runtime 2.14: over height and width, or width."""
    rank = len(graph.tensors[node.inputs[0]].shape)
    return _reduce(graph, node) and rank == 4 and sorted(graph.content(node.inputs[1]) or []) in ([1, 2], [2])


def _pad(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    amounts, table = graph.content(node.inputs[1]), graph.tensors[node.inputs[1]]
    if amounts is None or table.type != INT32 or table.shape != (len(x.shape), 2):
        return False
    return all(_number(t) and _shaped(t, range(1, MAX_RANK + 1)) for t in (x, y)) and min(amounts) >= 0


def _reshape(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    if not all(_number(t) and _shaped(t) for t in (x, y)):
        return False
    if y.scales and (x.scales[:1], x.zero_points[:1]) != (y.scales[:1], y.zero_points[:1]):
        return False
    shape = graph.content(node.inputs[1]) if len(node.inputs) == 2 else whole_numbers(node.option("newShape", None))
    if shape is None or (len(node.inputs) == 2 and graph.tensors[node.inputs[1]].type != INT32):
        return False
    return shape not in ([0], [-1])


def _resize(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    size = graph.content(node.inputs[1])
    fits = all(_number(t) and t.type != FLOAT16 and _shaped(t, [4]) for t in (x, y))
    return fits and size is not None and len(size) == 2 and min(size) > 0


def _slice(graph: Graph, node: Node) -> bool:
    begin, size = (graph.content(index) for index in node.inputs[1:3])
    if begin is None or size is None or len(begin) != len(size):
        return False
    to_the_end = graph.version == "tflite-runtime"  # LiteRT leaves a size of -1 to the built-in kernels
    if not all(number > 0 or (to_the_end and number == -1) for number in size):
        return False
    return all(_number(tensor) for tensor in _ends(graph, node))


def _strided_slice(graph: Graph, node: Node) -> bool:
    if any(node.option(mask) for mask in ("ellipsisMask", "newAxisMask", "shrinkAxisMask")):
        return False
    x, y = _ends(graph, node)
    begin, end, strides = (graph.content(index) for index in node.inputs[1:4])
    if begin is None or end is None or strides is None or any(stride != 1 for stride in strides):
        return False
    return len(begin) == len(end) == len(strides) == len(x.shape) and _number(x) and _number(y)


def _split(graph: Graph, node: Node) -> bool:
    known = graph.content(node.inputs[0])
    tensors = [graph.tensors[index] for index in (node.inputs[1], *node.outputs)]
    return known is not None and 2 <= len(node.outputs) <= 4 and all(_number(tensor) for tensor in tensors)


def _concatenate(graph: Graph, node: Node) -> bool:
    inputs, y = [graph.tensors[index] for index in node.inputs], graph.tensors[node.outputs[0]]
    if not all(_number(tensor) for tensor in (*inputs, y)):
        return False
    if y.type == UINT8 and any((x.scales, x.zero_points) != (y.scales, y.zero_points) for x in inputs):
        return False
    return all(node.option("axis") < len(x.shape) for x in inputs)


def _transpose(graph: Graph, node: Node) -> bool:
    x, _ = _ends(graph, node)
    return _number(x) and _shaped(x, range(1, MAX_RANK + 1)) and graph.tensors[node.inputs[1]].is_constant


def _softmax(graph: Graph, node: Node) -> bool:
    return node.option("beta", 0.0) == 1.0 and all(_float(tensor) for tensor in _ends(graph, node))


def _blocks(graph: Graph, node: Node) -> bool:
    x, y = _ends(graph, node)
    block = node.option("blockSize")
    if node.name == "SPACE_TO_DEPTH" and (len(x.shape) != 4 or block < 1 or any(n % block for n in x.shape[1:3])):
        return False
    return _number(x) and _number(y) and block > 1


def _rules(inputs: range, accepts: Callable[[Graph, Node], bool], *names: str) -> dict[str, Rule]:
    return {name: Rule(inputs, accepts) for name in names}


_ONE, _TWO = range(1, 2), range(2, 3)
RULES: dict[str, Rule] = {
    "CONV_2D": Rule(range(3, 4), _convolution(0)),
    "DEPTHWISE_CONV_2D": Rule(range(3, 4), _convolution(3)),
    "TRANSPOSE_CONV": Rule(range(3, 5), _transposed_convolution),
    "FULLY_CONNECTED": Rule(range(2, 4), _matrix),
    "BATCH_MATMUL": Rule(_TWO, _batch_matrix),
    **_rules(_ONE, _unary(_float), "ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "NEG", "RELU"),
    **_rules(_ONE, _unary(_float), "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE"),
    **_rules(_ONE, _unary(_number), "LOGISTIC", "TANH"),
    "ELU": Rule(_ONE, _unary(_elu)),
    "LEAKY_RELU": Rule(_ONE, _leaky),
    "QUANTIZE": Rule(_ONE, _quantise),
    "DEQUANTIZE": Rule(_ONE, _dequantise),
    **_rules(_TWO, _binary((1 / 1024, 256)), "ADD", "SUB"),
    "MUL": Rule(_TWO, _binary((1 / 65536, 256), product=True)),
    **_rules(_TWO, _binary(), "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"),
    "PRELU": Rule(_TWO, _prelu),
    "AVERAGE_POOL_2D": Rule(_ONE, _pool(_float)),
    "MAX_POOL_2D": Rule(_ONE, _pool(_number)),
    **_rules(_TWO, _reduce, "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"),
    "PAD": Rule(_TWO, _pad),
    "RESHAPE": Rule(range(1, 3), _reshape),
    "RESIZE_BILINEAR": Rule(_TWO, _resize),
    "SLICE": Rule(range(3, 4), _slice),
    "STRIDED_SLICE": Rule(range(4, 5), _strided_slice),
    "SPLIT": Rule(_TWO, _split),
    "CONCATENATION": Rule(range(2, 6), _concatenate),
    "TRANSPOSE": Rule(_TWO, _transpose),
    "SOFTMAX": Rule(_ONE, _softmax),
    **_rules(_ONE, _blocks, "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
}
_LATER = ("BATCH_MATMUL", "COS", "EXP", "GELU", "LOG", "REDUCE_MAX", "REDUCE_MIN", "RSQRT", "SIN")
FLOAT_RULES: dict[str, Rule] = {
    **{name: rule for name, rule in RULES.items() if name not in _LATER},
    **_rules(_TWO, _spatial_reduction, "MEAN", "SUM"),
    "CONCATENATION": Rule(range(2, 5), _concatenate),
    "PRELU": Rule(_TWO, _prelu_per_channel),
}
