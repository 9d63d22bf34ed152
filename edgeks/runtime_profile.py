"""Runtime profiles: a runtime and how it is opened, which together decide what RAM a model file takes."""

from __future__ import annotations

import json
from dataclasses import dataclass

from edgeks.target import Format, LiteRtSession, Session, Target

# What edgeks' own targets ask of ONNX Runtime: BatchNormalization stays a node, so a shared kernel stays one kernel.
UNFOLDED = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion")


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to run a model file. `runtime` is onnxruntime, litert, litert-compiled or tflite-runtime."""

    name: str
    description: str
    runtime: str
    session: Session | LiteRtSession

    @property
    def options(self) -> str:
        """What to pass to the runtime for it, as its Python interface calls it."""
        if self.runtime == COMPILED:
            return "CompiledModel with CpuOptions(xnnpack_weight_cache_path=…)"
        if isinstance(self.session, LiteRtSession):
            resolver = RESOLVERS[self.session.kernels]
            return f"experimental_op_resolver_type=OpResolverType.{resolver}" if resolver else "no options"
        level = self.session.graph_optimization
        options = [] if level == "all" else [f"graph_optimization_level={level}"]
        if self.session.disabled_optimizers:
            options.append(f"disabled_optimizers={list(self.session.disabled_optimizers)}")
        if not self.session.arena:
            options.append("enable_cpu_mem_arena=False")
        if not self.session.memory_pattern:
            options.append("enable_mem_pattern=False")
        options += [f"add_session_config_entry{entry}" for entry in self.session.config]
        return ", ".join(options) or "no options"


COMPILED = "litert-compiled"
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
RESOLVERS = {"xnnpack": "", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}

PROFILES: dict[Format, tuple[Profile, ...]] = {
    "onnx": (
        Profile("ort-default", "ONNX Runtime as it comes", "onnxruntime", Session(1, "all", ())),
        Profile("ort-unfolded", "ONNX Runtime, BN stays a node", "onnxruntime", Session(1, "all", UNFOLDED)),
        Profile(
            "ort-no-prepacking",
            "ONNX Runtime, BN stays a node, no packed kernels",
            "onnxruntime",
            Session(1, "all", UNFOLDED, (("session.disable_prepacking", "1"),)),
        ),
        Profile(
            "ort-lean",
            "ONNX Runtime, BN stays a node, no second block for activations",
            "onnxruntime",
            Session(1, "all", UNFOLDED, memory_pattern=False),
        ),
    ),
    "tflite": (
        Profile("litert-xnnpack", "LiteRT as it comes", "litert", LiteRtSession(1, "xnnpack")),
        Profile("litert-builtin", "LiteRT, built-in kernels", "litert", LiteRtSession(1, "builtin")),
        Profile("litert-reference", "LiteRT, reference kernels", "litert", LiteRtSession(1, "reference")),
        Profile("tflite-runtime", "tflite-runtime 2.14 as it comes", "tflite-runtime", LiteRtSession(1, "xnnpack")),
        Profile(
            "litert-cached",
            "LiteRT's CompiledModel, packed kernels in a file beside the model, which takes flash too",
            COMPILED,
            LiteRtSession(1, "xnnpack"),
        ),
    ),
}


def profiles_for(model_format: Format, target: Target | None = None) -> tuple[Profile, ...]:
    """The profiles of a format; a target's own session comes first, under the target's name."""
    profiles = PROFILES[model_format]
    if target is None or target.format != model_format:
        return profiles
    return (Profile(target.name, target.description, target.runtime, target.session), *profiles)


@dataclass(frozen=True, slots=True)
class MeasuredRam:
    """Resident bytes above the process that has imported the runtime but not opened the file (`baseline_bytes`).

    `load_peak`: the most while the file is opened; `loaded`: once it is open; `run_peak`: the most of five inferences;
    `run`: after them. `…_anonymous`: the part that no file backs (heap); `…_mapped`: pages of the model's files. The
    arrays that the caller hands over are not in it. Free heap is given back before each reading (malloc_trim).
    """

    profile: str
    runtime_version: str
    machine: str
    baseline_bytes: int
    load_peak_bytes: int
    loaded_bytes: int
    loaded_anonymous_bytes: int
    loaded_mapped_bytes: int
    run_peak_bytes: int
    run_bytes: int
    run_anonymous_bytes: int
    run_mapped_bytes: int


def session_options(session: Session) -> list[str]:
    """Lines of Python that make the session's `options`, for `import onnxruntime as ort`.

    Optimizers that it disables are not among them: they are an argument of InferenceSession.
    """
    return [
        "options = ort.SessionOptions()",
        f"options.intra_op_num_threads = {session.threads}",
        "options.inter_op_num_threads = 1",
        f"options.graph_optimization_level = ort.GraphOptimizationLevel.{LEVELS[session.graph_optimization]}",
        *([] if session.arena else ["options.enable_cpu_mem_arena = False"]),
        *([] if session.memory_pattern else ["options.enable_mem_pattern = False"]),
        *(f"options.add_session_config_entry({literal(key)}, {literal(value)})" for key, value in session.config),
    ]


def literal(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
