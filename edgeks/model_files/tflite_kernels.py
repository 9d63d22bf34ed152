"""The kernels of a .tflite file: which operators read which constants as their weight, and through what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import (
    OPERATOR_NAMES,
    constant,
    is_constant,
    operator_code,
    tensor_name,
    whole_numbers,
)
from edgeks.model_files.tflite_loops import loop_bodies

# Operator → axis of the output channels in its kernel: O×H×W×I, 1×H×W×O, O×I, O×H×W×I, …×I×O.
OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "BATCH_MATMUL": -1}
MAX_RUNS = 10_000  # runs of one operator that are told apart
KERNEL_INPUT = 1  # of each of them


@dataclass(frozen=True, slots=True, eq=False)
class KernelOperator:
    """An operator that reads a kernel, under the name of the tensor that it computes.

    `tensor` is the constant, behind the DENSIFY, DEQUANTIZE or TRANSPOSE that it may go through; `output_axis` is its
    axis of the operator's output channels. `runs`: how often the operator runs in one inference, None where that is not
    in the file. `stacked`: the tensor is runs × kernel, of which each run picks its own.
    """

    layer: str
    operator: schema.OperatorT
    tensor: schema.TensorT
    output_axis: int
    runs: int | None = 1
    stacked: bool = False

    @property
    def buffer(self) -> int:
        """Number of the buffer that holds the kernel."""
        return int(self.tensor.buffer)

    @property
    def kernels(self) -> int:
        """How many kernels the tensor holds."""
        return int(self.tensor.shape[0]) if self.stacked else 1

    @property
    def layers(self) -> tuple[str, ...]:
        """A name for every run of the operator that reads the same kernel; of a stack each run reads another."""
        runs = 1 if self.stacked else min(self.runs or 1, MAX_RUNS)
        return (self.layer, *(f"{self.layer} (iteration {number})" for number in range(2, runs + 1)))


def kernel_operators(model: schema.ModelT) -> list[KernelOperator]:
    """Operators that read a constant as their kernel, in file order."""
    found = []
    bodies = loop_bodies(model)
    for number, graph in enumerate(model.subgraphs):
        body = bodies.get(number)
        operators = graph.operators if graph.operators is not None else []
        made_by = {output: operator for operator in operators for output in whole_numbers(operator.outputs)}
        for operator in operators:
            axis = OUTPUT_AXIS.get(_name(model, operator))
            inputs, outputs = whole_numbers(operator.inputs), whole_numbers(operator.outputs)
            if axis is None or len(inputs) <= KERNEL_INPUT or not outputs:
                continue
            counter = -1 if body is None else body.counter
            kernel = _constant(model, graph, made_by, inputs[KERNEL_INPUT], axis, counter)
            if kernel is not None:
                tensor, axis, stacked = kernel
                runs = 1 if body is None else body.trips
                layer = tensor_name(graph.tensors[outputs[0]])
                found.append(KernelOperator(layer, operator, tensor, axis, runs, stacked))
    return found


def _constant(
    model: schema.ModelT,
    graph: schema.SubGraphT,
    made_by: dict[int, schema.OperatorT],
    index: int,
    axis: int,
    counter: int,
) -> tuple[schema.TensorT, int, bool] | None:
    """Tensor `index` as the constant that it is made of, which axis of that is its `axis`, and whether it is picked of
    it by the `counter` of a loop; None: it is computed."""
    behind = set[int]()
    stacked = False
    while index not in behind:
        behind.add(index)
        source = made_by.get(index)
        if source is None:
            break
        name, inputs = _name(model, source), whole_numbers(source.inputs)
        if name == "TRANSPOSE" and len(inputs) > 1:
            order = constant(model, graph.tensors[inputs[1]])
            rank = 0 if order is None else order.size
            if order is None or not -rank <= axis < rank or sorted(order.ravel()) != list(range(rank)):
                return None
            axis = int(order.ravel()[axis])
        elif name == "GATHER" and not stacked and counter >= 0 and inputs[1:] == [counter] and _along_first(source):
            stacked, axis = True, axis if axis < 0 else axis + 1
        elif name not in ("DEQUANTIZE", "DENSIFY") or not inputs:
            return None
        index = inputs[0]
    if index < 0 or not is_constant(model, graph.tensors[index]):
        return None
    rank = len(whole_numbers(graph.tensors[index].shape))
    if not -rank <= axis < rank:
        return None
    return graph.tensors[index], int(np.arange(rank)[axis]), stacked


def _along_first(gather: schema.OperatorT) -> bool:
    """Whether a GATHER picks along the first axis."""
    options = gather.builtinOptions
    return options is None or (int(options.axis), int(options.batchDims)) == (0, 0)


def _name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    return OPERATOR_NAMES.get(operator_code(model, operator), "")
