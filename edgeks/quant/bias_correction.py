"""Bias correction: what rounding adds to the mean of a layer's output channel is taken out of its bias.

Biases are one per layer, whoever shares the kernel, so that the correction is exact for each layer (docs/arithmetic.md
§2). Nagel et al., arXiv 1906.04721 §4.2, from samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.formats.onnx import REFERENCE, open_session, to_proto
from edgeks.graph.kernels import array, kernel_reads
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.quant.activations import activations
from edgeks.wording import counted

# Means of channels need few samples, and the live activations of all of them are in memory at once.
MAX_SAMPLES = 128
MAX_LIVE_BYTES = 1 << 30
LIVE_VALUES = 4  # of the largest layer output's size: a residual, an input, an output and its integer form


def quantised_layers(model: ir.Model) -> dict[str, str]:
    """Layer with a quantised kernel and a bias that can be changed → the name of its output, as the float graph has it.

    To be asked before activations are quantised: that renames outputs. MatMul has no bias.
    """
    found = {}
    for read in kernel_reads(model):
        node = read.node
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if read.dequantize is None or node.op_type == "MatMul" or (bias is not None and not bias.is_initializer()):
            continue
        found[str(node.name)] = str(node.outputs[0].name)
    return found


def correct_biases(model: ir.Model, reference: ir.Model, layers: Mapping[str, str], samples: NDArray[Any]) -> str:
    """bias_l → bias_l + E[float output of l] − E[its output here], per output channel, layer after layer.

    Each layer is measured with all layers before it corrected. `model` is run once, cut behind every layer: a piece
    runs on all samples before the next is touched. A layer without bias gets one.
    """
    first = next(activations(reference, list(layers.values()), samples))
    largest = max(found.nbytes / len(found) for found in first.values())
    samples = samples[: int(np.clip(MAX_LIVE_BYTES // (LIVE_VALUES * largest), 1, MAX_SAMPLES)) * _batch(model)]
    expected = _means(activations(reference, list(layers.values()), samples))
    run = _Run(model, samples)
    found: list[float] = []
    for node in [node for node in model.graph if node.name in layers]:
        name = str(node.outputs[0].name)
        mean = _means({name: batch} for batch in run.until(node))[name]
        wanted = expected[layers[str(node.name)]]
        error = wanted - mean
        _add_to_bias(model, node, error)
        run.shift(name, error)
        found.append(float(np.abs(error).mean() / max(np.abs(wanted).mean(), 1e-12)))
    drop_unused_initializers(model)
    by = f"{100 * float(np.mean(found or [0])):.2g} % of the outputs' mean"
    return f"{counted(len(found), 'bias', 'biases')} corrected, by {by}, on {len(samples)} samples"


class _Run:
    """A run of the graph on all samples that stops behind a node, lets its output be changed, and goes on."""

    def __init__(self, model: ir.Model, samples: NDArray[Any]) -> None:
        self._proto = to_proto(model)
        self._index = {node: index for index, node in enumerate(model.graph)}
        self._constants = {tensor.name: tensor for tensor in self._proto.graph.initializer}
        self._last_use = {name: i for i, node in enumerate(self._proto.graph.node) for name in node.input}
        self._done = 0
        size = _batch(model)
        batches = [samples[i : i + size] for i in range(0, len(samples) - size + 1, size)]
        self._live: dict[str, list[NDArray[Any]]] = {str(model.graph.inputs[0].name): batches}

    def until(self, node: ir.Node) -> list[NDArray[Any]]:
        """Run all nodes up to `node` that are not done yet → its output, batch by batch."""
        end = self._index[node] + 1
        piece = self._proto.graph.node[self._done : end]
        made = {name for part in piece for name in part.output}
        read = {name for part in piece for name in part.input}
        result = piece[-1].output[0]
        feeds = [name for name in self._live if name in read]
        keep = [name for name in made if name == result or self._last_use.get(name, -1) >= end]
        session = open_session(self._model(piece, feeds, keep, read), REFERENCE)
        columns = zip(*(self._live[name] for name in feeds), strict=True)
        rows = [session.run(keep, dict(zip(feeds, column, strict=True))) for column in columns]
        self._live = {name: found for name, found in self._live.items() if self._last_use.get(name, -1) >= end}
        self._live |= dict(zip(keep, map(list, zip(*rows, strict=True)), strict=True))
        self._done = end
        return self._live[result]

    def shift(self, name: str, by: NDArray[np.float64]) -> None:
        """Add a number per channel (axis 1) to a Value."""
        for found in self._live[name]:
            found += by.reshape(-1, *[1] * (found.ndim - 2)).astype(np.float32)

    def _model(self, piece: Sequence[onnx.NodeProto], feeds: list[str], keep: list[str], read: set[str]) -> bytes:
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(self._live[name][0].dtype) for name in feeds}
        graph = onnx.helper.make_graph(
            piece,
            "piece",
            [onnx.helper.make_tensor_value_info(name, types[name], None) for name in feeds],
            [onnx.ValueInfoProto(name=name) for name in keep],  # ONNX Runtime finds their types
            [self._constants[name] for name in read if name in self._constants],
        )
        made = onnx.helper.make_model(graph, opset_imports=self._proto.opset_import, ir_version=self._proto.ir_version)
        content: bytes = made.SerializeToString()
        return content


def _batch(model: ir.Model) -> int:
    shape = model.graph.inputs[0].shape
    size = shape[0] if shape is not None else 1
    return size if isinstance(size, int) else 1


def _means(batches: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float64]]:
    """Per name, the mean of each channel (axis 1) over all batches."""
    totals: dict[str, list[NDArray[np.float64]]] = {}
    for batch in batches:
        for name, found in batch.items():
            others = tuple(axis for axis in range(found.ndim) if axis != 1)
            totals.setdefault(name, []).append(found.mean(axis=others, dtype=np.float64))
    return {name: np.mean(rows, axis=0) for name, rows in totals.items()}


def _add_to_bias(model: ir.Model, node: ir.Node, error: NDArray[np.float64]) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 else None
    bias = error if old is None else error + array(old).astype(np.float64).ravel()
    node.resize_inputs(3)
    node.replace_input_with(2, new_initializer(model, f"{node.name}.bias_f", bias.astype(np.float32)))
