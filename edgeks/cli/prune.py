"""`edgeks prune` and `blending`: what blending layers can lose, and how they look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import ArchOption, JsonOption, TrustOption, err, image_size, out, print_json, say
from edgeks.errors import ConfigError, OutputError
from edgeks.wording import counted, first_names

SHOWN = 4

if TYPE_CHECKING:
    from edgeks.pruning import PruneReport

LayersOption = Annotated[
    str, typer.Option(help="blending, pointwise, or a pattern of layer names: 'blocks.*.blend'.", metavar="WHICH")
]
ModelArgument = Annotated[Path, typer.Argument(help="Checkpoint: .pt or .safetensors.", metavar="MODEL.pt")]


def prune(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="As `edgeks train` takes it: digits, cifar10:DIR … Its test part.")] = "",
    size: Annotated[int | None, typer.Option(help="Resize every image to SIZE × SIZE.")] = None,
    layers: LayersOption = "blending",
    shares: Annotated[str, typer.Option(help="Pruned shares to measure.")] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    criterion: Annotated[
        str | None, typer.Option(help="global (smallest weights of all layers) or layer (of each). Default: both.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="With -o: the share that is pruned there.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the checkpoint pruned at --share.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy against share: .svg, .png or .pdf.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the points as comma-separated values.")] = None,
    arch: ArchOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prune the smallest weights of the blending layers, without retraining: test accuracy against pruned share."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.pruning import CRITERIA, pruned, write_csv, zero_share
    from edgeks.pruning import prune as measure
    from edgeks.train.data import load_dataset

    if (share is None) != (output is None):
        raise ConfigError("--share and -o belong together: the share to prune at, and the checkpoint to write")
    if output is not None and output.resolve() == model.resolve():
        raise OutputError(f"-o {output}: is the checkpoint that is read; name another file")
    if not data and (output is None or plot or csv):
        raise ConfigError("--data is missing: the data set that the accuracy is measured on, such as digits")
    _check_picture(plot)
    asked = _shares(shares)
    if share is not None and share not in asked:
        asked = sorted([*asked, share])
    checkpoint = load_checkpoint(model, arch, trust=trust)
    criteria = CRITERIA if criterion is None else (criterion,)
    report, zeros = None, 0.0
    if data:
        with err.status("loading the data") as status:
            dataset = load_dataset(data, size or image_size(checkpoint))
            report = measure(
                checkpoint, dataset, layers=layers, shares=asked, criteria=criteria,  # type: ignore[arg-type]
                on_point=lambda done, of: status.update(f"accuracy {done} of {of}"),
            )  # fmt: skip
    if output is not None and share is not None:
        smaller = pruned(checkpoint, share, layers=layers, criterion=criteria[0], out=output)  # type: ignore[arg-type]
        zeros = zero_share(smaller.model, layers)
    if report is not None and csv is not None:
        write_csv(report, csv)
    if report is not None and plot is not None:
        _draw(report, plot, model.name)
    if as_json and report is not None:
        print_json(report.to_json())
    elif report is not None:
        _show(report)
    if not as_json:
        for path in filter(None, (csv, plot)):
            say(f"{path}: written")
        if output is not None:
            say(f"{output}: {100 * zeros:.1f} % zeros by the {criteria[0]} criterion; `edgeks export` takes it")


def blending(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Picture: .png, .svg or .pdf. Default: MODEL_blending.png.")
    ] = None,
    layers: LayersOption = "blending",
    arch: ArchOption = None,
    trust: TrustOption = False,
) -> None:
    """Draw the kernels of the blending layers as images: of every row the lowest and highest 32 weights are marked."""
    from edgeks.blending_layers import chosen_kernels
    from edgeks.checkpoint import load_checkpoint
    from edgeks.figures.blending_picture import blending_picture
    from edgeks.figures.style import write_figure

    output = output or Path(f"{model.stem}_blending.png")
    _check_picture(output)
    kernels = chosen_kernels(load_checkpoint(model, arch, trust=trust).model, layers)
    panels = [(kernel.name, kernel.matrix()) for kernel in kernels]
    with err.status("drawing"):
        write_figure(blending_picture(panels, title=f"{model.name}: blending weights, outputs × inputs"), output)
    say(f"{output}: {first_names([name for name, _ in panels], SHOWN)}")


def _show(report: PruneReport) -> None:
    from edgeks.terminal import table

    kernels = counted(len(report.kernels), "kernel")
    names = first_names([kernel.name for kernel in report.kernels], SHOWN)
    say(f"{report.weights:,} weights in {kernels} of {report.parameters:,} parameters: {names}")
    rows = table(
        f"{report.data}, {report.images:,} test images: {100 * report.accuracy:.2f} %",
        left=("criterion",),
        right=("pruned", "kernels keep", "accuracy", "change"),
    )
    for point in report.points:
        low, high = 100 * point.least_kept, 100 * point.most_kept
        rows.add_row(
            point.criterion,
            f"{100 * point.share:.1f} %",
            f"{low:.0f} %" if round(low) == round(high) else f"{low:.0f}–{high:.0f} %",
            f"{100 * point.accuracy:.2f} %",
            f"{100 * (point.accuracy - report.accuracy):+.2f}",
        )
    out.print(rows)


def _draw(report: PruneReport, path: Path, name: str) -> None:
    from edgeks.figures.pruned_share import pruned_share
    from edgeks.figures.style import write_figure

    words = {"global": "over all layers together", "layer": "layer by layer"}
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in report.points:
        lines.setdefault(words[point.criterion], []).append((point.share, point.accuracy))
    whose = f"{100 * report.weights / report.parameters:.0f} % of its {report.parameters:,} parameters"
    title = f"{name} on {report.data}: pruned without retraining\n{len(report.kernels)} kernels, {whose}"
    write_figure(pruned_share(lines, report.accuracy, title=title, chance=report.chance), path)


def _check_picture(path: Path | None) -> None:
    """Before minutes are spent on what could not be written."""
    from edgeks.figures.style import ENDINGS

    if path is not None and path.suffix not in ENDINGS:
        raise OutputError(f"{path}: a figure cannot be written as {path.suffix or 'that'}; legal: {', '.join(ENDINGS)}")


def _shares(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--shares {text!r}: legal: numbers 0 to 1 with commas, such as 0,0.5,0.9") from error
