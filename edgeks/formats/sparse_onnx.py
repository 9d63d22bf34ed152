"""Kernels with many zeros in a finished ModelProto → a bit per weight and the weights that are kept."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeks.model_files.onnx_file import all_graphs
from edgeks.model_files.onnx_sparse import DOMAIN, call, function, sparse_kernel

KERNEL_RANK = 2
FORMS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8)
NODE_BYTES = 96  # of the node, and of the name, type and shape of one tensor more


def store_sparse(proto: ModelProto) -> int:
    """Store every kernel of the main graph so, in place, that takes fewer bytes that way; how many there are.

    None is where the function itself takes more than all of them save.
    """
    graph = proto.graph
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    made = {}
    for tensor in graph.initializer:
        if len(tensor.dims) >= KERNEL_RANK and tensor.data_type in FORMS:
            dense = numpy_helper.to_array(tensor)
            stored = sparse_kernel(dense)
            if dense.nbytes - stored.stored_bytes > NODE_BYTES + len(tensor.name):
                made[tensor.name] = stored, dense.nbytes - stored.stored_bytes - NODE_BYTES - len(tensor.name)
    own = function(opset)
    if sum(saved for _, saved in made.values()) <= own.ByteSize():
        return 0
    taken = {name for _, inner in all_graphs(graph) for node in inner.node for name in (*node.input, *node.output)}
    tensors: list[TensorProto] = []
    calls: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.name not in made:
            tensors.append(tensor)
            continue
        stored, _ = made[tensor.name]
        bits, values = _free(f"{tensor.name}.bits", taken), _free(f"{tensor.name}.values", taken)
        tensors += (numpy_helper.from_array(stored.bits, bits), numpy_helper.from_array(stored.values, values))
        calls.append(call(tensor.name, bits, values, stored.shape))
    nodes = [*calls, *(NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    proto.functions.append(own)
    proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return len(made)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
