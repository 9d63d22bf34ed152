"""Magnitude pruning without retraining (ShardNet §5.2): what goes at a share, and the test accuracy that is left.

The kernels that are pruned are those of the blending layers, or of the layers that the user names. A kernel that
several layers read is pruned once and counted once.
"""

from __future__ import annotations

import copy
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from edgeks.atomic_write import atomic_write
from edgeks.blending_layers import ChosenKernel, chosen_kernels
from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.errors import ConfigError, DataError
from edgeks.train.dataset import Dataset
from edgeks.train.fit import evaluate

Criterion = Literal["global", "layer"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
SHARES = tuple(tenth / 10 for tenth in range(10))
SCHEMA = "edgeks.prune/1"


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """A kernel that was pruned: its weights, and how many are 0 at the point."""

    name: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]
    weights: int


@dataclass(frozen=True, slots=True)
class PrunedPoint:
    """A share of the chosen kernels' weights set to 0, and the test accuracy (0…1) that is left.

    `zeros` counts what is 0 in the chosen kernels then, `share` is that over their weights: more than was asked for
    where the kernels held more zeros before. `least_kept` and `most_kept`: what the kernels hit hardest and least keep.
    """

    criterion: Criterion
    asked: float
    share: float
    zeros: int
    least_kept: float
    most_kept: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class PruneReport:
    """Accuracy against pruned share. `weights`: of the chosen kernels; `parameters`: of the network, each once."""

    data: str
    images: int
    classes: int
    accuracy: float
    parameters: int
    weights: int
    kernels: tuple[PrunedLayer, ...]
    points: tuple[PrunedPoint, ...]

    @property
    def chance(self) -> float:
        """Accuracy of guessing, where the classes are equally frequent."""
        return 1 / self.classes

    def to_json(self) -> dict[str, Any]:
        """Plain data; docs/pruning.md says what the keys are."""
        return {"schema": SCHEMA, **asdict(self)}

    def to_csv(self) -> str:
        """A line per point. Shares and accuracies are 0…1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["criterion", "asked", "share", "zeros", "of_all_parameters", "accuracy"])
        for point in self.points:
            whole = f"{point.zeros / self.parameters:.6g}"
            figures = (f"{point.asked:g}", f"{point.share:.6g}", point.zeros, whole, f"{point.accuracy:.6g}")
            writer.writerow([point.criterion, *figures])
        return text.getvalue()


def prune(
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    layers: str = "blending",
    shares: Sequence[float] = SHARES,
    criteria: Sequence[Criterion] = CRITERIA,
    on_point: Callable[[int, int], None] = lambda done, of: None,
) -> PruneReport:
    """Test accuracy at each share, by each criterion, the network untouched; nothing is retrained.

    `global`: the weights nearest 0 of all chosen kernels together go first. `layer`: of each kernel the same share.
    `on_point` is told how many of the accuracies are known.

    Raises:
        PlanError: no layer is what `layers` names.
        ConfigError: a share that is not 0…1, or an unknown criterion.
        DataError: the data are not what the network was trained on.
    """
    for share in shares:
        _check_share(share)
    _check_criteria(criteria)
    if checkpoint.preprocessing is not None:
        dataset.check_fits(checkpoint.preprocessing)
    preprocessing = checkpoint.preprocessing or dataset.preprocessing
    model = copy.deepcopy(checkpoint.model)
    kernels = chosen_kernels(model, layers)
    whole = [kernel.weight.detach().clone() for kernel in kernels]
    wanted = [(criterion, share) for criterion in criteria for share in shares]

    def accuracy() -> float:
        try:
            return evaluate(model, dataset.test_images, dataset.test_labels, preprocessing)
        except RuntimeError as error:  # a checkpoint that does not say what it takes
            raise DataError(
                f"{dataset.name}: the network does not take its images ({str(error).partition(chr(10))[0]}); "
                "legal: the data that it was trained on (--data, --size)"
            ) from error

    baseline = accuracy()
    on_point(1, 1 + len(wanted))
    points = []
    for number, (criterion, share) in enumerate(wanted, start=2):
        masks = kept_weights(whole, share, criterion)
        _write(kernels, whole, masks)
        if all(torch.equal(kernel.weight, tensor) for kernel, tensor in zip(kernels, whole, strict=True)):
            found = baseline
        else:
            found = accuracy()
        points.append(_point(criterion, share, kernels, found))
        on_point(number, 1 + len(wanted))
    return PruneReport(
        data=dataset.name,
        images=len(dataset.test_labels),
        classes=len(dataset.preprocessing.classes),
        accuracy=baseline,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights=sum(tensor.numel() for tensor in whole),
        kernels=tuple(PrunedLayer(k.name, k.layers, tuple(k.weight.shape), k.weight.numel()) for k in kernels),
        points=tuple(points),
    )


def pruned(
    checkpoint: Checkpoint,
    share: float,
    *,
    layers: str = "blending",
    criterion: Criterion = "global",
    out: Path | None = None,
) -> Checkpoint:
    """Checkpoint → one with `share` of the chosen kernels' weights set to 0; written to `out`.

    Its metrics are left out: they were those of the whole network.

    Raises:
        PlanError: no layer is what `layers` names.
        ConfigError: a share that is not 0…1, or an unknown criterion.
        OutputError: `out` cannot be written.
    """
    _check_share(share)
    _check_criteria([criterion])
    model = copy.deepcopy(checkpoint.model)
    kernels = chosen_kernels(model, layers)
    whole = [kernel.weight.detach().clone() for kernel in kernels]
    _write(kernels, whole, kept_weights(whole, share, criterion))
    smaller = replace(checkpoint, model=model, metrics={})
    if out is not None:
        save_checkpoint(out, smaller)
    return smaller


def kept_weights(kernels: Sequence[Tensor], share: float, criterion: Criterion) -> list[Tensor]:
    """Masks of the kernels' shapes, True where a weight stays. Exactly round(share · weights) go, also among equals.

    Among equal magnitudes the first goes first: the same weights give the same masks.
    """
    if criterion == "layer":
        return [_largest(kernel.flatten().abs(), share).view(kernel.shape) for kernel in kernels]
    together = _largest(torch.cat([kernel.flatten().abs() for kernel in kernels]), share)
    parts = torch.split(together, [kernel.numel() for kernel in kernels])
    return [part.view(kernel.shape) for part, kernel in zip(parts, kernels, strict=True)]


def zero_share(model: nn.Module, layers: str = "blending") -> float:
    """How many of the chosen kernels' weights are 0: 0…1."""
    kernels = [kernel.weight for kernel in chosen_kernels(model, layers)]
    return 1 - sum(int(kernel.count_nonzero()) for kernel in kernels) / sum(kernel.numel() for kernel in kernels)


def write_csv(report: PruneReport, path: Path) -> None:
    """Report → file of comma-separated values, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(report.to_csv(), encoding="utf-8")


def _largest(magnitudes: Tensor, share: float) -> Tensor:
    gone = round(share * magnitudes.numel())
    keep = torch.ones(magnitudes.numel(), dtype=torch.bool)
    keep[torch.sort(magnitudes, stable=True).indices[:gone]] = False
    return keep


@torch.no_grad()
def _write(kernels: Sequence[ChosenKernel], whole: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    for kernel, tensor, mask in zip(kernels, whole, masks, strict=True):
        kernel.weight.copy_(torch.where(mask, tensor, 0.0))


def _point(criterion: Criterion, asked: float, kernels: Sequence[ChosenKernel], accuracy: float) -> PrunedPoint:
    sizes = [kernel.weight.numel() for kernel in kernels]
    zeros = [size - int(kernel.weight.count_nonzero()) for size, kernel in zip(sizes, kernels, strict=True)]
    kept = [1 - zero / size for zero, size in zip(zeros, sizes, strict=True)]
    return PrunedPoint(criterion, asked, sum(zeros) / sum(sizes), sum(zeros), min(kept), max(kept), accuracy)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1 or math.isnan(share):
        raise ConfigError(f"pruned share {share:g}; legal: 0 to 1, such as 0.5")


def _check_criteria(criteria: Sequence[str]) -> None:
    for criterion in criteria:
        if criterion not in CRITERIA:
            raise ConfigError(f"pruning criterion {criterion!r}; legal: {', '.join(CRITERIA)}")
