"""Integer activations where the integer runtime computes in integers, and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import KernelRead, array, kernel_read, kernel_reads, required, sole_use
from edgeks.graph.marks import MARKS, marks
from edgeks.graph.rewrite import drop_unused_initializers, insert_after_value, new_initializer
from edgeks.interface import LIMITS
from edgeks.target import Format
from edgeks.wording import counted

# A dead activation has no range; its scale still sets the step of the next bias, so it must not be coarse.
EMPTY_RANGE_SCALE = 1e-3

NUMPY_TYPE: dict[str, type[np.integer]] = {"int8": np.int8, "uint8": np.uint8}

# Ops with an integer kernel that takes inputs of any scales and requantises to a scale of its own.
REQUANTISING: dict[Format, set[str]] = {
    "onnx": {"Add", "Mul", "GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Concat"},
    "tflite": {"Add", "Sub", "Mul", "GlobalAveragePool", "ReduceMean", "Sigmoid", "Tanh", "LeakyRelu", "Concat"},
}
# Ops that move or pick values: the outputs keep the scale of input 0.
SCALE_KEEPING = {
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "ReduceMax", "Slice", "Split", "Gather",
    "Pad", "Resize", "DepthToSpace", "SpaceToDepth", "Tile", "Expand", "Identity",
}  # fmt: skip
MOVING: dict[Format, set[str]] = {"onnx": SCALE_KEEPING, "tflite": SCALE_KEEPING | {"AveragePool"}}
# Those that a runtime computes in integers only where they read and write integers themselves.
MOVED_AS_CODES = {"Pad", "DepthToSpace", "SpaceToDepth", "Tile", "Expand"}
# Activations that a runtime merges into the requantisation of the op before.
FUSED = {"Relu", "Clip"}
# Integer Gemm and MatMul may hand out float results: the classifier's logits are not requantised.
FLOAT_OUTPUT = {"Gemm", "MatMul"}


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest value that calibration saw."""

    low: float
    high: float

    def parameters(self, integer_type: Literal["int8", "uint8"]) -> tuple[np.float32, int]:
        """Scale and zero point, asymmetric over the whole integer range, zero exactly representable."""
        q_min, q_max = LIMITS[integer_type]
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        width = high - low
        scale = np.float32(width / (q_max - q_min)) if width > 1e-30 else np.float32(EMPTY_RANGE_SCALE)
        zero_point = int(np.clip(np.rint(q_min - low / float(scale)), q_min, q_max))
        return scale, zero_point


@dataclass(slots=True)
class Placement:
    """Which Values are quantised, and which inputs of which nodes read the quantised form.

    `tied` maps a Value to the Value whose scale it must take. `integer` Values are produced by integer ops, so that
    every reader gets the quantised form; the others are produced in float, and float readers keep the float.
    """

    ranged: list[ir.Value] = field(default_factory=list)
    tied: dict[ir.Value, ir.Value] = field(default_factory=dict)
    integer: set[ir.Value] = field(default_factory=set)
    reads: list[tuple[ir.Node, int]] = field(default_factory=list)

    @property
    def quantised(self) -> list[ir.Value]:
        """All Values to be given a QuantizeLinear and a DequantizeLinear."""
        return [*self.ranged, *self.tied]

    def source(self, value: ir.Value | None) -> ir.Value | None:
        """The quantised Value whose scale `value` has; None where it is not quantised."""
        while value in self.tied:
            value = self.tied[value]
        return value if value in self.ranged else None

    def marks_on(self, value: ir.Value) -> list[int]:
        """Marks on `value`, or else on the Values that take their scale from it (a mean ahead of its flattening)."""
        found = list(marks(value))
        for tied, source in self.tied.items():
            if source is value:
                found += self.marks_on(tied)
        return found


def place_activations(model: ir.Model, file_format: Format = "onnx") -> Placement:
    """Decide, in graph order, which activations become integers.

    A layer with a quantised kernel takes and makes integers. An elementwise op or a pooling computes in integers when
    all its inputs are made by integer ops (an SE-ResNet's residual), and in float otherwise (a ConvMixer's, after GELU
    and BN): no Value is quantised only to be dequantised. What hands the network's input to a layer that takes integers
    moves its codes: ShardNet's image, padded with zeros to n channels. A stem whose output goes to float ops keeps
    float activations, with an int8 kernel: BN after GELU amplifies its output's rounding more than that of any other
    layer (docs/adr/0005), and it is the cheapest layer of its net. LiteRT's integer layers give integers only, ONNX
    Runtime's last Gemm gives float.
    """
    keeping = MOVING[file_format]
    placement = Placement()
    marked: dict[ir.Value, None] = {}
    kernels = {
        read.node
        for read in kernel_reads(model)
        if read.dequantize is not None and not _is_float_stem(model, read, file_format)
    }
    for node in model.graph:
        if node in kernels:
            inputs = [0]
        elif has_integer_kernel(node, file_format):
            inputs = [0] if node.op_type in keeping else list(range(len(node.inputs)))
            from_integers = all(node.inputs[i] in placement.integer for i in inputs)
            if not from_integers and not (node.op_type in keeping and _moves_input_to(kernels, model, node)):
                continue
        else:
            continue
        for index in inputs:
            placement.reads.append((node, index))
            marked.setdefault(required(node.inputs[index]))
        result = fused_output(node, keeping)
        if file_format == "onnx" and node.op_type in FLOAT_OUTPUT and _leads_to_output(result):
            continue
        if node.op_type in keeping:
            parts = node.outputs if node.op_type == "Split" else [result]
            placement.integer.update(parts)
            placement.tied.update(dict.fromkeys(parts, required(node.inputs[0])))
        else:
            placement.integer.add(result)
            marked.setdefault(result)
    placement.ranged = [value for value in marked if value not in placement.tied]
    return placement


def _is_float_stem(model: ir.Model, read: KernelRead, file_format: Format) -> bool:
    """A layer that reads the graph input, and whose output is only read by float ops."""
    if not is_network_input(model, required(read.node.inputs[0])):
        return False
    uses = read.node.outputs[0].uses()
    return bool(uses) and not any(
        node.op_type in FUSED or has_integer_kernel(node, file_format) or _reads_codes(node) for node, _ in uses
    )


def _moves_input_to(kernels: Collection[ir.Node], model: ir.Model, node: ir.Node) -> bool:
    """Whether `node` hands the network's input to one of `kernels`."""
    handed = (use.node for output in node.outputs for use in output.uses())
    return is_network_input(model, required(node.inputs[0])) and any(reader in kernels for reader in handed)


def has_integer_kernel(node: ir.Node, file_format: Format = "onnx") -> bool:
    """Whether the runtime of `file_format` computes `node`, which reads no kernel, in integers."""
    if node.domain != "" or node.op_type not in REQUANTISING[file_format] | MOVING[file_format]:
        return False
    if node.op_type == "Resize":  # the other modes make values that lie between
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        return value is None or (value.is_initializer() and not array(value).any())  # 0 is exact in every scale
    return True


def _reads_codes(node: ir.Node) -> bool:
    """Whether `node` is a layer with a quantised kernel."""
    read = kernel_read(node)
    return read is not None and read.dequantize is not None


def is_network_input(model: ir.Model, value: ir.Value) -> bool:
    """The graph input, or what raw_pixels makes of it."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("DequantizeLinear", "Mul", "Add"):
        value = required(producer.inputs[0])
        if not all(constant is not None and constant.is_initializer() for constant in producer.inputs[1:]):
            return False
        producer = value.producer()
    return value in model.graph.inputs


def fused_output(node: ir.Node, keeping: Collection[str] = frozenset(SCALE_KEEPING)) -> ir.Value:
    """The Value that leaves `node` together with the Relu or Clip that a runtime merges into it."""
    result = node.outputs[0]
    use = None if node.op_type in keeping else sole_use(result)
    return use[0].outputs[0] if use and use[0].op_type in FUSED and use[1] == 0 else result


def quantize_activations(
    model: ir.Model, placement: Placement, ranges: Mapping[str, Range], integer_type: Literal["int8", "uint8"]
) -> str:
    """v → DequantizeLinear(QuantizeLinear(v)) for every placed Value."""
    zero_points: dict[int, ir.Value] = {}
    parameters: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for value in placement.ranged:
        scale, zero_point = ranges[str(value.name)].parameters(integer_type)
        if zero_point not in zero_points:
            content = np.array(zero_point, NUMPY_TYPE[integer_type])
            zero_points[zero_point] = new_initializer(model, f"zero_point_{zero_point}", content)
        parameters[value] = (new_initializer(model, f"{value.name}_scale", np.array(scale)), zero_points[zero_point])
    for value, source in placement.tied.items():
        parameters[value] = parameters[source]

    for value in placement.quantised:
        readers = [(node, i) for node, i in placement.reads if node.inputs[i] is value]
        codes = _insert_pair(model, value, parameters[value], readers, everywhere=value in placement.integer)
        if value not in placement.tied:
            codes.meta[MARKS] = placement.marks_on(value)
    drop_unused_initializers(model)
    return f"{counted(len(placement.quantised), 'activation')} quantised to {integer_type}"


def _insert_pair(
    model: ir.Model,
    value: ir.Value,
    parameters: tuple[ir.Value, ir.Value],
    readers: list[tuple[ir.Node, int]],
    everywhere: bool,
) -> ir.Value:
    """The two nodes behind `value`; gives back its codes."""
    name = str(value.name)
    is_output = value.is_graph_output()
    uses = list(value.uses()) if everywhere else readers
    quantize = ir.node("QuantizeLinear", [value, *parameters])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters])
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{name}_q", f"{name}_dq"
    dequantize.outputs[0].shape, dequantize.outputs[0].dtype = value.shape, ir.DataType.FLOAT
    insert_after_value(model, value, [quantize, dequantize])
    for node, index in uses:
        node.replace_input_with(index, dequantize.outputs[0])
    if is_output and everywhere:
        position = model.graph.outputs.index(value)
        model.graph.outputs[position] = dequantize.outputs[0]
        value.name, dequantize.outputs[0].name = f"{name}_float", name
    return quantize.outputs[0]


def _leads_to_output(value: ir.Value) -> bool:
    """Whether `value` is a graph output, directly or through ops that only move values."""
    if value.is_graph_output():
        return True
    uses = value.uses()
    return bool(uses) and all(n.op_type in SCALE_KEEPING and _leads_to_output(n.outputs[0]) for n, _ in uses)
