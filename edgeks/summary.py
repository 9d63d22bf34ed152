"""What a run has shown, as a table, as Markdown and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from edgeks.recipe import Recipe
from edgeks.run_folder import RunFolder
from edgeks.terminal import table

SCHEMA = "edgeks.summary/1"
HEADINGS = (
    "artefact",
    "test accuracy",
    "SQNR",
    "kernels stored",
    "file bytes",
    "unshared file",
    "ratio",
    "RAM, predicted",
    "peak activations",
    "p50",
)


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One artefact. Accuracy is a share 0…1 on the test images, run in the target's runtime."""

    artefact: str
    accuracy: float
    test_images: int
    sqnr_db: float
    kernels_stored: int
    sharing_groups: int
    unshared_layers: int
    layers: int
    file_bytes: int
    unshared_file_bytes: int | None
    ram_bytes: int | None
    peak_activation_bytes: int | None
    p50_ms: float | None

    @property
    def ratio(self) -> float | None:
        """File bytes of the same network with every kernel stored per layer, over this file's."""
        return None if self.unshared_file_bytes is None else self.unshared_file_bytes / self.file_bytes

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADINGS`."""
        return (
            self.artefact,
            f"{100 * self.accuracy:.2f} %",
            f"{self.sqnr_db:.1f} dB",
            f"{self.kernels_stored} = {self.sharing_groups} groups + {self.unshared_layers} unshared",
            f"{self.file_bytes:,}",
            "–" if self.unshared_file_bytes is None else f"{self.unshared_file_bytes:,}",
            "–" if self.ratio is None else f"{self.ratio:.2f} ×",
            "–" if self.ram_bytes is None else f"{self.ram_bytes / 1e6:.1f} MB",
            "–" if self.peak_activation_bytes is None else f"{self.peak_activation_bytes:,} B",
            "–" if self.p50_ms is None else f"{self.p50_ms:.3f} ms",
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run. `torch_accuracy` is the trained network's own, on the same test images."""

    recipe: str
    description: str
    data: str
    target: str
    torch_accuracy: float
    runtime: str
    cpu: str
    rows: tuple[SummaryRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data; bytes, shares and milliseconds as numbers."""
        data = asdict(self)
        for row, made in zip(data["rows"], self.rows, strict=True):
            row["ratio"] = made.ratio
        return {"schema": SCHEMA, **data}

    def to_markdown(self) -> str:
        """The page that a run leaves in its folder."""
        lines = [
            f"# {self.recipe}",
            "",
            self.description,
            "",
            f"Data: {self.data}, {self.rows[0].test_images:,} test images. Target: {self.target}. "
            f"Test accuracy in torch: {100 * self.torch_accuracy:.2f} %.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|{'---|' * len(HEADINGS)}",
            *(f"| {' | '.join(row.cells())} |" for row in self.rows),
            "",
            "Kernels stored: one per sharing group and one per unshared layer, proven on the written file. SQNR:",
            "outputs against torch on real samples (int8_qat: against the fake-quantised network). Ratio: the same",
            "network exported with a kernel per layer, over",
            "this file. RAM: predicted for the target, while the file is opened or run, above a process that",
            f"has imported the runtime. p50: {self.runtime} on {self.cpu}; no board is involved.",
            "",
        ]
        return "\n".join(lines)


def render(summary: Summary, folder: Path, console: Console) -> None:
    """Print the table, one column per artefact."""
    title = f"{summary.recipe}: test accuracy in torch {100 * summary.torch_accuracy:.2f} %"
    rows = table(title, left=("",), right=tuple(row.artefact for row in summary.rows))
    for index, heading in enumerate(HEADINGS[1:], start=1):
        rows.add_row(heading, *(row.cells()[index] for row in summary.rows))
    console.print(rows)
    where = escape(str(folder))
    console.print(
        f"p50: {summary.runtime} on {summary.cpu}; everything is in {where}/, the page is {where}/summary.md",
        soft_wrap=True,
    )


def summarise(recipe: Recipe, runs: RunFolder, metrics: dict[str, float], shared: bool) -> Summary:
    """Finished stages of a run → Summary, from the files that they left."""
    rows, cpu, runtime = [], "this machine", recipe.target.runtime
    for name in recipe.artefacts:
        artefact = f"{name}.{recipe.target.format}"
        ledger = runs.read_json(f"{artefact}.ledger.json")
        accuracy = runs.read_json(f"{name}.accuracy.json")
        (bench,) = runs.read_json(f"{name}.bench.json")["measurements"]
        facts = bench["repetitions"][0]["facts"]
        footprint = runs.read_json(f"{name}.footprint.json")
        groups, unshared = ledger["plan"]["groups"], ledger["plan"]["unshared"]
        cpu = facts.get("cpu") or cpu
        runtime = f"{facts.get('runtime', runtime)} {facts.get('runtime_version', '')}".strip()
        rows.append(
            SummaryRow(
                artefact=artefact,
                accuracy=accuracy["accuracy"],
                test_images=accuracy["images"],
                sqnr_db=ledger["parity"]["sqnr_db"],
                kernels_stored=ledger["kernels_stored"],
                sharing_groups=len(groups),
                unshared_layers=len(unshared),
                layers=sum(len(kernel["layers"]) for kernel in groups + unshared),
                file_bytes=(runs.path / artefact).stat().st_size,
                unshared_file_bytes=_size(runs.path / f"unshared_{artefact}") if shared else None,
                ram_bytes=_needed(footprint["ram"][0]),
                peak_activation_bytes=footprint["activations"]["peak_bytes"],
                p50_ms=bench["latency"]["p50_ms"],
            )
        )
    return Summary(
        recipe=recipe.name,
        description=recipe.description,
        data=recipe.data,
        target=recipe.target.name,
        torch_accuracy=metrics["test_accuracy"],
        runtime=runtime,
        cpu=cpu,
        rows=tuple(rows),
    )


def _needed(profile: dict[str, Any]) -> int | None:
    """RAM under one profile of a footprint: the larger of load peak and run peak; None where it is not predicted."""
    if profile["run_peak"] is None:
        return None
    return max(int(profile["run_peak"]["total_bytes"]), int(profile["load_peak_bytes"] or 0))


def _size(path: Path) -> int | None:
    """Bytes of a file; None where the run does not make it."""
    return path.stat().st_size if path.exists() else None
