"""Checkpoint → artefact: capture, passes, file, proof, parity. The file appears only when all of it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir
from torch import nn

from edgeks.atomic_write import atomic_write
from edgeks.audit.proof import Proof, prove_exactly_once
from edgeks.checkpoint import Checkpoint
from edgeks.errors import DataError, SharingBroken
from edgeks.export_checks import doubts, layers_outside, require_parity
from edgeks.formats.onnx import REFERENCE, open_session, run, simplify, write_onnx
from edgeks.graph.from_torch import capture, graph_plan, torch_outputs, without_parametrizations
from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.global_average_pool import global_average_pool
from edgeks.graph.passes.merge_padding import merge_padding
from edgeks.graph.passes.name_kernels import name_kernels
from edgeks.graph.passes.normalise_batch_norm import normalise_batch_norm
from edgeks.graph.passes.pad_average_pool import pad_average_pool
from edgeks.graph.passes.tidy import tidy
from edgeks.graph.passes.tie_initializers import tie_initializers
from edgeks.graph.passes.transpose_kernels import transpose_kernels
from edgeks.graph.verify import verify
from edgeks.parity import Parity, compare_all
from edgeks.quant.options import Int8Options
from edgeks.quant.quantise import quantise
from edgeks.samples import Samples, load_samples
from edgeks.sharing.plan import SharingPlan
from edgeks.sharing.torch import discover
from edgeks.target import Target

PARITY_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and what is known of it. `parity` is the file as it says; `parity_here` as this CPU runs it."""

    path: Path
    ledger_path: Path
    target: str
    precision: str
    form: str
    file_bytes: int
    samples: str
    proof: Proof
    parity: Parity
    parity_here: Parity
    ledger: Ledger
    warnings: tuple[str, ...]


def export(
    checkpoint: Checkpoint,
    out: Path,
    target: Target,
    *,
    int8: bool = False,
    options: Int8Options = Int8Options(),
    calib: Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    run_simplifier: bool = False,
    min_sqnr_db: float | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportReport:
    """Write `checkpoint` as `out` (.onnx) and `out`.ledger.json, every shared kernel stored exactly once.

    Raises:
        SharingBroken: a pass or the written file does not hold each kernel exactly once.
        ParityFailed: the outputs are further from torch's than the target (or `min_sqnr_db`) allows.
        InputError: the samples, the network or the path cannot be used. In every case no file is left.
    """
    samples = load_samples(calib, checkpoint.calibration, checkpoint.preprocessing, input_shape)
    if int8 and not samples.real:
        raise DataError(
            "int8 needs calibration data and this checkpoint carries none; pass --calib with an .npz of real inputs "
            "(one array N×C×H×W) or a folder of images"
        )
    if int8 and samples.inputs.min() == samples.inputs.max():
        raise DataError(f"{samples.origin}: {samples.inputs.min():g} everywhere; int8 is calibrated on real inputs")
    ledger_path = out.with_name(out.name + ".ledger.json")
    with atomic_write(out) as temporary, atomic_write(ledger_path) as temporary_ledger:
        on_step("running torch")
        reference = torch_outputs(checkpoint.model, samples.inputs[:PARITY_SAMPLES])
        on_step("capturing the graph")
        model, ledger = float_graph(checkpoint.model, samples, target.opset, run_simplifier=run_simplifier)
        if int8:
            on_step(f"quantising, calibrating on {samples.origin}")
            quantise(model, ledger, samples, target.int8, options)
        on_step("proving and comparing")
        write_onnx(model, temporary, _metadata(checkpoint))
        proof = _prove(temporary, out, ledger.plan)
        inputs = samples.inputs[:PARITY_SAMPLES]
        parity = compare_all(reference, run(open_session(temporary, REFERENCE), inputs))
        parity_here = compare_all(reference, run(open_session(temporary, target.session), inputs))
        required = min_sqnr_db
        if required is None:
            required = target.min_int8_sqnr_db if int8 else target.min_fp32_sqnr_db
        require_parity(out, target, required, parity, parity_here, int8=int8)
        report = ExportReport(
            path=out,
            ledger_path=ledger_path,
            target=target.name,
            precision="int8" if int8 else "fp32",
            form=(options.form or target.int8.form) if int8 else "float",
            file_bytes=temporary.stat().st_size,
            samples=samples.origin,
            proof=proof,
            parity=parity,
            parity_here=parity_here,
            ledger=ledger,
            warnings=(
                *layers_outside(model, int8=int8),
                *doubts(samples, parity, parity_here, target, temporary.stat().st_size, int8=int8),
            ),
        )
        temporary_ledger.write_text(_ledger_json(report, target, temporary), encoding="utf-8")
    return report


def float_graph(
    model: nn.Module, samples: Samples, opset: int, *, run_simplifier: bool = False
) -> tuple[ir.Model, Ledger]:
    """Module → float graph, tidied, and its ledger with one verified row per step."""
    model = without_parametrizations(model)
    graph = capture(model, samples.inputs[:1], opset)
    captured = f"{len(graph.graph)} nodes from torch.onnx.export"
    transposed = transpose_kernels(graph)
    tied = tie_initializers(graph, discover(model))
    ledger = Ledger(graph_plan(graph, model))  # only now does every layer read its kernel
    ledger.record("capture", graph, captured)
    ledger.run("transpose_kernels", graph, lambda: transposed)
    ledger.run("tie_initializers", graph, lambda: tied)
    ledger.run("name_kernels", graph, lambda: name_kernels(graph, ledger.plan))
    ledger.run("tidy", graph, lambda: tidy(graph))
    ledger.run("normalise_batch_norm", graph, lambda: normalise_batch_norm(graph))
    ledger.run("merge_padding", graph, lambda: merge_padding(graph))
    ledger.run("pad_average_pool", graph, lambda: pad_average_pool(graph))
    ledger.run("global_average_pool", graph, lambda: global_average_pool(graph))
    if run_simplifier:
        simplified, note = simplify(graph)
        try:
            verify(simplified, ledger.plan, "onnxsim")
            graph = simplified
        except SharingBroken as error:
            note = f"not used: {error}"
        ledger.run("onnxsim", graph, lambda: note)
    return graph, ledger


def _prove(written: Path, out: Path, plan: SharingPlan) -> Proof:
    """The proof on the file as written, its errors naming the file that the user asked for."""
    try:
        return prove_exactly_once(written, plan)
    except SharingBroken as error:
        raise SharingBroken(str(error).replace(str(written), str(out))) from error


def _metadata(checkpoint: Checkpoint) -> dict[str, object]:
    """What a program on the device needs to feed the network and name its classes."""
    metadata: dict[str, object] = {}
    if checkpoint.architecture:
        metadata["architecture"] = checkpoint.architecture
    if checkpoint.preprocessing:
        metadata["preprocessing"] = checkpoint.preprocessing.to_dict()
    return metadata


def _ledger_json(report: ExportReport, target: Target, file: Path) -> str:
    return report.ledger.to_json(
        artefact=report.path.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        file_bytes=report.file_bytes,
        target=target.name,
        precision=report.precision,
        form=report.form,
        session=asdict(target.session),
        samples=report.samples,
        parity=asdict(report.parity),
        parity_here=asdict(report.parity_here),
        kernels_stored=report.proof.kernels_stored,
        warnings=list(report.warnings),
    )
