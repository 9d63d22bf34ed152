"""What a conversion by litert-torch wrote and proved, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from edgeks.litert_converter import ConversionReport
from edgeks.terminal import table


def render(report: ConversionReport, console: Console) -> None:
    """Print the report. Lines are not broken, so that a path in them can be copied."""

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    restoration = report.restoration
    what = f"{report.precision}{'' if report.precision == 'fp32' else f' {report.form}'} for {report.target}"
    say(f"[bold]{escape(str(report.path))}[/]: {report.file_bytes:,} bytes, {what}, by litert-torch")
    before, after = restoration.stored_before, restoration.stored_after
    saved = f"{restoration.bytes_before:,} → {restoration.bytes_after:,} bytes"
    say(f"sharing       {before} stored kernels → {after}, {saved}")
    say(f"parity        {report.parity}, against torch")
    say(f"samples       {escape(report.samples)}")
    for warning in report.warnings:
        say(f"[yellow]warning[/]       {escape(warning)}")
    kernels = table("\nkernels in the file", left=("kernel",), right=("layers", "copies"))
    for kernel in report.kernels:
        kernels.add_row(escape(kernel.kernel), str(len(kernel.layers)), str(kernel.copies))
    console.print(kernels)
