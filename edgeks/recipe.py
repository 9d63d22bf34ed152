"""Recipe: one train → quantise → export → audit → bench run. One TOML file in `pipelines/` each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from edgeks.errors import ConfigError
from edgeks.graph.passes.roll import rolled_scheme
from edgeks.quant.options import Int8Options
from edgeks.target import FORMS, LAYERS, MODES, Activations, Int8Form, Target, catalogue, load_target, read_form
from edgeks.toml_table import Table
from edgeks.train.settings import TrainSettings

PRECISIONS = ("fp32", "int8")
# What [qat] does not say it takes from [train], but for these.
QAT_DEFAULTS: dict[str, Any] = {"qat": "learned", "schedule": "cosine", "milestones": [], "precision": "fp32"}


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
        """The file's name without ending."""
        return self.path.stem


def recipe_names() -> list[str]:
    """Names of all shipped recipes."""
    return sorted(path.stem for path in catalogue("pipelines").glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """Recipe from a TOML path, or a shipped one by name or by its path in the repository (`pipelines/quickstart.toml`).

    Raises:
        ConfigError: no such recipe, malformed TOML, or a wrong key or value.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return read_recipe(path)
    if path.stem in recipe_names() and str(path.parent) in (".", "pipelines"):
        return read_recipe(catalogue("pipelines") / f"{path.stem}.toml")
    raise ConfigError(f"no recipe {name!r}; legal: the path of a .toml file, or one of {', '.join(recipe_names())}")


def read_recipe(path: Path) -> Recipe:
    """TOML file → Recipe (see `pipelines/quickstart.toml` for every key)."""
    root = Table.read(path)
    description = root.text("description")

    model = root.table("model")
    architecture = model.text("architecture")
    config = model.table("config").values()
    model.finish()

    data = root.table("data")
    source = data.text("source")
    size = data.integer("size", minimum=4, maximum=4096) if data.has("size") else None
    data.finish()

    train_values = root.table("train").values()
    training = _training(path, "train", train_values)
    qat = None
    if root.has("qat"):
        qat_values = root.table("qat").values()
        if qat_values.get("qat") == "off":
            raise ConfigError(f"{path}: [qat]: qat is 'off'; legal: learned, moving_average, or no [qat] at all")
        qat = _training(path, "qat", {**train_values, **QAT_DEFAULTS, **qat_values})

    export = root.table("export")
    target_name = export.text("target", default="onnx")
    try:
        target = load_target(target_name)
    except ConfigError as error:
        raise ConfigError(f"{path}: key 'export.target': {error}") from error
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
        raise ConfigError(f"{path}: key 'export.form': {error}") from error
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


def _training(path: Path, table: str, values: dict[str, Any]) -> TrainSettings:
    legal = [field.name for field in fields(TrainSettings)]
    for key in values:
        if key not in legal:
            raise ConfigError(f"{path}: unknown key '{table}.{key}'; legal keys here: {', '.join(legal)}")
    if "epochs" not in values:
        raise ConfigError(f"{path}: key '{table}.epochs' is missing; legal: a whole number")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return TrainSettings(**plain)
    except ConfigError as error:
        raise ConfigError(f"{path}: [{table}]: {error}") from error
