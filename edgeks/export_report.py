"""What an export wrote and proved, for the terminal: the answer first, then the ledger."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from edgeks.exporter import ExportReport
from edgeks.formats.tflite.delegation import Delegation
from edgeks.layer_parity import LayerParity
from edgeks.terminal import table
from edgeks.wording import counted


def _takes(report: ExportReport) -> str:
    """`uint8 1×3×32×32 (raw pixels …) → uint8 1×10 (one score per class …)`: what a program has to know."""
    told = []
    for spec in (*report.interface.inputs, *report.interface.outputs):
        scale = "" if spec.scale is None else f", scale {spec.scale:.6g}, zero point {spec.zero_point}"
        told.append(f"{spec.type} {'×'.join(map(str, spec.shape))} ({spec.meaning}{scale})")
    taken = len(report.interface.inputs)
    return f"{'; '.join(told[:taken])} → {'; '.join(told[taken:])}"


def _delegate(found: Delegation) -> str:
    """`XNNPACK takes 28 of 30 operators in 2 partitions, leaves 1 GELU, 1 QUANTIZE; …`."""
    left_ops = {name: count for name, count in found.left.items() if name != "WHILE"}
    taken, left, loops = sum(found.delegated.values()), sum(left_ops.values()), found.left.get("WHILE", 0)
    pieces = counted(found.partitions, "partition")
    told = f"XNNPACK takes {taken} of {taken + left} operators in {pieces}"
    if left:
        told += f", leaves {', '.join(f'{count} {name}' for name, count in sorted(left_ops.items()))}"
    if loops:
        told += f", not counting what is in the {'loop' if loops == 1 else f'{loops} loops'}"
    names = ("XNNPACK", "the built-in kernels")
    fast, slow = names if found.faster == "xnnpack" else reversed(names)
    times = max(found.builtin_ms, found.xnnpack_ms) / max(min(found.builtin_ms, found.xnnpack_ms), 1e-6)
    are = "is" if fast == "XNNPACK" else "are"
    return f"{told}; on this CPU {fast} {are} {times:.1f} × as fast as {slow} (a board may differ)"


def render(report: ExportReport, console: Console) -> None:
    """Print the report. Lines are not broken, so that a path in them can be copied."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    proof, rows = report.proof, report.ledger.rows
    form = f" {report.form.removesuffix('float').rstrip()}".rstrip()
    what = f"{report.precision}{form} for {report.target}"
    say(f"[bold]{escape(str(report.path))}[/]: {report.file_bytes:,} bytes, {what}")
    groups = counted(len(proof.groups), "sharing group")
    say(
        f"exactly once  {counted(proof.kernels_stored, 'kernel')} for {counted(rows[-1].layers, 'layer')} "
        f"({groups} + {len(proof.unshared)} unshared), proven on the file"
    )
    for bank in report.banks:
        say(f"template bank {escape(str(bank))}")
    say(f"parity        {report.parity}, against {escape(report.reference)}")
    if report.parity_here != report.parity:
        say(f"on this CPU   {report.parity_here}")
    if report.zeros is not None:
        say(f"zeros         {report.zeros.describe('tflite' if report.path.suffix == '.tflite' else 'onnx')}")
    if report.delegation is not None:
        say(f"delegate      {_delegate(report.delegation)}")
    if report.io != "float" or report.path.suffix == ".tflite":
        say(f"takes         {_takes(report)}")
    say(f"samples       {escape(report.samples)}")
    say(f"ledger        {escape(str(report.ledger_path))}")
    for warning in report.warnings:
        say(f"[yellow]warning[/]       {escape(warning)}")
    if report.layers is not None:
        _render_layers(report.layers, console)
    steps = table(
        "\nsharing ledger", left=("step",), right=("kernels", "layers", "copies", "bytes"), last="what it did"
    )
    for row in rows:
        if row.note.startswith("nothing to do"):
            continue
        figures = (row.kernels, row.layers, row.copies, f"{row.constant_bytes:,}")
        steps.add_row(row.step, *map(str, figures), escape(row.note))
    console.print(steps)


def _render_layers(layers: LayerParity, console: Console) -> None:
    found = table(
        "\nint8 against torch, in steps of each tensor",
        left=("tensor",),
        right=("elements", "differ", "by more than 1", "largest"),
    )
    for row in layers.tensors:
        shares = (f"{100 * row.different:.3f} %", f"{100 * row.over_one:.3f} %")
        found.add_row(escape(row.tensor), f"{row.elements:,}", *shares, str(row.largest))
    console.print(found)
    first = layers.first_over_one
    console.print(f"first tensor off by more than one step: {escape(first) if first else 'none'}", soft_wrap=True)
    share = f"{100 * layers.outputs_within_one_step:.3f} %"
    console.print(f"outputs within one step ({layers.output_step:.4g}) of torch's: {share}", soft_wrap=True)
