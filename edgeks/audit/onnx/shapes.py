"""Shape, type and bytes of every activation of a model, by onnx's shape inference on a twin without the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from edgeks.audit.onnx.shape_constants import fold_shapes
from edgeks.audit.timeline import Activation
from edgeks.model_files.onnx_file import BITS, KINDS, ModelFile, all_graphs, subgraphs

# Inference needs the values of small constants (shapes, axes, pads); larger ones become inputs of the twin.
MAX_INLINE_ELEMENTS = 1024
# Sizes that depend on sizes that depend on …: a Reshape behind a Reshape takes one more round.
MAX_ROUNDS = 64
DEFAULT_DOMAINS = ("", "ai.onnx")
OPEN_SIZES = "the file leaves sizes open of input "  # how that note begins

# ONNX Runtime's own ops, which onnx has no shape rule for → the standard op with the same output shape, and its inputs.
TWINS: dict[str, tuple[str, tuple[int, ...]]] = {
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearMul": ("Mul", (0, 3)),
    "QLinearSigmoid": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    "QLinearLeakyRelu": ("Identity", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QGemm": ("Gemm", (0, 3)),
    "MatMulIntegerToFloat": ("MatMul", (0, 1)),
    "DynamicQuantizeMatMul": ("MatMul", (0, 1)),
    "QLinearConv": ("Conv", (0, 3)),
    "FusedConv": ("Conv", (0, 1)),
    "NhwcFusedConv": ("Conv", (0, 1)),
    "NhwcMaxPool": ("MaxPool", (0,)),
    "FusedGemm": ("Gemm", (0, 1)),
    "Gelu": ("Identity", (0,)),
    "FastGelu": ("Identity", (0,)),
    "QuickGelu": ("Identity", (0,)),
    "BiasGelu": ("Identity", (0,)),
}  # fmt: skip
# Twins that need their data as N×C×H×W; for ops of the form N×H×W×C it is transposed there and back.
SPATIAL_OPS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool")
# Channels in blocks of the CPU's vector length: sizes are those of N×C×H×W with C rounded up to whole blocks.
NCHWC_DOMAIN = "com.microsoft.nchwc"


@dataclass(frozen=True, slots=True)
class Activations:
    """All tensors with a known size, by path of their graph and by name; `notes` say what was assumed or failed."""

    by_graph: dict[str, dict[str, Activation]]
    notes: tuple[str, ...]


def infer_activations(model: ModelFile) -> Activations:
    """ModelFile → Activations. A symbolic first dimension of an input is the batch, and is taken as 1."""
    notes: list[str] = []
    twin = _without_weights(model.proto)
    notes.extend(_fix_batch(twin))
    for _, graph in all_graphs(twin.graph):
        _replace_runtime_ops(graph)
        _declare_loop_states(graph)
    _copy_into_bodies(twin.graph, "", {})
    inferred, trouble = _inferred(twin)
    rounds = 0
    while rounds < MAX_ROUNDS and fold_shapes(twin, inferred.graph):
        inferred, trouble = _inferred(twin)
        rounds += 1
    notes.extend(trouble)
    by_graph: dict[str, dict[str, Activation]] = {}
    for graph_path, graph in all_graphs(inferred.graph):
        found = by_graph[graph_path] = {}
        for value in (*graph.value_info, *graph.output, *graph.input):
            activation = _activation(value)
            if activation:
                found[value.name] = activation
    own = {tensor.name for tensor in model.proto.graph.initializer}
    for tensor in twin.graph.initializer:  # sizes that were folded: no value, but the nodes that make them are there
        if tensor.name not in own:
            folded = _activation(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            if folded:
                by_graph[""].setdefault(tensor.name, folded)
    return Activations(by_graph, tuple(notes))


def _inferred(twin: ModelProto) -> tuple[ModelProto, list[str]]:
    """The twin with the shapes that onnx can tell, and what was wrong with it."""
    try:
        return shape_inference.infer_shapes(twin, strict_mode=True, data_prop=True), []
    except Exception as error:
        trouble = [f"shape inference is incomplete: {' '.join(str(error).split())[:200]}"]
    try:
        return shape_inference.infer_shapes(twin, strict_mode=False, data_prop=True), trouble
    except Exception:
        return twin, trouble


def _without_weights(proto: ModelProto) -> ModelProto:
    """The same model with every large initializer of the main graph turned into an input."""
    twin = ModelProto(ir_version=max(proto.ir_version, 4))
    twin.opset_import.extend(proto.opset_import)
    graph = twin.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    inputs = {value.name for value in graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= MAX_INLINE_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return twin


def _fix_batch(twin: ModelProto) -> Iterator[str]:
    """Set the symbolic first dimension of every input to 1, under its name everywhere."""
    graph = twin.graph
    initializers = {tensor.name for tensor in graph.initializer}
    batch_names = set()
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in initializers and dims and not dims[0].HasField("dim_value"):
            batch_names.add(dims[0].dim_param)
            yield f"symbolic batch {dims[0].dim_param or '?'!r} of input {value.name!r} taken as 1"
            dims[0].dim_value = 1
        if value.name not in initializers and not all(dim.HasField("dim_value") for dim in dims):
            sizes = "×".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
            yield f"{OPEN_SIZES}{value.name!r}: {sizes}"
    for _, inner in all_graphs(graph):
        for value in (*inner.input, *inner.output, *inner.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param and dim.dim_param in batch_names:
                    dim.dim_value = 1


def _replace_runtime_ops(graph: GraphProto) -> None:
    """Swap ONNX Runtime's own ops for their twins, and add a Cast where only the op itself makes float32."""
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.domain in DEFAULT_DOMAINS:
            continue
        if node.domain == NCHWC_DOMAIN:
            _replace_blocked(node)
            continue
        channels_last = node.op_type in ("NhwcFusedConv", "NhwcMaxPool") or any(
            attribute.name == "channels_last" and attribute.i for attribute in node.attribute
        )
        makes_float = node.op_type == "MatMulIntegerToFloat" or (node.op_type == "QGemm" and len(node.input) < 8)
        _replace(node)
        if makes_float and node.domain in DEFAULT_DOMAINS:
            result, node.output[0] = node.output[0], f"{node.output[0]}.codes"
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.FLOAT))
        if channels_last and node.domain in DEFAULT_DOMAINS and node.op_type in SPATIAL_OPS:
            source, result = node.input[0], node.output[0]
            node.input[0], node.output[0] = f"{result}.nchw_in", f"{result}.nchw_out"
            nodes.insert(-1, onnx.helper.make_node("Transpose", [source], [node.input[0]], perm=(0, 3, 1, 2)))
            nodes.append(onnx.helper.make_node("Transpose", [node.output[0]], [result], perm=(0, 2, 3, 1)))
    if len(nodes) > len(graph.node):
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _declare_loop_states(graph: GraphProto) -> None:
    """What a Loop leaves has the shape that its body declares for it; inference itself stops there."""
    declared = {value.name for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Loop" and attribute.name == "body":
                states = attribute.g.output[1 : len(node.input) - 1]  # the first is the condition, the last are scans
                for name, state in zip(node.output, states, strict=False):
                    if name not in declared:
                        graph.value_info.append(ValueInfoProto(name=name, type=state.type))


def _copy_into_bodies(graph: GraphProto, path: str, around: dict[str, TensorProto]) -> None:
    """A body has its own copy of the sizes and axes that it reads of the graphs around, where inference sees them."""
    own = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
    own.update(tensor.name for tensor in graph.initializer)
    if path:
        names = dict.fromkeys(name for node in graph.node for name in node.input)
        graph.initializer.extend(around[name] for name in names if name in around and name not in own)
    known = {name: tensor for name, tensor in around.items() if name not in own}
    known.update((tensor.name, tensor) for tensor in graph.initializer if tensor.data_type == TensorProto.INT64)
    for node in graph.node:
        for body_path, body in subgraphs(node, path):
            _copy_into_bodies(body, body_path, known)


def _replace(node: NodeProto) -> None:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node.domain = ""
        return
    if node.op_type == "QLinearConcat":
        op_type, indices = "Concat", tuple(range(2, len(node.input), 3))
    elif node.op_type in TWINS:
        op_type, indices = TWINS[node.op_type]
    else:
        return
    if max(indices, default=0) >= len(node.input):
        return
    inputs = [node.input[index] for index in indices]
    schema = onnx.defs.get_schema(op_type)
    attributes = [attribute for attribute in node.attribute if attribute.name in schema.attributes]
    twin = NodeProto(op_type=op_type, name=node.name, input=inputs, output=node.output, attribute=attributes)
    node.CopyFrom(twin)


def _replace_blocked(node: NodeProto) -> None:
    if node.op_type in ("ReorderInput", "ReorderOutput"):
        if not any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute):
            node.CopyFrom(NodeProto(op_type="Identity", name=node.name, input=node.input[:1], output=node.output))
    elif node.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool"):
        schema = onnx.defs.get_schema(node.op_type)
        attributes = [attribute for attribute in node.attribute if attribute.name in schema.attributes]
        inputs = node.input[:2] if node.op_type == "Conv" else node.input[:1]
        twin = NodeProto(op_type=node.op_type, name=node.name, input=inputs, output=node.output, attribute=attributes)
        node.CopyFrom(twin)


def _activation(value: ValueInfoProto) -> Activation | None:
    tensor = value.type.tensor_type
    known: Iterable[bool] = (dim.HasField("dim_value") for dim in tensor.shape.dim)
    kind = KINDS.get(tensor.elem_type, "UNDEFINED")
    if not value.type.HasField("tensor_type") or kind not in BITS or not tensor.HasField("shape") or not all(known):
        return None
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if any(size < 0 for size in shape):
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return Activation(value.name, shape, dtype, -(-math.prod(shape) * BITS[kind] // 8))
