"""Recipe: one train → quantise → export → audit → bench run. One TOML file each, in `pipelines/`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from edgeks.errors import ConfigError
from edgeks.graph.passes.roll import rolled_scheme
from edgeks.layered_toml import Layer, merged, read_layers
from edgeks.models.presets import PRESETS
from edgeks.quant.options import Int8Options
from edgeks.target import FORMS, LAYERS, MODES, Activations, Int8Form, Target, catalogue, load_target, read_form
from edgeks.toml_table import Table, unknown_key
from edgeks.train.dataset import MAX_SIDE, MIN_SIDE
from edgeks.train.settings import TrainSettings

PRECISIONS = ("fp32", "int8")
NOT_RECIPES = ("protocols", "studies")  # folders of `pipelines/`: bases, and what runs many recipes
# What [qat] does not say it takes from [train], but for these.
QAT_DEFAULTS: dict[str, Any] = {"qat": "learned", "schedule": "cosine", "milestones": [], "precision": "fp32"}


_REHEARSED = {"epochs": 1, "schedule": "cosine", "milestones": [], "frozen_norm_epochs": 0}
# Over a recipe for a rehearsal: does all of it run through?
QUICK = Layer({"train": _REHEARSED, "qat": _REHEARSED}, "--quick", adds=False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train, on what, how, and what to make of it. `data_size` None: the data set's own image size.

    `form` is that of static int8; how layers that repeat are written is the target's.

    `qat`: how the trained network is then fine-tuned with fake quantisation; None: it is not.
    """

    path: Path
    description: str
    architecture: str
    config: dict[str, Any]
    data: str
    data_size: int | None
    training: TrainSettings
    qat: TrainSettings | None
    target: Target
    precisions: tuple[str, ...]
    form: Int8Form | None
    activations: Activations | None
    bench_runs: int
    bench_warmup: int

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What is made: fp32, int8 (quantised after training), int8_qat."""
        return (*self.precisions, *(("int8_qat",) if self.qat else ()))

    @property
    def name(self) -> str:
        """The file's name without ending; of a shipped one with its family, `shardnet/sl_vggnet_256`."""
        return _shipped_name(self.path) or self.path.stem


def recipe_names() -> list[str]:
    """Names of all shipped recipes; those of a paper with its family: `kernel_sharing/convmixer_128_4`."""
    names = [_shipped_name(path) or "" for path in catalogue("pipelines").rglob("*.toml")]
    return sorted((name for name in names if name.partition("/")[0] not in NOT_RECIPES), key=_by_family_and_number)


def load_recipe(name: str, over: Sequence[Layer] = ()) -> Recipe:
    """Recipe from a TOML path, or a shipped one by name or by its path in the repository (`pipelines/quickstart.toml`).

    `over` is laid over it, the later over the earlier.

    Raises:
        ConfigError: no such recipe, malformed TOML, or a wrong key or value.
    """
    path = find_file(name, recipe_names())
    if path is None:
        study = find_base(f"studies/{Path(name).stem}.toml", Path("recipe.toml"))
        if study is not None:
            raise ConfigError(f"{name} is a study, of many trainings: `edgeks study {study.stem}` runs it")
        raise ConfigError(
            f"no recipe {name!r}; legal: the path of a .toml file, or a name that `edgeks recipes` lists{_like(name)}"
        )
    return read_recipe(path, over)


def find_file(name: str, shipped: Sequence[str]) -> Path | None:
    """The TOML file at the path `name`, or that of `shipped` which it names; None: neither."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    plain = name.removeprefix("pipelines/").removesuffix(".toml")
    return catalogue("pipelines") / f"{plain}.toml" if plain in shipped else None


def find_base(base: str, path: Path) -> Path | None:
    """The file that `path` calls its base: from its own folder, or from `pipelines/`."""
    candidates = (path.parent / base, catalogue("pipelines") / base)
    return next((found for found in candidates if found.suffix == ".toml" and found.is_file()), None)


def read_overlay(name: str) -> list[Layer]:
    """A TOML file with some keys of a recipe, and its bases, to be laid over a recipe; by path, or one of `pipelines/`.

    Raises:
        ConfigError: there is no such file, or it is not TOML.
    """
    file = name if name.endswith(".toml") else f"{name}.toml"
    path = find_base(file, Path("recipe.toml"))
    if path is None:
        raise ConfigError(f"--with {name}: no such file, and none of {catalogue('pipelines')}")
    return read_layers(path, find_base)


def _shipped_name(path: Path) -> str | None:
    """`shardnet/sl_vggnet_256`; None: a file of the user's own."""
    root = catalogue("pipelines")
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else None


def _by_family_and_number(name: str) -> tuple[str, list[tuple[int, str]]]:
    """Recipes without a family first, and d2 before d10."""
    family, _, own = name.rpartition("/")
    return family, [(int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", own)]


def _like(name: str) -> str:
    """The shipped names that `name` may have meant."""
    close = difflib.get_close_matches(name.removesuffix(".toml"), recipe_names(), n=3, cutoff=0.5)
    close += [known for known in recipe_names() if known.rpartition("/")[2] == name and known not in close]
    return f" (quickstart, {', '.join(close)} …)" if close else " (quickstart …)"


def read_recipe(path: Path, over: Sequence[Layer] = ()) -> Recipe:
    """TOML file, its bases below it and `over` above it → Recipe (see `pipelines/quickstart.toml` for every key).

    Raises:
        ConfigError: a file cannot be read or is not TOML, or a wrong key or value.
    """
    files = read_layers(path, find_base)
    if any("plans" in layer.values for layer in files):
        raise ConfigError(f"{path} is a study, of many trainings: `edgeks study {path}` runs it")
    root = merged([*files, *over], path)

    model = root.table("model")
    architecture = model.text("architecture")
    preset = PRESETS.get(architecture)
    description = root.text("description", default=preset.description if preset else architecture)
    config = model.table("config").values()
    model.finish()

    data = root.table("data")
    source = data.text("source")
    size = data.integer("size", minimum=MIN_SIDE, maximum=MAX_SIDE) if data.has("size") else None
    data.finish()

    train = root.table("train")
    train_values = train.values()
    training = _training(train, "train", train_values)
    qat = None
    if root.has("qat"):
        qat_table = root.table("qat")
        qat_values = qat_table.values()
        if qat_values.get("qat") == "off":
            where = qat_table.origin("qat")
            raise ConfigError(f"{where}: [qat]: qat is 'off'; legal: learned, moving_average, or no [qat] at all")
        qat = _training(qat_table, "qat", {**train_values, **QAT_DEFAULTS, **qat_values})

    export = root.table("export")
    target_name = export.text("target", default="onnx")
    try:
        target = load_target(target_name)
    except ConfigError as error:
        raise ConfigError(f"{export.origin('target')}: key 'export.target': {error}") from error
    precisions = export.texts("precisions", default=PRECISIONS, choices=PRECISIONS)
    if not precisions:
        raise export.error("precisions", [], "fp32, int8 or both")
    legal = (*FORMS, *LAYERS[target.format])
    layers, form = read_form(export.text("form", choices=legal)) if export.has("form") else (None, None)
    activations = cast(Activations, export.text("activations", choices=MODES)) if export.has("activations") else None
    try:
        target = target.with_layers(layers or target.layers)
        scheme = Int8Options(form=form, activations=activations).scheme(target.int8)
        if target.layers == "rolled" and "int8" in precisions:
            rolled_scheme(scheme, form)
        if target.common_scales and qat:
            raise ConfigError(f"--form {target.layers} has no scales of its own for each layer: leave [qat] out")
    except ConfigError as error:
        raise ConfigError(f"{export.origin('form')}: key 'export.form': {error}") from error
    export.finish()

    bench = root.table("bench")
    runs = bench.integer("runs", default=200, minimum=1, maximum=1_000_000)
    warmup = bench.integer("warmup", default=20, maximum=1_000_000)
    bench.finish()
    root.finish()
    return Recipe(
        path=path,
        description=description,
        architecture=architecture,
        config=config,
        data=source,
        data_size=size,
        training=training,
        qat=qat,
        target=target,
        precisions=tuple(precision for precision in PRECISIONS if precision in precisions),
        form=form,
        activations=activations,
        bench_runs=runs,
        bench_warmup=warmup,
    )


def _training(table: Table, name: str, values: dict[str, Any]) -> TrainSettings:
    """The values of [train] or [qat] → settings; an error names the file or option that the wrong value is from."""
    legal = [field.name for field in fields(TrainSettings)]
    for key in values:
        if key not in legal:
            raise unknown_key(table.origin(key), f"{name}.{key}", legal)
    if "epochs" not in values:
        raise ConfigError(f"{table.origin('epochs')}: key '{name}.epochs' is missing; legal: a whole number")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key in ("distillation", "temperature"):
        if values.get(key, 0) != 0:
            raise ConfigError(
                f"{table.origin(key)}: key '{name}.{key}': a recipe has no teacher to learn from; leave it out, or "
                "take `edgeks train --teacher` or `edgeks share`"
            )
    try:
        return TrainSettings(**plain)
    except ConfigError as error:
        key = str(error).removeprefix("training: ").partition(" ")[0]  # what TrainSettings says begins with the key
        raise ConfigError(f"{table.origin(key)}: [{name}]: {error}") from error
