"""Target: what an export must satisfy. One TOML file in `export/` each; the loader names file, key and legal values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from edgeks.errors import ConfigError
from edgeks.toml_table import Table

Precision = Literal["fp32", "fp16", "int8"]
Format = Literal["onnx", "tflite"]
Int8Form = Literal["qdq", "qoperator"]
Int8Type = Literal["int8", "uint8"]
Activations = Literal["static", "dynamic", "float", "auto"]
KernelLibrary = Literal["xnnpack", "builtin", "reference"]
Layers = Literal["unrolled", "rolled", "cached"]

FORMS: tuple[Int8Form, ...] = ("qdq", "qoperator")
MODES: tuple[Activations, ...] = ("static", "dynamic", "float", "auto")
RUNTIMES: dict[Format, tuple[str, ...]] = {"onnx": ("onnxruntime",), "tflite": ("litert", "tflite-runtime")}
KERNEL_LIBRARIES: tuple[KernelLibrary, ...] = ("xnnpack", "builtin", "reference")
LAYERS: dict[Format, tuple[Layers, ...]] = {"onnx": ("unrolled", "rolled"), "tflite": ("unrolled", "rolled", "cached")}
# Names of ONNX Runtime 1.31; it takes any other in silence, and then does what was to be prevented.
OPTIMIZERS = (
    "BiasGeluFusion", "CommonSubexpressionElimination", "ConstantFolding", "ConvActivationFusion",
    "ConvAddActivationFusion", "ConvAddFusion", "ConvBNFusion", "ConvMulFusion", "FastGeluFusion",
    "GemmActivationFusion", "GemmSumFusion", "GemmTransposeFusion", "MatMulAddFusion", "MatMulScaleFusion",
    "MatMul_BatchNormalization_Fusion", "NchwcTransformer", "NhwcTransformer", "QDQPropagationTransformer",
    "QDQS8ToU8Transformer", "QDQSelectorActionTransformer", "QuickGeluFusion", "ReshapeFusion", "TransposeOptimizer",
)  # fmt: skip
OPTIMISATION_LEVELS = ("disabled", "basic", "extended", "all")
MEGABYTE = 1_000_000
KIBIBYTE = 1024
MAX_BOARD_MB = 1 << 24
RATES = {"minimum": 0.001, "maximum": 1e6}
MAX_OPTION_TEXT = 1000  # ONNX Runtime refuses session options that are much longer


@dataclass(frozen=True, slots=True)
class Session:
    """How the runtime is to be opened so that sharing survives in RAM (ONNX Runtime's SessionOptions).

    `arena`: activations in an arena that keeps its memory, else from the C library's heap. `memory_pattern`: from the
    second inference on all activations lie in one planned block, beside what the first inference took.
    """

    threads: int
    graph_optimization: str
    disabled_optimizers: tuple[str, ...]
    config: tuple[tuple[str, str], ...] = ()
    arena: bool = True
    memory_pattern: bool = True


@dataclass(frozen=True, slots=True)
class LiteRtSession:
    """How a LiteRT interpreter is opened.

    `kernels`: "xnnpack" (the default delegate), "builtin" (TFLite's own, which read the file's kernels in place), or
    "reference" (plain loops, the same codes on every CPU).
    """

    threads: int = 1
    kernels: KernelLibrary = "xnnpack"


@dataclass(frozen=True, slots=True)
class Int8Scheme:
    """int8 quantisation: `weights` int8 has zero point 0, uint8 has zero point 128 (the same codes + 128).

    `mode` says what becomes of activations between int8 kernels: "static" integers with calibrated scales, "dynamic"
    float that each layer quantises on the fly, "float" (weight-only), "auto" the one that runs fastest for the network.
    `form` and `activations` are about static. `format` decides which operators compute in integers.
    `kernel_zero_point` is that of the int8 kernels that several convolutions share, 0 or −1 (the same codes − 1): other
    than 0 ONNX Runtime holds one packed copy of such a kernel, not one per layer (docs/adr/0017).
    """

    form: Int8Form
    activations: Int8Type
    weights: Int8Type
    mode: Activations = "static"
    format: Format = "onnx"
    kernel_zero_point: int = 0


@dataclass(frozen=True, slots=True)
class Board:
    """The hardware, where the target is one board: for the budget check and for reports.

    Rates are peaks that no network exceeds, of all cores together: the memory's in 10⁹ bytes, the arithmetic's in 10⁹
    multiply-accumulates a second; None: not known. `cache_bytes` is what all caches hold together.
    """

    name: str
    cpu: str
    cores: int
    ram_bytes: int
    memory_gb_per_s: float | None = None
    fp32_gmac_per_s: float | None = None
    int8_gmac_per_s: float | None = None
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Format, runtime, quantisation scheme, op set, session options and budgets. `None` budget: unlimited.

    `layers` says how layers that repeat are written: "unrolled", one node each; "rolled", the body of one loop;
    "cached" (TFLite), one node each in a form of which XNNPACK's weight cache holds one copy per kernel.
    """

    name: str
    description: str
    format: Format
    runtime: str
    opset: int
    int8: Int8Scheme
    session: Session | LiteRtSession
    min_fp32_sqnr_db: float
    min_fp16_sqnr_db: float
    min_int8_sqnr_db: float
    flash_budget_bytes: int | None
    ram_budget_bytes: int | None
    board: Board | None
    layers: Layers = "unrolled"

    def min_sqnr_db(self, precision: Precision) -> float:
        """What an export of that precision must reach."""
        return {"fp32": self.min_fp32_sqnr_db, "fp16": self.min_fp16_sqnr_db, "int8": self.min_int8_sqnr_db}[precision]

    @property
    def common_scales(self) -> bool:
        """Whether the layers of a kernel have its scales in common, and no bias of their own (docs/adr/0018)."""
        return self.format == "tflite" and self.layers != "unrolled"

    def with_layers(self, layers: Layers) -> Target:
        """The same target with layers that repeat written so.

        Raises:
            ConfigError: its format has no such form, or its runtime no weight cache.
        """
        if layers not in LAYERS[self.format]:
            raise ConfigError(f"--form {layers}: legal for {self.format}: {', '.join(LAYERS[self.format])}")
        kernels = self.session.kernels if isinstance(self.session, LiteRtSession) else ""
        if layers == "cached" and (self.runtime, kernels) != ("litert", "xnnpack"):
            raise ConfigError(
                f"--form cached: the weight cache is XNNPACK's, in LiteRT, and target {self.name!r} runs "
                f"{kernels} kernels in {self.runtime}, which read the file's own; legal: unrolled, rolled"
            )
        return replace(self, layers=layers)


def read_form(form: str) -> tuple[Layers | None, Int8Form | None]:
    """A form as `--form` and recipes name it → how layers that repeat are written, or the form of static int8 in ONNX.

    Raises:
        ConfigError: it is neither.
    """
    if form in FORMS:
        return None, form
    if form in get_args(Layers):
        return cast(Layers, form), None
    raise ConfigError(f"--form {form}: legal: {', '.join((*get_args(Layers), *FORMS))}")


def catalogue(kind: Literal["export", "pipelines"]) -> Path:
    """Folder of the TOML catalogue: of the checkout when edgeks runs from one, else the copy inside the wheel."""
    package = Path(__file__).parent
    shipped = package / "catalogue" / kind
    return shipped if shipped.is_dir() else package.parent / kind


def target_names() -> list[str]:
    """Names of all shipped targets."""
    return sorted(path.stem for path in catalogue("export").glob("*.toml"))


def load_target(name: str) -> Target:
    """Target by name, or from the path of a TOML file of the user's own.

    Raises:
        ConfigError: no such target, malformed TOML, or a wrong key or value.
    """
    if name.endswith(".toml"):
        return read_target(Path(name))
    path = catalogue("export") / f"{name}.toml"
    if name not in target_names():
        raise ConfigError(f"unknown target {name!r}; legal: {', '.join(target_names())}, or the path of a .toml file")
    return read_target(path)


def read_target(path: Path) -> Target:
    """TOML file → Target (see `export/onnx.toml` for every key)."""
    root = Table.read(path)
    description = root.text("description")
    model_format = cast(Format, root.text("format", choices=tuple(RUNTIMES)))
    runtime = root.text("runtime", choices=RUNTIMES[model_format])
    opset = root.integer("opset", default=20, minimum=20, maximum=24)
    layers = cast(Layers, root.text("layers", default="unrolled", choices=LAYERS[model_format]))

    int8 = root.table("int8")
    scheme = Int8Scheme(
        form=cast(Int8Form, int8.text("form", default="qdq", choices=FORMS)),
        activations=cast(Int8Type, int8.text("activations", default="int8", choices=("int8", "uint8"))),
        weights=cast(Int8Type, int8.text("weights", default="int8", choices=("int8", "uint8"))),
        mode=cast(Activations, int8.text("mode", default="static", choices=MODES)),
        format=model_format,
        kernel_zero_point=int8.integer("kernel_zero_point", default=0, minimum=-1, maximum=0),
    )
    int8.finish()
    if model_format == "tflite" and (scheme.form, scheme.activations, scheme.weights) != ("qdq", "int8", "int8"):
        found = f"{scheme.form}, {scheme.activations}, {scheme.weights}"
        raise int8.error("form, activations, weights", found, "qdq, int8, int8: TFLite's int8 kernels take no other")
    if model_format == "onnx" and scheme.mode == "auto":
        raise int8.error("mode", "auto", "static, dynamic, float for the format onnx")
    if scheme.weights == "uint8" and scheme.activations == "int8":
        raise int8.error("weights", "uint8", "int8, unless activations are uint8: runtimes have no s8×u8 kernels")

    if scheme.kernel_zero_point and (model_format == "tflite" or scheme.weights == "uint8"):
        reason = "TFLite's int8 kernels have zero point 0" if model_format == "tflite" else "uint8 kernels have 128"
        raise int8.error("kernel_zero_point", scheme.kernel_zero_point, f"0, because {reason}; leave it out")

    session_table = root.table("session")
    session = _read_litert(session_table) if model_format == "tflite" else _read_onnxruntime(session_table)

    parity = root.table("parity")
    min_fp32 = parity.number("min_fp32_sqnr_db", default=80.0, maximum=1000.0)
    min_fp16 = parity.number("min_fp16_sqnr_db", default=45.0, maximum=1000.0)
    min_int8 = parity.number("min_int8_sqnr_db", default=15.0, maximum=1000.0)
    parity.finish()

    budget = root.table("budget")
    flash_mb = budget.number("flash_mb", maximum=MAX_BOARD_MB) if budget.has("flash_mb") else None
    ram_mb = budget.number("ram_mb", maximum=MAX_BOARD_MB) if budget.has("ram_mb") else None
    budget.finish()

    board = _read_board(root.table("board")) if root.has("board") else None
    root.finish()
    target = Target(
        name=path.stem,
        description=description,
        format=model_format,
        runtime=runtime,
        opset=opset,
        int8=scheme,
        session=session,
        min_fp32_sqnr_db=min_fp32,
        min_fp16_sqnr_db=min_fp16,
        min_int8_sqnr_db=min_int8,
        flash_budget_bytes=None if flash_mb is None else int(flash_mb * MEGABYTE),
        ram_budget_bytes=None if ram_mb is None else int(ram_mb * MEGABYTE),
        board=board,
    )
    try:
        return target.with_layers(layers)
    except ConfigError as error:
        raise ConfigError(f"{path}: key 'layers': {error}") from error


def _read_litert(table: Table) -> LiteRtSession:
    threads = table.integer("threads", default=1, minimum=1, maximum=1024)
    kernels = cast(KernelLibrary, table.text("kernels", default="xnnpack", choices=KERNEL_LIBRARIES))
    table.finish()
    return LiteRtSession(threads, kernels)


def _read_onnxruntime(table: Table) -> Session:
    threads = table.integer("threads", default=1, minimum=1, maximum=1024)
    level = table.text("graph_optimization", default="all", choices=OPTIMISATION_LEVELS)
    disabled = table.texts("disabled_optimizers", choices=OPTIMIZERS)
    config = tuple(
        (key, str(int(value) if isinstance(value, bool) else value))
        for key, value in table.table("config").scalars().items()
    )
    for key, value in config:
        if not key or len(key) > MAX_OPTION_TEXT or len(value) > MAX_OPTION_TEXT:
            raise table.error("config", {key: value}, f"keys and values of up to {MAX_OPTION_TEXT} characters")
    arena, memory_pattern = table.boolean("arena", default=True), table.boolean("memory_pattern", default=True)
    table.finish()
    return Session(threads, level, disabled, config, arena, memory_pattern)


def _read_board(table: Table) -> Board:
    board = Board(
        name=table.text("name"),
        cpu=table.text("cpu"),
        cores=table.integer("cores", minimum=1, maximum=1024),
        ram_bytes=table.integer("ram_mb", minimum=1, maximum=MAX_BOARD_MB) * MEGABYTE,
        memory_gb_per_s=_read_rate(table, "memory_gb_per_s"),
        fp32_gmac_per_s=_read_rate(table, "fp32_gmac_per_s"),
        int8_gmac_per_s=_read_rate(table, "int8_gmac_per_s"),
        cache_bytes=table.integer("cache_kib", default=0, maximum=MAX_BOARD_MB) * KIBIBYTE,
    )
    table.finish()
    return board


def _read_rate(table: Table, key: str) -> float | None:
    return table.number(key, **RATES) if table.has(key) else None
