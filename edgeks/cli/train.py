"""`edgeks train`: from nothing, or from a checkpoint, to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeks.cli.options import ArchOption, TargetOption, err, given, key_values, say
from edgeks.errors import ConfigError, OutputError

OPTIMISER, AUGMENTATION, INT8 = "Optimiser and schedule", "Augmentation (0: off)", "Int8"
DISTILLATION, SCALE = "Distillation", "Speed and scale (docs/training.md)"


# Options, and what they are for: one of these, or they do nothing.
MEANT_FOR = {
    "ranges": ("--qat",),
    "target": ("--qat",),
    "patience": ("--schedule plateau",),
    "gamma": ("--schedule plateau", "--schedule milestones"),
    "momentum": ("--optimizer sgd",),
    "adam_eps": ("--optimizer adamw",),
    "distillation": ("--teacher",),
    "temperature": ("--teacher",),
}


def train(
    context: typer.Context,
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
    qat: Annotated[
        bool, typer.Option("--qat", help="Train with fake quantisation: docs/qat.md.", rich_help_panel=INT8)
    ] = False,
    ranges: Annotated[
        str, typer.Option(help="With --qat: learned or moving_average step sizes.", rich_help_panel=INT8)
    ] = "learned",
    target: TargetOption = "onnx",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step, of all processes together.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.", rich_help_panel=OPTIMISER)] = "adamw",
    schedule: Annotated[str, typer.Option(help="cosine, milestones or plateau.", rich_help_panel=OPTIMISER)] = "cosine",
    milestones: Annotated[
        str, typer.Option(help="Epochs after which lr is multiplied by gamma: 80,120.", rich_help_panel=OPTIMISER)
    ] = "",
    gamma: Annotated[float, typer.Option(help="Factor of milestones and plateau.", rich_help_panel=OPTIMISER)] = 0.1,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement that plateau lets pass.", rich_help_panel=OPTIMISER)
    ] = 10,
    weight_decay: Annotated[float, typer.Option(help="Of kernels and matrices.", rich_help_panel=OPTIMISER)] = 0.01,
    momentum: Annotated[float, typer.Option(help="Of SGD.", rich_help_panel=OPTIMISER)] = 0.9,
    adam_eps: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=OPTIMISER)] = 1e-8,
    clip_norm: Annotated[
        float, typer.Option(help="Bound of the norm of all gradients; 0: none.", rich_help_panel=OPTIMISER)
    ] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of a label spread over all.", rich_help_panel=OPTIMISER)
    ] = 0.0,
    ema: Annotated[
        float, typer.Option(help="Decay of a running mean of the weights to keep.", rich_help_panel=OPTIMISER)
    ] = 0.0,
    augment: Annotated[
        list[str] | None,
        typer.Option(help="crop, resized_crop, flip; one or more times.", rich_help_panel=AUGMENTATION),
    ] = None,
    randaugment: Annotated[float, typer.Option(help="Magnitude, 0 to 10.", rich_help_panel=AUGMENTATION)] = 0.0,
    mixup: Annotated[float, typer.Option(help="α of its Beta distribution.", rich_help_panel=AUGMENTATION)] = 0.0,
    cutmix: Annotated[float, typer.Option(help="α of its Beta distribution.", rich_help_panel=AUGMENTATION)] = 0.0,
    erasing: Annotated[
        float, typer.Option(help="Share of images with a rectangle of noise.", rich_help_panel=AUGMENTATION)
    ] = 0.0,
    cutout: Annotated[int, typer.Option(help="Side of a square of the mean colour.", rich_help_panel=AUGMENTATION)] = 0,
    teacher: Annotated[
        Path | None,
        typer.Option(help="A checkpoint whose logits are learned too.", rich_help_panel=DISTILLATION),
    ] = None,
    distillation: Annotated[
        float, typer.Option(help="The teacher's weight beside the labels.", rich_help_panel=DISTILLATION)
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option(help="That softens both networks' logits.", rich_help_panel=DISTILLATION)
    ] = 4.0,
    frozen_norm_epochs: Annotated[
        int, typer.Option(help="Last epochs with the running BN statistics.", rich_help_panel=INT8)
    ] = 0,
    positive_scales: Annotated[
        bool | None,
        typer.Option(
            "--positive-scales/--no-positive-scales",
            help="Keep γ of every BN > 0: no negative int8 scale. Default: yes, unless a checkpoint has some below 0.",
            rich_help_panel=INT8,
        ),
    ] = None,
    validation: Annotated[float, typer.Option(help="Share held out to choose the best epoch.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.", rich_help_panel=SCALE)
    ] = "auto",
    processes: Annotated[
        int, typer.Option(help="On this machine, data parallel; a GPU each.", rich_help_panel=SCALE)
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Of a process. Default: torch's choice.", rich_help_panel=SCALE)
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or mixed with bf16 or fp16.", rich_help_panel=SCALE)] = "fp32",
    accumulation: Annotated[
        int, typer.Option(help="Parts that a step's images are computed in.", rich_help_panel=SCALE)
    ] = 1,
    arch: ArchOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a network and write a checkpoint that `edgeks export` needs nothing else for."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.models.positive_scales import has_negative_scale
    from edgeks.target import load_target
    from edgeks.train.data import load_dataset
    from edgeks.train.loading import loading_progress
    from edgeks.train.processes import joined, rank
    from edgeks.train.progress import progress_for
    from edgeks.train.settings import TrainSettings
    from edgeks.train_job import TrainJob, state_file, train_checkpoint

    chosen = {"--qat": qat, "--teacher": teacher, f"--schedule {schedule}": True, f"--optimizer {optimizer}": True}
    _check_meant(context, {option for option, value in chosen.items() if value})
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
        patience=patience,
        weight_decay=weight_decay,
        momentum=momentum,
        adam_eps=adam_eps,
        clip_norm=clip_norm,
        accumulation=accumulation,
        precision=precision,  # type: ignore[arg-type]
        ema=ema,
        label_smoothing=label_smoothing,
        augment=tuple(augment or ()),  # type: ignore[arg-type]
        randaugment=randaugment,
        mixup=mixup,
        cutmix=cutmix,
        erasing=erasing,
        cutout=cutout,
        distillation=distillation if teacher else 0.0,
        temperature=temperature,
        qat=ranges if qat else "off",  # type: ignore[arg-type]
        frozen_norm_epochs=frozen_norm_epochs,
        validation=validation,
        positive_scales=positive_scales,
        seed=seed,
        threads=threads,
        device=device,
        processes=processes,
    )
    output = output or Path("model_qat.pt" if qat else "model.pt")
    if start is not None and output.resolve() == Path(model).resolve():
        raise OutputError(f"-o {output}: is the checkpoint to go on from; name another file")
    scheme = load_target(target).int8
    with joined(device):  # first, so that where torchrun started several only one says what is wrong
        taught = load_checkpoint(teacher).model if teacher else None
        with loading_progress(err, quiet=quiet or rank() > 0) as told:
            dataset = load_dataset(data, size, lazy=lazy, told=told)
        job = TrainJob(model, key_values("--set", config or [], "dim=64"), dataset, settings, start, scheme, taught)
        finished = resume and output.exists() and not state_file(output).exists()
        checkpoint = train_checkpoint(job, output, resume=resume, progress=progress_for(err, quiet=quiet))
        accuracy = 100 * checkpoint.metrics["test_accuracy"]
        if rank() == 0:
            what = "finished already, test accuracy" if finished else "test accuracy"
            say(f"{output}: {what} {accuracy:.2f} %, best epoch {checkpoint.metrics['best_epoch']:.0f}")


def _check_meant(context: typer.Context, chosen: set[str]) -> None:
    """No option of the command line is for something that is not `chosen`.

    Raises:
        ConfigError: one is, and would do nothing.
    """
    for name, meant_for in MEANT_FOR.items():
        option = given(context, name)
        if option and not chosen & {*meant_for}:
            raise ConfigError(
                f"{option[0]} {context.params[name]}: is for {' or '.join(meant_for)}; add that, or leave it out"
            )


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"--milestones {text}: legal: whole numbers with commas, such as 80,120") from error
