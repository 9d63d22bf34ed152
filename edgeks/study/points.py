"""Study → points: which networks are trained, with the widths that give them equal parameters worked out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgeks.errors import CheckpointError, ConfigError
from edgeks.layered_toml import Layer, flat
from edgeks.models.counts import parameters as count_parameters
from edgeks.recipe import Recipe, read_recipe
from edgeks.study.cost import NetworkCost, meta_network, network_cost
from edgeks.study.settings import MAX_VALUE, Plan, Study

SEED = "train.seed"
REACH = 64  # widths that may be refused in a row
REFUSED = -1  # instead of a number of parameters


@dataclass(frozen=True, slots=True)
class Point:
    """One training: a plan at a width, depth and seed, as a recipe, and what its network costs."""

    plan: str
    width: int
    depth: int | None
    seed: int
    recipe: Recipe
    cost: NetworkCost

    @property
    def name(self) -> str:
        """The name of its run folder."""
        plan = re.sub(r"[^A-Za-z0-9]+", "_", self.plan).strip("_").lower() or "plan"
        depth = "" if self.depth is None else f"_depth{self.depth}"
        return f"{plan}_width{self.width}{depth}_seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Images:
    """What the networks of a study are built for."""

    channels: int
    height: int
    width: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """C×H×W."""
        return self.channels, self.height, self.width


def study_points(study: Study, over: Sequence[Layer], images: Images) -> list[Point]:
    """All points of `study`, in the order in which they are to be run; `over` is laid over each of its recipes.

    Raises:
        ConfigError: a point's recipe is wrong, its network cannot be built, or two points are one.
    """
    points = []
    for plan, width, depth in _sizes(study, over, images):
        first = _recipe(study, plan, width, depth, over)
        network = _network(study, plan, width, depth, first, images)
        cost = network_cost(network, images.shape)
        for seed in study.seeds:
            recipe = replace(first, training=replace(first.training, seed=seed))
            points.append(Point(plan.name, width, depth, seed, recipe, cost))
    names = [point.name for point in points]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{study.path}: two points are {twice}; legal: plans whose names differ in letters and digits"
        )
    return sorted(points, key=lambda point: study.seeds.index(point.seed))


def require_not_varied(study: Study, over: Sequence[Layer]) -> None:
    """What is laid over all points leaves alone what makes them differ.

    Raises:
        ConfigError: a key that a plan, the width, the depth or the seeds set.
    """
    varied = {SEED: "seeds"}
    for plan in study.plans:
        varied |= dict.fromkeys(flat(plan.values), "[[plans]]")
    varied |= dict.fromkeys(flat(study.width.scale), "[width]")
    varied |= dict.fromkeys(flat(study.depth.scale) if study.depth else (), "[depth]")
    for layer in over:
        for key in flat(layer.values):
            where = next((w for known, w in varied.items() if _within(key, known) or _within(known, key)), None)
            if where is not None:
                instead = "--seeds gives others" if key == SEED else "a study file of your own can vary it otherwise"
                raise ConfigError(f"{layer.origin}: key '{key}' is what the study varies ({where}); {instead}")


def _within(key: str, table: str) -> bool:
    return key == table or key.startswith(f"{table}.")


def _sizes(study: Study, over: Sequence[Layer], images: Images) -> list[tuple[Plan, int, int | None]]:
    depths: tuple[int | None, ...] = study.depth.values if study.depth else (None,)
    widths = study.width.values
    if study.kind == "iso_channel":
        return [(plan, width, depth) for plan in study.plans for depth in depths for width in widths]

    def parameters(plan: Plan, width: int, depth: int | None) -> int:
        recipe = _recipe(study, plan, width, depth, over)
        return count_parameters(_network(study, plan, width, depth, recipe, images))

    first = study.plans[0]
    sizes = []
    for plan in study.plans:
        for depth in depths:
            for width in widths:
                wanted = parameters(first, width, depth if study.kind == "iso_parameter" else depths[0])
                found = nearest_width(lambda w, p=plan, d=depth: parameters(p, w, d), wanted)  # type: ignore[misc]
                if found is None:
                    parameters(plan, width, depth)  # says why, where it is refused
                    raise ConfigError(
                        f"{study.path}: plan {plan.name!r}{'' if depth is None else f' at depth {depth}'} has about "
                        f"{wanted:,} parameters at no width; legal: a depth and a first width at which it has"
                    )
                sizes.append((plan, found, depth))
    return sizes


def nearest_width(parameters: Callable[[int], int], wanted: int) -> int | None:
    """The width whose number of parameters, which grows with it, is nearest to `wanted`, the smaller of equals.

    Widths that `parameters` refuses (CheckpointError) are passed over, up to 64 in a row. None: no width has as many.
    """

    @cache
    def count(width: int) -> int:
        try:
            return parameters(width)
        except (CheckpointError, ConfigError):
            return REFUSED

    def enough(width: int) -> int | None:
        """This width or the next that is not refused, where it has as many parameters as wanted."""
        found = next((w for w in range(width, width + REACH + 1) if count(w) != REFUSED), None)
        return found if found is not None and count(found) >= wanted else None

    high = next((width for width in _doubled() if enough(width) is not None), None)
    if high is None:
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) is not None else (middle, high)
    above = enough(high) or high
    below = low if low and count(low) != REFUSED else above
    return min(below, above, key=lambda width: abs(count(width) - wanted))


def _doubled() -> list[int]:
    return [1 << power for power in range(MAX_VALUE.bit_length())]


def _recipe(study: Study, plan: Plan, width: int, depth: int | None, over: Sequence[Layer]) -> Recipe:
    values = [study.over.values, plan.values, study.width.at(width)]
    if study.depth is not None and depth is not None:
        values.append(study.depth.at(depth))
    if study.precisions:
        values.append({"export": {"precisions": list(study.precisions)}})
    return read_recipe(Path(study.recipe), [*(Layer(v, study.over.origin) for v in values), *over])


def _network(study: Study, plan: Plan, width: int, depth: int | None, recipe: Recipe, images: Images) -> Any:
    config: Mapping[str, Any] = recipe.config
    try:
        return meta_network(recipe.architecture, config, images.channels, images.classes)
    except CheckpointError as error:
        where = f"plan {plan.name!r}, width {width}{'' if depth is None else f', depth {depth}'}"
        raise CheckpointError(f"{study.path}: {where}: {error}") from error
