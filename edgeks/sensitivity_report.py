"""What int8 costs each kernel, for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from edgeks.quant.sensitivity import Sensitivity
from edgeks.terminal import table


def render(found: Sensitivity, console: Console) -> None:
    """Print both tables and the suggestions."""
    kernels = table(
        f"\nsensitivity: SQNR in dB against float, {found.samples} samples; all kernels in int8: {found.sqnr_db:.1f}",
        left=("kernel",),
        right=("layers", "int8 bytes", "float bytes", "alone int8", "kept float", "gain"),
        last="rounding",
    )
    for group in sorted(found.groups, key=lambda group: -group.gain_db):
        sizes = (str(group.layers), f"{group.int8_bytes:,}", f"{group.float_bytes:,}")
        figures = (f"{group.alone_db:.1f}", f"{group.without_db:.1f}", f"{group.gain_db:+.1f}")
        kernels.add_row(escape(group.name), *sizes, *figures, group.rounding)
    console.print(kernels)
    settings = table("\ncalibration", left=("method",), right=("SQNR", "with bias correction"))
    plain = {row.calibration: row.sqnr_db for row in found.settings if not row.bias_correction}
    corrected = {row.calibration: row.sqnr_db for row in found.settings if row.bias_correction}
    for method, sqnr_db in plain.items():
        settings.add_row(method, f"{sqnr_db:.1f}", f"{corrected[method]:.1f}")
    console.print(settings)
    for suggestion in found.suggestions:
        console.print(f"suggestion    {escape(suggestion)}", soft_wrap=True)
