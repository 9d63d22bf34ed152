"""`edgeks train`: from nothing, or from a checkpoint, to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeks.cli.options import ArchOption, TargetOption, err, say
from edgeks.errors import ConfigError, OutputError


def train(
    model: Annotated[
        str,
        typer.Argument(help="A name from `edgeks models`, package.module:callable, or a checkpoint to go on from."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The checkpoint to write. Default: model.pt; with --qat model_qat.pt."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="digits, cifar10:, cifar100:, tiny_imagenet:, imagenet: or folder: and DIR; docs/data.md."),
    ] = "digits",
    size: Annotated[int | None, typer.Option(help="Images are SIZE × SIZE.")] = None,
    lazy: Annotated[
        bool | None,
        typer.Option(
            "--lazy/--in-memory", help="Decode image files batch by batch. Default: where all would take over 4 GiB."
        ),
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option("--set", help="Config of the network, such as dim=64.", metavar="KEY=VALUE")
    ] = None,
    qat: Annotated[bool, typer.Option("--qat", help="Train with fake quantisation: docs/qat.md.")] = False,
    ranges: Annotated[str, typer.Option(help="With --qat: learned or moving_average step sizes.")] = "learned",
    target: TargetOption = "onnx",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    schedule: Annotated[str, typer.Option(help="cosine or milestones.")] = "cosine",
    milestones: Annotated[str, typer.Option(help="Epochs after which lr is multiplied by gamma: 80,120.")] = "",
    gamma: Annotated[float, typer.Option(help="Factor at a milestone.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of kernels and matrices.")] = 0.01,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    augment: Annotated[list[str] | None, typer.Option(help="crop, resized_crop, flip; one or more times.")] = None,
    frozen_norm_epochs: Annotated[int, typer.Option(help="Last epochs with the running BN statistics.")] = 0,
    positive_scales: Annotated[
        bool | None,
        typer.Option(
            "--positive-scales/--no-positive-scales",
            help="Keep γ of every BN > 0: no negative int8 scale. Default: yes, unless a checkpoint has some below 0.",
        ),
    ] = None,
    validation: Annotated[float, typer.Option(help="Share held out to choose the best epoch.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: torch's choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    arch: ArchOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a network and write a checkpoint that `edgeks export` needs nothing else for."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.models.positive_scales import has_negative_scale
    from edgeks.pipeline import TrainJob, train_checkpoint
    from edgeks.target import load_target
    from edgeks.train.data import load_dataset
    from edgeks.train.loading import loading_progress
    from edgeks.train.progress import progress_for
    from edgeks.train.settings import TrainSettings

    if ranges not in ("learned", "moving_average"):
        raise ConfigError(f"--ranges {ranges}: legal: learned, moving_average")
    start = load_checkpoint(Path(model), arch) if Path(model).suffix in (".pt", ".pth", ".safetensors") else None
    if positive_scales is None:
        positive_scales = start is None or not has_negative_scale(start.model)
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,  # type: ignore[arg-type]  # TrainSettings checks the choices
        schedule=schedule,  # type: ignore[arg-type]
        milestones=_whole_numbers(milestones),
        gamma=gamma,
        weight_decay=weight_decay,
        momentum=momentum,
        augment=tuple(augment or ()),  # type: ignore[arg-type]
        qat=ranges if qat else "off",  # type: ignore[arg-type]
        frozen_norm_epochs=frozen_norm_epochs,
        validation=validation,
        positive_scales=positive_scales,
        seed=seed,
        threads=threads,
        device=device,
    )
    output = output or Path("model_qat.pt" if qat else "model.pt")
    if start is not None and output.resolve() == Path(model).resolve():
        raise OutputError(f"-o {output}: is the checkpoint to go on from; name another file")
    scheme = load_target(target).int8
    with loading_progress(err, quiet=quiet) as told:
        dataset = load_dataset(data, size, lazy=lazy, told=told)
    job = TrainJob(model, _config(config or []), dataset, settings, start, scheme)
    checkpoint = train_checkpoint(job, output, resume=resume, progress=progress_for(err, quiet=quiet))
    accuracy = 100 * checkpoint.metrics["test_accuracy"]
    say(f"{output}: test accuracy {accuracy:.2f} %, best epoch {checkpoint.metrics['best_epoch']:.0f}")


def _config(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs → config; a value is JSON where it can be read as JSON, else text."""
    config: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair}: legal: KEY=VALUE, such as dim=64")
        try:
            config[key] = json.loads(value)
        except json.JSONDecodeError:
            config[key] = value
    return config


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"--milestones {text}: legal: whole numbers with commas, such as 80,120") from error
