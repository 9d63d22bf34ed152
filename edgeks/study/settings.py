"""Study: which networks are trained and compared. One TOML file each, such as those in `pipelines/studies/`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from edgeks.errors import ConfigError
from edgeks.layered_toml import Layer, merged, read_layers
from edgeks.recipe import PRECISIONS, find_base, find_file, recipe_names
from edgeks.target import catalogue
from edgeks.toml_table import Table

Kind = Literal["iso_channel", "iso_parameter", "iso_depth"]
KINDS: tuple[Kind, ...] = ("iso_channel", "iso_parameter", "iso_depth")
STUDIES = "studies"
MAX_SEEDS, MAX_SEED = 100, 2**31 - 1
MAX_VALUE = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """One way of sharing kernels: a colour of the figure. `values` are keys of a recipe."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axis:
    """Widths or depths. `scale` holds keys of a recipe, whose numbers are multiplied by each of `values` in turn."""

    values: tuple[int, ...]
    scale: Mapping[str, Any]

    def at(self, value: int) -> dict[str, Any]:
        """The keys of a recipe at `value`; what is no whole number is rounded, up to 1 at least."""
        scaled: dict[str, Any] = _scaled(self.scale, value)
        return scaled


@dataclass(frozen=True, slots=True)
class Study:
    """Plans × widths × depths × seeds of one recipe.

    - iso_channel: every plan at every width and depth that is listed.
    - iso_parameter: so for the first plan; every other plan, at each depth, has the width at which it has as many
      parameters as the first plan.
    - iso_depth: every plan at every depth that is listed has the width at which it has as many parameters as the first
      plan at the first width and depth: deeper networks are narrower.

    `over` is laid over the recipe at every point. `precisions`: what is exported at every point; none: points are only
    trained.
    """

    path: Path
    description: str
    kind: Kind
    recipe: str
    over: Layer
    plans: tuple[Plan, ...]
    width: Axis
    depth: Axis | None
    seeds: tuple[int, ...]
    precisions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without ending."""
        return self.path.stem


def study_names() -> list[str]:
    """Names of all shipped studies."""
    return sorted(path.stem for path in (catalogue("pipelines") / STUDIES).glob("*.toml"))


def load_study(name: str) -> Study:
    """Study from a TOML path, or a shipped one by name.

    Raises:
        ConfigError: no such study, malformed TOML, or a wrong key or value.
    """
    plain = name.removeprefix("pipelines/").removeprefix(f"{STUDIES}/").removesuffix(".toml")
    path = find_file(name, ())
    if path is None and plain in study_names():
        path = catalogue("pipelines") / STUDIES / f"{plain}.toml"
    if path is None and find_file(name, recipe_names()) is not None:
        raise ConfigError(f"{name} is a recipe, of one training: `edgeks run {name}` runs it")
    if path is None:
        raise ConfigError(f"no study {name!r}; legal: the path of a .toml file, or one of {', '.join(study_names())}")
    return read_study(path)


def read_study(path: Path) -> Study:
    """TOML file, over its bases → Study (see `pipelines/studies/quick_iso_channel.toml` for every key)."""
    layers = read_layers(path, find_base)
    keys = {key for layer in layers for key in layer.values}
    if "model" in keys and "plans" not in keys:
        raise ConfigError(f"{path} is a recipe, of one training: `edgeks run {path}` runs it")
    root = merged(layers, path)
    description = root.text("description")
    kind = cast(Kind, root.text("kind", choices=KINDS))
    recipe = root.text("recipe")
    if not recipe.endswith(".toml"):
        recipe = f"{recipe}.toml"
    base = find_base(recipe, path)
    if base is None:
        raise root.error("recipe", recipe, "the path of a .toml file from this one's folder, or a shipped recipe")
    over = Layer(root.table("set").values(), str(path))
    width = _axis(root.table("width"))
    depth = _axis(root.table("depth")) if root.has("depth") else None
    if kind == "iso_depth":
        if depth is None:
            raise root.error("depth", None, "a table with values and set: iso_depth compares depths")
        if len(width.values) > 1:
            raise root.error(
                "width", {"values": list(width.values)}, "one value: that of the first plan at first depth"
            )
    seeds = _numbers(root, "seeds", [0], maximum=MAX_SEED, most=MAX_SEEDS)
    precisions = root.texts("precisions", default=(), choices=PRECISIONS)
    plans = _plans(root)
    root.finish()
    return Study(path, description, kind, str(base), over, plans, width, depth, seeds, precisions)


def read_seeds(text: str) -> tuple[int, ...]:
    """`0,1` → the seeds.

    Raises:
        ConfigError: something else.
    """
    parts = text.split(",")
    seeds = tuple(int(part) for part in parts if re.fullmatch(r" *[0-9]{1,10} *", part))
    if len(seeds) < len(parts) or len(set(seeds)) < len(seeds) or len(seeds) > MAX_SEEDS or max(seeds) > MAX_SEED:
        raise ConfigError(f"--seeds {text}: legal: 1 to {MAX_SEEDS} whole numbers, 0 to {MAX_SEED}, each once: 0,1,2")
    return seeds


def _plans(root: Table) -> tuple[Plan, ...]:
    plans = []
    for table in root.tables("plans"):
        plans.append(Plan(table.text("name"), table.table("set").values()))
        table.finish()
    names = [plan.name for plan in plans]
    if not plans or len(set(names)) < len(names) or not all(names):
        raise root.error("plans", names, "at least one [[plans]] with a name and `set`, each name once")
    return tuple(plans)


def _axis(table: Table) -> Axis:
    values = _numbers(table, "values", None, minimum=1, maximum=MAX_VALUE, most=1000)
    scale = table.table("set").values()
    if not scale:
        raise table.error(
            "set", scale, "keys of a recipe, such as set.model.config.dim = 1, to be multiplied by values"
        )
    _require_numbers(table, scale)
    table.finish()
    return Axis(values, scale)


def _numbers(
    table: Table, key: str, default: Sequence[int] | None, *, maximum: int, most: int, minimum: int = 0
) -> tuple[int, ...]:
    values = table.integers(key, default, minimum=minimum, maximum=maximum)
    if not values or len(values) > most or len(set(values)) < len(values):
        raise table.error(key, list(values), f"1 to {most} whole numbers, each once")
    return values


def _require_numbers(table: Table, value: object) -> None:
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        if isinstance(inner, Mapping | list):
            _require_numbers(table, inner)
        elif isinstance(inner, bool) or not isinstance(inner, int | float) or not 0 < inner <= MAX_VALUE:
            raise table.error("set", inner, "numbers above 0, which are multiplied by values")


def _scaled(coefficient: Any, value: int) -> Any:
    if isinstance(coefficient, Mapping):
        return {key: _scaled(inner, value) for key, inner in coefficient.items()}
    if isinstance(coefficient, list):
        return [_scaled(inner, value) for inner in coefficient]
    return max(1, round(coefficient * value))
