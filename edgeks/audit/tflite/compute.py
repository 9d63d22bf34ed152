"""Compute of a .tflite file, in the terms of `edgeks.audit.compute`: a buffer is a constant, an operator is a node."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.compute import Axis, Compute, Counted, LayerCost, ReadConstant, same_padding, sum_up, without_padding
from edgeks.audit.tflite.pointwise import POINTWISE
from edgeks.model_files.tflite_file import OPERATOR_NAMES, is_constant, operator_code, tensor_name, whole_numbers
from edgeks.model_files.tflite_loops import while_trips
from edgeks.target import Precision

# Operator → its inputs with the data and the kernel. The shapes are in `_products`.
PRODUCTS = {
    "CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "TRANSPOSE_CONV": (2, 1), "FULLY_CONNECTED": (0, 1),
    "BATCH_MATMUL": (0, 1), "CONV_3D": (0, 1), "CONV_3D_TRANSPOSE": (2, 1),
}  # fmt: skip
# Operators that multiply, and that are not counted: a note names them.
UNCOUNTED = frozenset(
    {"LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "RFFT2D", "LSH_PROJECTION"}
    | {"BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL"}
    | {"CUSTOM", "DELEGATE", "STABLEHLO_CUSTOM_CALL"}
)
# Operator → the inputs that are parameters.
PARAMETER_INPUTS: dict[str, tuple[int, ...]] = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "CONV_3D": (1, 2),
    "TRANSPOSE_CONV": (1, 3), "CONV_3D_TRANSPOSE": (1, 3), "BATCH_MATMUL": (0, 1), "PRELU": (1,),
    "ADD": (0, 1), "SUB": (0, 1), "MUL": (0, 1), "DIV": (0, 1), "SQUARED_DIFFERENCE": (0, 1),
    "GATHER": (0,), "EMBEDDING_LOOKUP": (1,), "GATHER_ND": (0,),
}  # fmt: skip
LOOKUPS = frozenset({"GATHER", "GATHER_ND", "EMBEDDING_LOOKUP"})
TRANSPARENT = frozenset({"DEQUANTIZE", "DENSIFY", "TRANSPOSE", "RESHAPE", "CAST"})
ELEMENTWISE = POINTWISE | {"SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"}
TYPE = schema.TensorType
BITS = {
    TYPE.FLOAT64: 64, TYPE.INT64: 64, TYPE.UINT64: 64, TYPE.COMPLEX64: 64, TYPE.COMPLEX128: 128, TYPE.FLOAT16: 16,
    TYPE.INT16: 16, TYPE.UINT16: 16, TYPE.BFLOAT16: 16, TYPE.INT8: 8, TYPE.UINT8: 8, TYPE.BOOL: 8, TYPE.INT4: 4,
    TYPE.INT2: 2,
}  # fmt: skip
CODES = frozenset({TYPE.INT8, TYPE.UINT8, TYPE.INT4, TYPE.INT2})
WEIGHTS = CODES | {TYPE.FLOAT32, TYPE.FLOAT16, TYPE.BFLOAT16, TYPE.FLOAT64, TYPE.INT16}
MAX_DEPTH = 64


def measure_tflite_compute(model: schema.ModelT) -> Compute:
    """Objects of a .tflite file → Compute of its first graph and of the graphs that it calls.

    The body of a WHILE counts as often as it runs where its condition is `i < constant` and the body adds a constant to
    i, which starts at a constant; else once, and a note says so. Of the branches of an IF the one with the most MACs
    counts. Graphs that only other signatures run do not.
    """
    graphs = _Graphs(model)
    graphs.macs(0, 0)
    counted: list[Counted] = []
    elementwise = 0
    for index, runs in graphs.runs().items():
        graph = graphs.counted[index]
        counted += [_times(layer, runs) for layer in graph.layers]
        elementwise += graph.elementwise * runs
    return sum_up(counted, elementwise, graphs.unknown)


@dataclass(slots=True)
class _Graph:
    """Layers of one run of a graph, and the graphs that it runs: number → how often."""

    layers: list[Counted]
    elementwise: int
    calls: Counter[int]
    macs: int = 0


class _Graphs:
    """Every graph that the first one reaches is counted once; then how often each runs is worked out."""

    def __init__(self, model: schema.ModelT) -> None:
        self.counted: dict[int, _Graph] = {}
        self.unknown: list[str] = []
        self._model = model
        self._open: set[int] = set()

    def macs(self, index: int, depth: int) -> int:
        """MACs of one run of a graph and of what it calls."""
        if index in self.counted:
            return self.counted[index].macs
        if not 0 <= index < len(self._model.subgraphs) or index in self._open or depth > MAX_DEPTH:
            self.unknown.append(f"graph {index} is missing, calls itself, or is nested deeper than {MAX_DEPTH}")
            return 0
        self._open.add(index)
        found = _count_graph(self._model, self._model.subgraphs[index], self.unknown)
        for operator in self._model.subgraphs[index].operators or []:
            self._add_calls(found, index, operator, depth)
        self._open.discard(index)
        called = sum(times * self.counted[callee].macs for callee, times in found.calls.items())
        found.macs = sum(layer.cost.macs for layer in found.layers) + called
        self.counted[index] = found
        return found.macs

    def runs(self) -> dict[int, int]:
        """Graph → how often it runs in one inference, the first graph first, callers ahead of what they call."""
        runs: Counter[int] = Counter({0: 1})
        for index in reversed(self.counted):  # a graph is entered in `counted` after those that it calls
            for callee, times in self.counted[index].calls.items():
                runs[callee] += times * runs[index]
        return {index: runs[index] for index in reversed(self.counted) if runs[index]}

    def _add_calls(self, caller: _Graph, index: int, operator: schema.OperatorT, depth: int) -> None:
        name, options = _name(self._model, operator), operator.builtinOptions or operator.builtinOptions2
        where = f"{name} → {_output_name(self._model.subgraphs[index], operator)!r}"
        if name == "WHILE" and options is not None:
            trips = while_trips(self._model, self._model.subgraphs[index], operator)
            if trips is None:
                self.unknown.append(f"{where}: its trip count is not in the file; counted once")
            for callee in (int(options.condSubgraphIndex), int(options.bodySubgraphIndex)):
                self._add_call(caller, callee, 1 if trips is None else trips, depth)
        elif name == "IF" and options is not None:
            branches = [int(options.thenSubgraphIndex), int(options.elseSubgraphIndex)]
            costs = [self.macs(branch, depth + 1) for branch in branches]
            if costs[0] != costs[1]:
                self.unknown.append(f"{where}: the branch with the most MACs is counted")
            self._add_call(caller, branches[costs.index(max(costs))], 1, depth)
        elif name == "STABLEHLO_COMPOSITE" and options is not None:
            self._add_call(caller, int(options.decompositionSubgraphIndex), 1, depth)
        elif name in ("CALL", "STABLEHLO_WHILE", "STABLEHLO_CASE"):
            self.unknown.append(f"{where}: edgeks does not count what it calls")

    def _add_call(self, caller: _Graph, callee: int, times: int, depth: int) -> None:
        self.macs(callee, depth + 1)
        if callee in self.counted:
            caller.calls[callee] += times


def _count_graph(model: schema.ModelT, graph: schema.SubGraphT, unknown: list[str]) -> _Graph:
    tensors = graph.tensors
    source = {index: index for index, tensor in enumerate(tensors) if is_constant(model, tensor)}
    fixed = set(source)
    layers: list[Counted] = []
    elementwise = 0
    for operator in graph.operators or []:
        name, inputs, outputs = _name(model, operator), whole_numbers(operator.inputs), whole_numbers(operator.outputs)
        if not outputs or outputs[0] < 0:
            continue
        given = [index for index in inputs if index >= 0]
        if given and fixed.issuperset(given):
            fixed.update(outputs)
            if name in TRANSPARENT and given[0] in source:
                source[outputs[0]] = source[given[0]]
            continue
        label = tensor_name(tensors[outputs[0]])
        if name in UNCOUNTED:
            unknown.append(f"{name} → {label!r}: edgeks does not count its multiply-accumulates")
        elements = _elements(tensors[outputs[0]])
        elementwise += elements or 0 if name in ELEMENTWISE else 0
        constants, kernel = _constants(model, tensors, source, name, inputs, _size_bytes(tensors[outputs[0]]))
        if name not in PRODUCTS and not constants:
            continue
        macs = least = 0
        known = True
        if name in PRODUCTS:
            products = _products(name, operator, tensors, inputs, tensors[outputs[0]])
            if products is None:
                unknown.append(f"{name} → {label!r}: the file does not say its shapes; counted as 0")
                known = False
            else:
                macs, least = products
        read = sum(_size_bytes(tensors[index]) for index in given if index not in fixed)
        cost = LayerCost(
            name=label,
            op_type=name,
            output_shape=tuple(whole_numbers(tensors[outputs[0]].shape)) if known else None,
            runs=1,
            macs=macs,
            least_macs=least,
            parameters=sum(constant.elements for constant in constants),
            kernel=kernel,
            weight_bytes=sum(constant.read_bytes for constant in constants),
            input_bytes=read if known else 0,
            output_bytes=sum(_size_bytes(tensors[index]) for index in outputs if index >= 0) if known else 0,
            precision=_precision(name, tensors, inputs),
        )
        layers.append(Counted(cost, tuple(constants)))
    return _Graph(layers, elementwise, Counter())


def _constants(
    model: schema.ModelT,
    tensors: list[schema.TensorT],
    source: dict[int, int],
    name: str,
    inputs: list[int],
    output_bytes: int,
) -> tuple[list[ReadConstant], str | None]:
    """The parameters that an operator reads, and the name of the kernel among them."""
    found: list[ReadConstant] = []
    kernel = None
    for position in PARAMETER_INPUTS.get(name, ()):
        if position >= len(inputs) or inputs[position] not in source:
            continue
        tensor = tensors[source[inputs[position]]]
        elements = _elements(tensor) or 0
        if name not in PRODUCTS and (elements < 2 or tensor.type not in WEIGHTS):
            continue
        if name in PRODUCTS and position in (PRODUCTS[name][1], 0) and kernel is None:
            kernel = tensor_name(tensor)
        stored = len(model.buffers[tensor.buffer].data)
        looked_up = name in LOOKUPS
        found.append(ReadConstant(int(tensor.buffer), elements, output_bytes if looked_up else stored, looked_up))
    return found, kernel


def _products(
    name: str, operator: schema.OperatorT, tensors: list[schema.TensorT], inputs: list[int], result: schema.TensorT
) -> tuple[int, int] | None:
    """MACs of one run, and those without padding; None where a shape is not known."""
    at = PRODUCTS[name]
    if max(at) >= len(inputs) or any(inputs[index] < 0 for index in at):
        return None
    shapes = [whole_numbers(tensor.shape) for tensor in (*(tensors[inputs[index]] for index in at), result)]
    if any(size < 1 for shape in shapes for size in shape) or not all(shapes):
        return None
    data, kernel, output = shapes
    options = operator.builtinOptions
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        transposed = name == "BATCH_MATMUL" and options is not None and options.adjX and len(data) > 1
        length = kernel[-1] if name == "FULLY_CONNECTED" else data[-2 if transposed else -1]
        return math.prod(output) * length, math.prod(output) * length
    rank = 5 if "3D" in name else 4
    if not len(data) == len(kernel) == len(output) == rank:
        return None
    # Kernels: O×h×w×I, depthwise 1×h×w×O, three-dimensional d×h×w×I×O, transposed ones O×h×w×I and d×h×w×O×I.
    taps = kernel[:3] if rank == 5 else kernel[1:3]
    if "TRANSPOSE" in name:
        macs = math.prod(data) * math.prod(kernel) // kernel[-1]
        return macs, without_padding(macs, _axes(options, output[1:-1], data[1:-1], taps))
    per_output = math.prod(taps) * {"CONV_2D": kernel[3], "CONV_3D": kernel[-2], "DEPTHWISE_CONV_2D": 1}[name]
    macs = math.prod(output) * per_output
    return macs, without_padding(macs, _axes(options, data[1:-1], output[1:-1], taps))


def _axes(options: object, padded: list[int], positions: list[int], taps: list[int]) -> list[Axis]:
    axes = []
    for letter, size, places, count in zip("DHW"[-len(taps) :], padded, positions, taps, strict=True):
        stride = int(getattr(options, f"stride{letter}", 1))
        dilation = int(getattr(options, f"dilation{letter}Factor", 1))
        same = getattr(options, "padding", schema.Padding.VALID) == schema.Padding.SAME
        pad = same_padding(size, places, count, stride, dilation) if same else 0
        axes.append(Axis(size, places, count, stride, dilation, pad))
    return axes


def _precision(name: str, tensors: list[schema.TensorT], inputs: list[int]) -> Precision:
    """What the kernel has when it is read; a float layer that reads codes quantises its data on the fly."""
    position = PRODUCTS[name][1] if name in PRODUCTS else 0
    if position >= len(inputs) or inputs[position] < 0:
        return "fp32"
    kind = tensors[inputs[position]].type
    return "int8" if kind in CODES else "fp16" if kind in (TYPE.FLOAT16, TYPE.BFLOAT16) else "fp32"


def _times(layer: Counted, runs: int) -> Counted:
    cost = layer.cost
    scaled = {
        field: getattr(cost, field) * runs
        for field in ("runs", "macs", "least_macs", "weight_bytes", "input_bytes", "output_bytes")
    }
    return Counted(replace(cost, **scaled), layer.constants)


def _elements(tensor: schema.TensorT) -> int | None:
    shape = whole_numbers(tensor.shape)
    return None if any(size < 0 for size in shape) else math.prod(shape)


def _size_bytes(tensor: schema.TensorT) -> int:
    return -(-(_elements(tensor) or 0) * BITS.get(tensor.type, 32) // 8)


def _output_name(graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    outputs = [index for index in whole_numbers(operator.outputs) if index >= 0]
    return tensor_name(graph.tensors[outputs[0]]) if outputs else ""


def _name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = operator_code(model, operator)
    return OPERATOR_NAMES.get(code, f"operator {code}")
