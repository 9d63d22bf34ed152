"""Compute of an ONNX file: shapes are inferred, kernels and parameters followed by name, bodies counted as they run."""

from __future__ import annotations

import math
from collections import ChainMap, defaultdict
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, helper

from edgeks.audit.compute import Axis, Compute, Counted, LayerCost, ReadConstant, same_padding, sum_up, without_padding
from edgeks.audit.onnx.kernels import GRAPH_OUTPUT, TRANSPARENT_OPS, Reader, kernels_in, readers_of
from edgeks.audit.onnx.pointwise import POINTWISE
from edgeks.audit.onnx.shapes import Activations, infer_activations
from edgeks.audit.timeline import Activation
from edgeks.model_files.onnx_file import BITS, Constant, ModelFile, first_output, node_label, subgraphs
from edgeks.target import Precision

# Op → its inputs with the data and the kernel. Kernels are O×I×h×w, those of ConvTranspose I×O×h×w.
CONVOLUTIONS = {
    "Conv": (0, 1), "FusedConv": (0, 1), "NhwcFusedConv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3),
    "ConvTranspose": (0, 1),
}  # fmt: skip
MATRIX_PRODUCTS = {
    "Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3), "MatMul": (0, 1), "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1), "DynamicQuantizeMatMul": (0, 1), "QLinearMatMul": (0, 3),
}  # fmt: skip
RECURRENT = frozenset({"RNN", "LSTM", "GRU"})
PRODUCTS = CONVOLUTIONS | MATRIX_PRODUCTS | dict.fromkeys(RECURRENT, (0, 1))
# They compute in integers whatever is around them.
INTEGER_OPS = frozenset(
    {"ConvInteger", "QLinearConv", "QGemm", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul", "QLinearMatMul"}
)  # fmt: skip
# Ops that multiply, and that are not counted: a note names them.
UNCOUNTED = frozenset(
    {"Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "DeformConv", "DFT", "Det"}
    | {"MatMulNBits", "DynamicQuantizeLSTM", "BiasSplitGelu", "MoE", "EPContext"}
)

# Op → the inputs that are parameters; other inputs of these are scales, zero points, statistics, limits, sizes.
PARAMETER_INPUTS: dict[str, frozenset[int]] = {
    op: frozenset(inputs)
    for op, inputs in {
        "Conv": (1, 2), "FusedConv": (1, 2), "NhwcFusedConv": (1, 2), "ConvInteger": (1,), "QLinearConv": (3, 8),
        "ConvTranspose": (1, 2), "DeformConv": (1, 3),
        "Gemm": (0, 1, 2), "FusedGemm": (0, 1, 2), "QGemm": (0, 3, 6), "MatMul": (0, 1), "FusedMatMul": (0, 1),
        "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (1, 6), "DynamicQuantizeMatMul": (1, 4),
        "QLinearMatMul": (0, 3), "RNN": (1, 2, 3), "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3),
        "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
        "GroupNormalization": (1, 2), "PRelu": (1,), "QLinearAdd": (0, 3), "QLinearMul": (0, 3),
        "QuantizeLinear": (), "DequantizeLinear": (), "DynamicQuantizeLinear": (), "Clip": (), "Resize": (),
        "Upsample": (), "Pad": (), "Pow": (), "Range": (), "OneHot": (), "Dropout": (), "NonMaxSuppression": (),
        GRAPH_OUTPUT: (),
    }.items()
}  # fmt: skip
# These count with one element, too; for the others that is a number of a formula.
NORMALISATIONS = frozenset(op for op in PARAMETER_INPUTS if op.endswith("Normalization"))
NUMBERS = frozenset({"bool", "int64", "string", "uint64", "int32", "uint32"})
LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND"})
ELEMENTWISE = POINTWISE | NORMALISATIONS | {"Softmax", "QLinearSoftmax"}
CLAMPS = frozenset({"Relu", "Clip"})
ATTRIBUTES = frozenset(
    {"strides", "dilations", "pads", "auto_pad", "channels_last", "transA", "transB", "transBatchA"}
    | {"num_scan_inputs", "scan_input_axes"}
)
HALVES = frozenset({"float16", "bfloat16"})


def measure_compute(
    model: ModelFile,
    activations: Activations | None = None,
    readers: dict[Constant, tuple[Reader, ...]] | None = None,
) -> Compute:
    """ModelFile → Compute. A symbolic first dimension of an input is the batch, and is taken as 1.

    The body of a Loop counts as often as its constant trip count says, that of a Scan once per slice; of the branches
    of an If, the one with the most MACs does, or the one that its constant condition takes. A trip count that the file
    does not hold is taken as 1, and noted. `activations` and `readers`: the model's, and those of its constants, where
    they are known already.
    """
    activations = activations or infer_activations(model)
    walk = _Walk(model, activations.by_graph, readers_of(model) if readers is None else readers)
    layers = walk.graph(model.proto.graph, "", ChainMap(), 1)
    return sum_up(layers.counted, layers.elementwise, (*activations.notes, *walk.unknown))


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a name stands for: a constant, or an activation, whose shape may not be known.

    `fixed`: constants alone compute it. `codes` is set behind a DequantizeLinear.
    """

    shape: tuple[int, ...] | None
    dtype: str
    size_bytes: int
    fixed: bool = False
    constant: Constant | None = None
    codes: _Tensor | None = None


_UNKNOWN = _Tensor(None, "", 0)


@dataclass(frozen=True, slots=True)
class _Layers:
    """What was counted in one graph."""

    counted: list[Counted]
    elementwise: int

    @property
    def macs(self) -> int:
        return sum(layer.cost.macs for layer in self.counted)


class _Walk:
    """One pass in node order through the graph and, where they are, its bodies."""

    def __init__(
        self,
        model: ModelFile,
        activations: dict[str, dict[str, Activation]],
        readers: dict[Constant, tuple[Reader, ...]],
    ) -> None:
        self.unknown: list[str] = []
        self._model, self._activations = model, activations
        self._reads: dict[tuple[str, str], list[tuple[Constant, Reader]]] = defaultdict(list)
        for constant, found in readers.items():
            for reader in found:
                self._reads[reader.graph_path, reader.output].append((constant, reader))

    def graph(self, graph: GraphProto, path: str, scope: ChainMap[str, _Tensor], runs: int) -> _Layers:
        """Count the nodes of one graph, which runs `runs` times."""
        constants, sizes = self._model.constants[path], self._activations.get(path, {})
        for value in graph.input:
            scope[value.name] = _activation(sizes, value.name)
        for name, constant in constants.items():
            scope[name] = _Tensor(constant.shape, constant.dtype, _size_bytes(constant), True, constant)
        readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for node in graph.node:
            for index, name in enumerate(node.input):
                readers[name].append((node, index))
        counted: list[Counted] = []
        elementwise = 0
        for node in graph.node:
            if node.op_type == "Constant" or not node.output:
                continue
            inputs = [scope.get(name, _UNKNOWN) for name in node.input]
            fixed = bool(node.input) and all(scope.get(name, _UNKNOWN).fixed for name in node.input if name)
            for name in filter(None, node.output):
                known = _activation(sizes, name)
                codes = inputs[0] if node.op_type == "DequantizeLinear" else None
                scope[name] = _Tensor(known.shape, known.dtype, known.size_bytes, fixed, None, codes)
            bodies = list(subgraphs(node, path))
            if bodies:
                inner = self._bodies(node, bodies, scope, runs)
                counted += inner.counted
                elementwise += inner.elementwise
            elif not fixed:
                layer = self._layer(node, path, inputs, scope[first_output(node)], readers, runs)
                counted += [layer] if layer else []
                elements = math.prod(scope[first_output(node)].shape or (0,))
                elementwise += elements * runs if node.op_type in ELEMENTWISE else 0
        return _Layers(counted, elementwise)

    def _layer(
        self,
        node: NodeProto,
        path: str,
        inputs: list[_Tensor],
        output: _Tensor,
        readers: dict[str, list[tuple[NodeProto, int]]],
        runs: int,
    ) -> Counted | None:
        name = node_label(node)
        reads = self._reads.get((path, first_output(node)), [])
        constants = [
            ReadConstant(constant, math.prod(constant.shape), output.size_bytes, True)
            if node.op_type in LOOKUPS
            else ReadConstant(
                constant, math.prod(constant.shape), _size_bytes(constant), slices=kernels_in(constant, [reader])
            )
            for constant, reader in reads
            if _is_parameter(constant, reader, readers, node)
        ]
        if node.op_type in UNCOUNTED:
            self.unknown.append(f"{node.op_type} {name!r}: edgeks does not count its multiply-accumulates")
        if node.op_type not in PRODUCTS and not constants:
            return None
        macs = least = 0
        if node.op_type in PRODUCTS:
            products = _products(node, inputs, output)
            if products is None:
                self.unknown.append(f"{node.op_type} {name!r}: the file does not say its shapes; counted as 0")
                output = _UNKNOWN
            else:
                macs, least = products
        moved = [tensor.codes or tensor for tensor in inputs if not tensor.fixed]
        written = _written(first_output(node), output, readers, self._activations.get(path, {}))
        kernel = next((constant.name for constant, reader in reads if reader.weight is not None), None)
        cost = LayerCost(
            name=name,
            op_type=node.op_type,
            output_shape=output.shape,
            runs=runs,
            macs=macs * runs,
            least_macs=least * runs,
            parameters=sum(constant.elements for constant in constants),
            kernel=kernel,
            weight_bytes=sum(constant.read_bytes * runs // constant.slices for constant in constants),
            input_bytes=sum(tensor.size_bytes for tensor in moved) * runs if output.shape is not None else 0,
            output_bytes=written.size_bytes * runs if output.shape is not None else 0,
            precision=_precision(node, inputs),
        )
        return Counted(cost, tuple(constants))

    def _bodies(
        self, node: NodeProto, bodies: list[tuple[str, GraphProto]], scope: ChainMap[str, _Tensor], runs: int
    ) -> _Layers:
        if node.op_type == "If":
            return self._branches(node, bodies, scope, runs)
        trips = 1
        if node.op_type == "Loop":
            trips = self._loop_trips(node, bodies[0][1], scope)
        elif node.op_type == "Scan":
            trips = self._scan_trips(node, scope)
        found = [self.graph(body, path, scope.new_child(), runs * trips) for path, body in bodies]
        return _Layers([layer for inner in found for layer in inner.counted], sum(inner.elementwise for inner in found))

    def _branches(
        self, node: NodeProto, bodies: list[tuple[str, GraphProto]], scope: ChainMap[str, _Tensor], runs: int
    ) -> _Layers:
        found = {path.rpartition(".")[2]: self.graph(body, path, scope.new_child(), runs) for path, body in bodies}
        condition = _number(scope.get(node.input[0], _UNKNOWN)) if node.input else None
        if condition is not None:
            return found.get("then_branch" if condition else "else_branch", _Layers([], 0))
        if len({branch.macs for branch in found.values()}) > 1:
            self.unknown.append(f"If {node_label(node)!r}: the branch with the most MACs is counted")
        return max(found.values(), key=lambda branch: branch.macs)

    def _loop_trips(self, node: NodeProto, body: GraphProto, scope: ChainMap[str, _Tensor]) -> int:
        """The trip count, where it is a constant and nothing in the body ends the loop before."""
        where = f"Loop {node_label(node)!r}"
        trips = _number(scope.get(node.input[0], _UNKNOWN)) if node.input else None
        if trips is None:
            self.unknown.append(f"{where}: its trip count is not in the file; counted once")
            return 1
        condition = body.output[0].name if body.output else ""
        kept = {body.input[1].name} if len(body.input) > 1 else set()
        for inner in body.node:
            if (inner.op_type == "Identity" and kept.issuperset(inner.input)) or inner.op_type == "Constant":
                kept.update(inner.output)
        kept |= {tensor.name for tensor in body.initializer}
        kept |= {name for name, tensor in scope.items() if tensor.fixed}
        if condition not in kept:
            self.unknown.append(f"{where}: it may end before its {trips} trips; counted with all of them")
        return max(0, trips)

    def _scan_trips(self, node: NodeProto, scope: ChainMap[str, _Tensor]) -> int:
        flags = _attributes(node)
        count = int(flags.get("num_scan_inputs", 1))
        axis = next(iter(flags.get("scan_input_axes", ())), 0)
        scanned = scope.get(node.input[-count], _UNKNOWN) if 0 < count <= len(node.input) else _UNKNOWN
        if scanned.shape is None or not -len(scanned.shape) <= axis < len(scanned.shape):
            self.unknown.append(f"Scan {node_label(node)!r}: its length is not in the file; counted once")
            return 1
        return scanned.shape[axis]


def _products(node: NodeProto, inputs: list[_Tensor], output: _Tensor) -> tuple[int, int] | None:
    """MACs of one run, and those without padding; None where a shape is not known."""
    indices = PRODUCTS[node.op_type]
    if max(indices) >= len(inputs):
        return None
    data, kernel = (inputs[index].shape for index in indices)
    flags = _attributes(node)
    if node.op_type in RECURRENT:
        recurrent = inputs[2].shape if len(inputs) > 2 else None
        if data is None or kernel is None or recurrent is None:
            return None
        steps = math.prod(data[:-1]) * (math.prod(kernel) + math.prod(recurrent))
        return steps, steps
    result = output.shape
    if node.op_type in MATRIX_PRODUCTS:
        length = _sum_length(data, kernel, flags)
        macs = None if result is None or length is None else math.prod(result) * length
        return None if macs is None else (macs, macs)
    if data is None or kernel is None or result is None or not len(data) == len(kernel) == len(result) > 2:
        return None
    if node.op_type == "ConvTranspose":
        macs = math.prod(data) * math.prod(kernel[1:])
        return macs, without_padding(macs, _axes(flags, result, data, kernel))
    macs = math.prod(result) * math.prod(kernel[1:])
    if flags.get("channels_last") or node.op_type.startswith("Nhwc"):
        data, result = ((shape[0], shape[-1], *shape[1:-1]) for shape in (data, result))
    return macs, without_padding(macs, _axes(flags, data, result, kernel))


def _axes(
    flags: dict[str, Any], padded: tuple[int, ...], positions: tuple[int, ...], kernel: tuple[int, ...]
) -> list[Axis]:
    """Spatial axes of N×C×h×w… shapes; an attribute that does not fit is taken as absent."""
    rank = len(kernel) - 2
    strides, dilations = (_per_axis(flags.get(name), rank) for name in ("strides", "dilations"))
    pads = list(flags.get("pads") or ())
    pads = pads[:rank] if len(pads) == 2 * rank else [0] * rank
    auto = flags.get("auto_pad", b"NOTSET").decode(errors="replace")
    axes = []
    for axis in range(rank):
        sizes = padded[2 + axis], positions[2 + axis], kernel[2 + axis], strides[axis], dilations[axis]
        pad = same_padding(*sizes, upper=auto == "SAME_UPPER") if auto.startswith("SAME") else pads[axis]
        axes.append(Axis(*sizes, pad))
    return axes


def _per_axis(values: Any, rank: int) -> list[int]:
    return list(values) if values and len(values) == rank else [1] * rank


def _sum_length(first: tuple[int, ...] | None, second: tuple[int, ...] | None, flags: dict[str, Any]) -> int | None:
    """How many products a matrix product adds up, told by the shape of either operand."""
    if first:
        turned = flags.get("transA") and len(first) > 1
        return first[0 if flags.get("transBatchA") else -2] if turned else first[-1]
    if second:
        return second[-1 if flags.get("transB") or len(second) == 1 else -2]
    return None


def _is_parameter(
    constant: Constant, reader: Reader, readers: dict[str, list[tuple[NodeProto, int]]], node: NodeProto
) -> bool:
    if node.op_type in LOOKUPS:
        # A rolled network looks up the bias of each trip, and scales as well.
        uses = [(user.op_type, index) for user, index in readers[first_output(node)]]
        return reader.index == 0 and len(constant.shape) > 0 and any(_role(constant, *use) for use in uses)
    return _role(constant, node.op_type, reader.index)


def _role(constant: Constant, op_type: str, index: int) -> bool:
    """Whether input `index` of such an op takes this constant as parameters."""
    elements = math.prod(constant.shape)
    if op_type in PARAMETER_INPUTS:
        alone = op_type in PRODUCTS or op_type in NORMALISATIONS
        return index in PARAMETER_INPUTS[op_type] and (elements > 1 or alone)
    is_runtime_op = op_type.startswith("QLinear")
    return elements > 1 and constant.dtype not in NUMBERS and not is_runtime_op and op_type not in TRANSPARENT_OPS


def _precision(node: NodeProto, inputs: list[_Tensor]) -> Precision:
    """The fastest arithmetic that the layer's operands allow."""
    indices = PRODUCTS.get(node.op_type, (0, 0))
    operands = [inputs[index] for index in indices if index < len(inputs)]
    codes = [tensor.codes or tensor for tensor in operands]
    if node.op_type in INTEGER_OPS or (codes and all(_bits(tensor.dtype) <= 8 for tensor in codes)):
        return "int8"
    return "fp16" if any(tensor.dtype in HALVES for tensor in operands) else "fp32"


def _bits(dtype: str) -> int:
    return BITS.get(dtype.upper(), 32)


def _written(
    name: str, result: _Tensor, readers: dict[str, list[tuple[NodeProto, int]]], sizes: dict[str, Activation]
) -> _Tensor:
    """What an op writes: the codes, where only a QuantizeLinear reads the result, perhaps behind clamps."""
    while len(readers[name]) == 1:
        (reader, _) = readers[name][0]
        name = first_output(reader)
        if reader.op_type == "QuantizeLinear":
            return _activation(sizes, name)
        if reader.op_type not in CLAMPS:
            break
    return result


def _number(tensor: _Tensor) -> int | None:
    """A whole number or a truth value that the file holds as a constant of one element."""
    constant = tensor.constant
    if constant is None or math.prod(constant.shape) != 1 or constant.numpy_dtype.kind not in "iub":
        return None
    return int(constant.array().reshape(-1)[0])


def _activation(sizes: dict[str, Activation], name: str) -> _Tensor:
    found = sizes.get(name)
    return _UNKNOWN if found is None else _Tensor(found.shape, found.dtype, found.size_bytes)


def _size_bytes(constant: Constant) -> int:
    kind = TensorProto.DataType.Name(constant.tensor.data_type)
    return -(-math.prod(constant.shape) * BITS.get(kind, 8) // 8)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attr.name: helper.get_attribute_value(attr) for attr in node.attribute if attr.name in ATTRIBUTES}
