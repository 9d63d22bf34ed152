"""What an export starts from, a checkpoint or an ONNX file: its reference outputs and its float graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from edgeks.checkpoint import Checkpoint
from edgeks.errors import DataError
from edgeks.formats.onnx import REFERENCE, open_session
from edgeks.graph.float_graph import float_graph
from edgeks.graph.from_onnx import float_graph_from_onnx
from edgeks.graph.from_torch import torch_outputs
from edgeks.graph.ledger import Ledger
from edgeks.graph.onnx_network import OnnxNetwork
from edgeks.graph.passes.merge_batch_norm import merge_batch_norm
from edgeks.graph.passes.split_large_kernels import MAX_TAPS
from edgeks.quant.qat import is_prepared, marked, prepare_qat, trained, without_quantisers
from edgeks.quant.trained import NOTHING_TRAINED, Trained
from edgeks.samples import Samples, load_samples
from edgeks.sharing.plan import FLOAT32_BYTES
from edgeks.sharing.resolve import BankForm, ResolvedBank, resolve_soft_sharing
from edgeks.sharing.torch import discover
from edgeks.target import Int8Scheme, Target

Source = Checkpoint | OnnxNetwork


@dataclass(frozen=True, slots=True)
class Captured:
    """The float `graph` with its ledger, and the source's own outputs (`reference`) for the first samples.

    `decided` is what quantisation-aware training decided. For a parity report, `prepared` is the network with
    fake-quantisers and `marks` says whose mark on the graph is whose. `banks`: how template banks were resolved.
    """

    graph: ir.Model
    ledger: Ledger
    reference: list[NDArray[np.float32]]
    decided: Trained = NOTHING_TRAINED
    prepared: nn.Module | None = None
    marks: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    banks: tuple[ResolvedBank, ...] = ()


def reference_name(source: Source) -> str:
    """What an artefact is compared with, for reports."""
    return source.path.name if isinstance(source, OnnxNetwork) else "torch"


def carrier(source: Source) -> str:
    """What an error calls the source."""
    return source.path.name if isinstance(source, OnnxNetwork) else "this checkpoint"


def is_quantisation_trained(source: Source) -> bool:
    """Whether it is a network from `prepare_qat`."""
    return isinstance(source, Checkpoint) and is_prepared(source.model)


def has_large_depthwise(source: Source) -> bool:
    """Whether a depthwise convolution has a kernel of more taps than runtimes have fast paths for."""
    if isinstance(source, Checkpoint):
        return any(
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels > 1
            and math.prod(module.kernel_size) > MAX_TAPS
            for module in source.model.modules()
        )
    shapes = {tensor.name: tuple(tensor.dims) for tensor in source.proto.graph.initializer}
    return any(
        node.op_type == "Conv" and len(shape) == 4 and shape[1] == 1 < shape[0] and shape[2] * shape[3] > MAX_TAPS
        for node in source.proto.graph.node
        for shape in (shapes.get(node.input[1], ()) if len(node.input) > 1 else (),)
    )


def has_banks(source: Source) -> bool:
    """Whether layers of it mix their kernels from template banks (soft sharing)."""
    return isinstance(source, Checkpoint) and bool(discover(source.model).banks)


def resolved(scheme: Int8Scheme, source: Source, *, common_scales: bool) -> Int8Scheme:
    """The scheme with "auto" decided: dynamic where large depthwise convolutions are float between float ops anyway,
    and where the layers of a kernel have its scales in common (`Target.common_scales`).

    LiteRT has no fast integer kernel for those (docs/adr/0014); everything else is fastest, and smallest in RAM, with
    integer activations.
    """
    if scheme.mode != "auto":
        return scheme
    dynamic = (common_scales or has_large_depthwise(source)) and not is_quantisation_trained(source)
    return replace(scheme, mode="dynamic" if dynamic else "static")


def samples_for(source: Source, calib: Path | None, input_shape: tuple[int, int, int] | None) -> Samples:
    """Samples to calibrate on and compare with (`load_samples`); an ONNX file may say the shape itself.

    Raises:
        DataError: they cannot be read or do not fit, or neither samples nor an input shape are known.
    """
    if isinstance(source, Checkpoint):
        return load_samples(calib, source.calibration, source.preprocessing, input_shape)
    return load_samples(calib, None, source.preprocessing, source.input_shape(input_shape))


def capture_source(
    source: Source,
    samples: Samples,
    compared: int,
    target: Target,
    *,
    int8: bool,
    parity_report: bool,
    banks: BankForm = "smallest",
    weight_bytes: int = FLOAT32_BYTES,
    on_step: Callable[[str], None],
) -> Captured:
    """Run the source on the first `compared` samples, then make its float graph.

    Template banks are resolved to kernels in the form `banks`, for files with `weight_bytes` per weight.

    Raises:
        InputError: the samples or the network cannot be used.
        SharingBroken: a step broke a tie.
    """
    if isinstance(source, OnnxNetwork):
        on_step(f"running {source.path.name}")
        reference = onnx_outputs(source, samples.inputs[:compared])
        on_step("reading the graph")
        channels, height, width = samples.inputs.shape[1:]
        graph, ledger, warnings = float_graph_from_onnx(source, (channels, height, width), target.opset)
        return Captured(graph, ledger, reference, warnings=warnings)
    on_step("running torch")
    network, marks, decided = source.model, dict[int, str](), NOTHING_TRAINED
    if is_prepared(network) and not int8:
        network = without_quantisers(network)
    reference = torch_outputs(network, samples.inputs[:compared])
    on_step("capturing the graph")
    network, stored = resolve_soft_sharing(network, banks, weight_bytes=weight_bytes)
    prepared = network if is_prepared(network) else None
    if prepared is None and parity_report:
        prepared = prepare_qat(network, torch.from_numpy(samples.inputs[:1]), target.int8, ranges="moving_average")
    if prepared is not None:
        network_with_marks, marks = marked(prepared)
        decided = trained(prepared, marks) if prepared is network else NOTHING_TRAINED
        network = network_with_marks
    graph, ledger = float_graph(network, samples.inputs[:1], target.opset, marked=prepared is not None)
    if stored:
        ledger.record("resolve_soft_sharing", graph, "; ".join(map(str, stored)))
        if prepared is None:  # a fake-quantiser stands between the two BN
            ledger.run("merge_batch_norm", graph, lambda: merge_batch_norm(graph))
    return Captured(graph, ledger, reference, decided, prepared, marks, banks=stored)


def onnx_outputs(network: OnnxNetwork, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Samples N×C×H×W → all outputs of the file as it is, each N×…, run one at a time without graph optimisation.

    Raises:
        ModelFileError: ONNX Runtime does not take the file.
        DataError: it does not take the samples, or gives something else than finite tensors of one row per sample.
    """
    session = open_session(network.proto.SerializeToString(), REFERENCE, network.path.name)
    name, where = session.get_inputs()[0].name, network.path.name
    rows = []
    for index in range(len(inputs)):
        try:
            found = session.run(None, {name: inputs[index : index + 1]})
        except Exception as error:  # ONNX Runtime has no public root of its error classes
            shape = "×".join(map(str, inputs.shape[1:]))
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{where} does not take inputs of {shape}: {reason[:300]}") from error
        for output, spec in zip(found, session.get_outputs(), strict=True):
            if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiub":
                raise DataError(f"{where}: output {spec.name!r} is {spec.type}; legal: tensors of numbers")
            if output.ndim == 0 or len(output) != 1:
                raise DataError(
                    f"{where}: output {spec.name!r} has shape {output.shape} for one sample; its first dimension must "
                    "be the batch, 1"
                )
        rows.append([output.astype(np.float32) for output in found])
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    if not all(np.isfinite(output).all() for output in outputs):
        raise DataError(f"{where}: its own outputs are NaN or infinite on these samples")
    return outputs
