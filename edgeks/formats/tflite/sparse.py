"""Kernels with many zeros in a finished network → sparse tensors, each behind a DENSIFY of its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import TYPE_NAMES, constant, tensor_name
from edgeks.model_files.tflite_kernels import kernel_operators
from edgeks.model_files.tflite_sparse import index_bytes, sparsity

DENSIFY = schema.BuiltinOperator.DENSIFY
DENSIFIED = ("FLOAT32", "INT8")  # what both runtimes' DENSIFY takes; FLOAT16 goes on to a DEQUANTIZE
TENSOR_BYTES = 200  # of one tensor and one operator more


def store_sparse(model: schema.ModelT) -> int:
    """Store every kernel so, in place, that takes fewer bytes that way; how many there are.

    Only kernels of which the main graph has one tensor: a DENSIFY makes a dense kernel in RAM for every tensor, so one
    that several layers read with scales of their own would be there several times. Zero points are 0.
    """
    graph = model.subgraphs[0]
    tensors_of = Counter(int(tensor.buffer) for inner in model.subgraphs for tensor in inner.tensors)
    places = {id(tensor): index for index, tensor in enumerate(graph.tensors)}
    chosen = {id(operator.tensor): operator.tensor for operator in kernel_operators(model)}
    made: list[schema.OperatorT] = []
    for identity, tensor in chosen.items():
        dense = constant(model, tensor)
        if identity not in places or tensors_of[int(tensor.buffer)] != 1 or dense is None:
            continue
        if TYPE_NAMES[tensor.type] not in DENSIFIED or dense.ndim < 2:
            continue
        described, kept = sparsity(dense)
        if dense.nbytes - kept.nbytes - index_bytes(described) <= TENSOR_BYTES + len(tensor_name(tensor)):
            continue
        made.append(_behind_densify(model, graph, places[identity], described, kept))
    if made:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = DENSIFY
        code.version = 1
        for operator in made:
            operator.opcodeIndex = len(model.operatorCodes)
        model.operatorCodes = [*model.operatorCodes, code]
        graph.operators = [*made, *graph.operators]
    return len(made)


def _behind_densify(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, described: schema.SparsityParametersT, kept: np.ndarray
) -> schema.OperatorT:
    """Tensor `index` becomes what DENSIFY makes of a new one, which takes over its name and its buffer."""
    dense, stored = graph.tensors[index], schema.TensorT()
    stored.name, stored.shape, stored.hasRank, stored.type = dense.name, dense.shape, True, dense.type
    stored.buffer, stored.quantization, stored.sparsity = dense.buffer, dense.quantization, described
    names = {tensor_name(tensor) for tensor in graph.tensors}
    dense.name = f"{tensor_name(dense)}_dense"
    while dense.name in names:
        dense.name += "_"
    dense.buffer = 0
    model.buffers[stored.buffer].data = np.ascontiguousarray(kept).view(np.uint8)
    graph.tensors.append(stored)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = (np.array([at], np.int32) for at in (len(graph.tensors) - 1, index))
    operator.builtinOptions = schema.DensifyOptionsT()
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    return operator
