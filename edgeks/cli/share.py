"""`edgeks share`: which layers share a kernel, or an unshared network converted into a shared one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import ArchOption, JsonOption, TrustOption, err, given, image_size, out, print_json, say
from edgeks.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from edgeks.train.settings import TrainSettings


FOR_DATA = (
    "size", "epochs", "batch_size", "lr", "augment", "distillation", "temperature", "positive_scales", "seed",
    "threads", "device", "resume",
)  # fmt: skip


def share(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Checkpoint: .pt or .safetensors.", metavar="MODEL.pt")],
    groups: Annotated[
        str | None, typer.Option(help="Tie layers: all, stage, a number of groups, or a plan (.json).")
    ] = None,
    init: Annotated[
        str, typer.Option(help="Start the shared kernel from the first layer, the mean, or by least_squares.")
    ] = "least_squares",
    tie_bias: Annotated[bool, typer.Option("--tie-bias", help="Tie the layers' biases too.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The shared checkpoint to write.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Measure accuracies, and fine-tune: digits, cifar10:DIR … as for `edgeks train`."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Resize every image to SIZE × SIZE.")] = None,
    epochs: Annotated[int, typer.Option(help="Of fine-tuning; 0: tie, and measure BN statistics anew.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start (AdamW, cosine).")] = 0.003,
    augment: Annotated[list[str] | None, typer.Option(help="crop, flip; may be given several times.")] = None,
    distillation: Annotated[float, typer.Option(help="Weight of the original's logits beside the labels.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="At which logits are compared.")] = 4.0,
    positive_scales: Annotated[
        bool | None,
        typer.Option(
            "--positive-scales/--no-positive-scales",
            help="Keep γ of every BN > 0. Default: yes, unless the checkpoint has some below 0.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of order and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: torch's choice.")] = None,
    device: Annotated[str, typer.Option(help="For fine-tuning: cpu, cuda or auto.")] = "cpu",
    arch: ArchOption = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For stage: CxHxW.", metavar="CxHxW")] = None,
    trust: TrustOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted fine-tuning.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which layers share a kernel, or tie layers of an unshared network and fine-tune it: docs/sharing.md."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.models.positive_scales import has_negative_scale
    from edgeks.samples import parse_input_shape
    from edgeks.share import share as convert
    from edgeks.share_report import render, to_json
    from edgeks.sharing.report import plan_json, plan_table
    from edgeks.sharing.torch import discover
    from edgeks.train.data import load_dataset
    from edgeks.train.progress import progress_for
    from edgeks.train.settings import TrainSettings

    alone = given(context, "output", "data", "init", "tie_bias", *FOR_DATA) if groups is None else []
    if alone:
        raise ConfigError(f"{alone[0]} is for tying layers: add --groups all, stage, a number or a plan")
    alone = given(context, *FOR_DATA) if data is None and epochs != 0 else []
    if alone:
        raise ConfigError(f"{alone[0]} is for fine-tuning: add --data, such as --data cifar10:DIR")
    if output is not None and output.resolve() == model.resolve():
        raise OutputError(f"-o {output}: is the checkpoint to share; name another file")
    checkpoint = load_checkpoint(model, arch, trust=trust)
    if groups is None:
        plan = discover(checkpoint.model)
        if as_json:
            print_json(plan_json(plan))
        else:
            out.print(plan_table(plan))
        return
    settings: TrainSettings | None = None
    if data is not None and epochs != 0:
        settings = TrainSettings(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            augment=tuple(augment or ()),  # type: ignore[arg-type]  # TrainSettings checks the choices
            distillation=distillation,
            temperature=temperature,
            validation=0.0,  # the original has seen all training images: those held out would say nothing
            positive_scales=not has_negative_scale(checkpoint.model) if positive_scales is None else positive_scales,
            seed=seed,
            threads=threads,
            device=device,
        )
    result = convert(
        checkpoint,
        groups,
        init=init,
        tie_bias=tie_bias,
        input_shape=parse_input_shape(input_shape) if input_shape else None,
        dataset=None if data is None else load_dataset(data, size or image_size(checkpoint)),
        settings=settings,
        out=output,
        resume=resume,
        progress=progress_for(err, quiet=quiet),
        starting=lambda step: None if quiet else err.print(f"[dim]… {step}[/]"),
    )
    if as_json:
        print_json(to_json(result))
        return
    out.print(plan_table(discover(result.checkpoint.model)))
    out.print()
    render(result, out)
    if output and data is None:
        say(f"{output}: written; its accuracy is lost until it is fine-tuned: --data")
    elif output:
        say(f"{output}: test accuracy {result.checkpoint.metrics['test_accuracy']:.2%}")
