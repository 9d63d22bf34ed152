"""Run a model in this fresh process and write what happens as JSON lines on stdout.

Self-contained: standard library, numpy and the runtime that runs the model (onnxruntime, ai-edge-litert or
tflite-runtime), Python 3.9 or newer, so that it can be copied to a board.

Input: one JSON object, on stdin or in the file named by the only argument. `model` is required:
    model                path of the .onnx or .tflite file
    runtime              onnxruntime, litert, litert-compiled (CompiledModel with a weight cache) or tflite-runtime
                         (by the file's suffix; for .tflite litert where it is installed, else tflite-runtime)
    threads              threads inside one op (1)
    graph_optimization   ONNX Runtime: disabled, basic, extended or all (all)
    disabled_optimizers  ONNX Runtime: names of its graph optimisers to leave out ([])
    session_config       ONNX Runtime: session config entries, text → text ({})
    arena                ONNX Runtime: enable_cpu_mem_arena (true)
    memory_pattern       ONNX Runtime: enable_mem_pattern (true)
    kernels              TFLite: xnnpack, builtin or reference (xnnpack)
    weight_cache         litert-compiled: folder that keeps XNNPACK's packed kernels. Required. Whether a model's cache
                         would be right is for the caller to know (edgeks/model_files/tflite_weight_cache.py)
    warmup               inferences that do not count (5); null: until latency is stable, see `warm_up`
    warmup_seconds       the most seconds of that (5)
    runs                 inferences that count (50)
    min_seconds          go on after `runs` until this many seconds of counted runs are over (0)
    pin                  cores that all threads stay on, [0, 1] ([]: any)
    profile              send the time of each operator as well, and slow the runs down by asking for it (false)
    seed                 of the random inputs (0)
    shapes               name → sizes of random inputs that the file leaves open; "" for the only input ({})
    inputs               .npz with one array per model input, or .npy for a model with one input (none: random)
    outputs              .npz to write the outputs of `samples` to, instead of timing: output_0, output_1, …, each
                         samples × … (none)
    samples              .npy of samples × … for the only input, fed in batches of the model's own size; or how many
                         random inferences (1)

One inference is: inputs handed over, computed, outputs taken.

Output: one JSON object per line, `event` says which:
    facts            runtime, runtime_version, python, platform, machine, cpu, cores, numpy_version
    load             ms
    inputs           name → {shape, dtype}
    first_inference  ms
    state            moment (before: the first counted inference, during: between two, after: the last), seconds since
                     the first reading, cores (where threads of this process computed last),
                     allowed_cores (how many it may run on), and, null where `unknown` (name → reason) says why:
                     clock_mhz and nominal_clock_mhz (one for each of `cores`; nominal: the most, on x86 without
                     turbo), temperature_c (the hottest zone), throttled (Raspberry Pi's bits), load_1min, and since the
                     reading before: own_cpu_s, others_cpu_s (on the allowed cores), steal_cpu_s (by the hypervisor),
                     swap_in_pages, swap_out_pages (of the system), major_faults, involuntary_switches (of this process)
    warmup           runs, seconds, stable (null where the number was given)
    memory           stage (start: runtime imported, loaded: file open, fed: inputs made, run: after the last
                     inference), rss_bytes, anonymous_bytes, mapped_bytes (pages of files below the model's folder,
                     or weight_cache, that were not mapped ahead of it: the model, its data files and its cache),
                     peak_bytes (the most resident since the reading before); null where the system does not say
    samples          ms: every latency since the last such event
    ops              with `profile`: ops, a list of name, type, ms (per inference), depth (0, in a Loop's body 1), in
                     the order they run in; or null, and the reason
    error            stage (config, model, input, run, memory), message: one line
    end              ok: whether all of it was done. A stream without `end` was cut off
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import math
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

SECONDS_BETWEEN_EVENTS = 0.5
MOST_SAMPLES = 10_000  # in one event: a line of less than 1 MiB, which the way from a board does not cut

# Warm-up: until the medians of two windows, one after the other, differ by less than this.
STABLE_WITHIN = 0.02
WINDOW_RUNS, WINDOW_SECONDS = 5, 0.1
WARMUP_SECONDS = 5.0


class Failure(Exception):
    """Something in the configuration, the model or the inputs makes the run impossible."""

    def __init__(self, stage: str, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
        self.stage = stage


# What the C++ of the runtimes says, in lower case; Python's own is MemoryError.
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "cannot allocate memory", "out of memory")


def failure(stage: str, error: Exception) -> Failure:
    """What an exception of a runtime means: what it says, or that memory is out."""
    message = " ".join(str(error).split())
    out = isinstance(error, MemoryError) or any(words in message.lower() for words in OUT_OF_MEMORY)
    if not out:
        hint = " (so does XNNPACK say that memory is out)" if "failed to create XNNPACK runtime" in message else ""
        return Failure(stage, message + hint)
    lines = read_text("/proc/meminfo").splitlines()
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    left = f"; the system has {int(available[0]) / 1e3:.0f} MB left" if available else ""
    doing = {"model": "loading the model"}.get(stage, "running the model")
    return Failure("memory", f"out of memory while {doing}{left} ({message or type(error).__name__})")


def emit(event: str, **fields: Any) -> None:
    """Write one JSON line, at once."""
    sys.stdout.write(json.dumps(dict(event=event, **fields)) + "\n")
    sys.stdout.flush()


def read_config(arguments: list[str]) -> dict[str, Any]:
    """JSON object from the file named on the command line, or from stdin."""
    try:
        if len(arguments) > 1:
            with Path(arguments[1]).open(encoding="utf-8") as file:
                config = json.load(file)
        else:
            config = json.load(sys.stdin)
        if not isinstance(config, dict) or not isinstance(config.get("model"), str):
            raise ValueError("it needs to be an object with the key 'model'")
    except (OSError, ValueError) as error:
        raise Failure("config", f"the configuration cannot be read: {error}") from error
    return config


def cpu_name() -> str:
    """What the system calls its processor; the board's name where the kernel gives only that."""
    for path, keys in (("/proc/cpuinfo", ("model name", "Model", "Hardware")), ("/proc/device-tree/model", ())):
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if not keys:
            return text.strip("\x00\n ")
        lines = (line.partition(":") for line in text.splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
        for key in keys:
            if found.get(key):
                return found[key]
    return platform.processor() or "unknown"


def read_text(path: Any) -> str:
    """Content of a text file; nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def digest(path: Path, before: str = "") -> str:
    """SHA-256 of some text and a file."""
    total = hashlib.sha256(before.encode())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def lacks_atomics(machine: str, cpuinfo: str) -> bool:
    """Whether this is an ARMv8.0 core (Cortex-A53, A72): Linux lists the atomics of ARMv8.1 ("LSE") as `atomics`."""
    features = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("Features")]
    return machine == "aarch64" and bool(features) and not all("atomics" in words for words in features)


# What ONNX Runtime's choice of kernels and layouts depends on, as Linux calls it.
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimdhp", "asimddp", "i8mm", "bf16", "sve")


def cpu_kind() -> str:
    """Architecture and instruction sets, `x86_64 avx2 avx512f`: where these differ, so may what runs right there."""
    known = set(read_text("/proc/cpuinfo").split())
    features = [word for word in FEATURES if word in known] if known else [cpu_name()]
    return " ".join([platform.machine(), *features])


def require_prepared_here(made: dict[str, Any], runtime_version: str) -> None:
    """Raise Failure where a file that was optimised for one CPU and runtime is opened elsewhere."""
    made_for = made["cpu"], made["runtime_version"]
    here = cpu_kind(), runtime_version
    if made_for != here:
        (cpu, version), (own_cpu, own_version) = made_for, here
        raise Failure(
            "model",
            f"it was prepared for ONNX Runtime {version} on {cpu}, and would be wrong in ONNX Runtime {own_version} on "
            f"{own_cpu}; prepare its source {made.get('source')} here: edgeks prepare",
        )


def allowed_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(allowed_cores())


def stay_on(pin: Any) -> None:
    """Keep this process, and the threads that it starts from now on, on the cores of the list; an empty one: any."""
    if not pin:
        return
    legal = allowed_cores()
    if not isinstance(pin, list) or not all(core in legal for core in pin):
        raise Failure("config", f"pin is {pin}; cores that this process may use: {', '.join(map(str, legal))}")
    try:
        os.sched_setaffinity(0, pin)
    except (AttributeError, OSError) as error:
        raise Failure(
            "config", f"pin is {pin}; this system does not let a process choose its cores: {error}"
        ) from error


class ProcessMemory:
    """Resident memory of this process, as the kernel has it: null where the system does not say.

    Free pages of the C library's heap are given back before each reading, so that what counts is in use.
    """

    def __init__(self, model: str, weight_cache: str = "") -> None:
        folders = [Path(model).resolve().parent, *([Path(weight_cache).resolve()] if weight_cache else [])]
        self._folders = frozenset(folders)
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._libraries: Any = None  # what is mapped at the first reading: the model may lie beside this environment
        self._from_anew = False  # whether the peak is that since the reading before

    def emit(self, stage: str) -> None:
        """Send a reading, and start the peak anew from here."""
        # Linux before 6.2 adds up to 64 page faults late to VmHWM, of 16 mapped pages each: more may be resident.
        peak, resident = self._values("status").get("VmHWM"), self._values("smaps_rollup").get("Rss")
        if peak is not None and resident is not None:
            peak = max(peak, resident)
        if self._trim is not None:
            self._trim(0)
        now = self._values("smaps_rollup")
        files = self._files()
        if self._libraries is None:
            self._libraries = frozenset(files)
        ours = (size for path, size in files.items() if path not in self._libraries)
        emit(
            "memory",
            stage=stage,
            rss_bytes=now.get("Rss"),
            anonymous_bytes=now.get("Anonymous"),
            mapped_bytes=sum(ours) if now else None,
            peak_bytes=peak if self._from_anew or stage == "start" else None,
        )
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._from_anew = True
        except OSError:
            self._from_anew = False

    @staticmethod
    def _values(name: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for line in read_text(Path("/proc/self", name)).splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[2] == "kB":
                found.setdefault(parts[0].rstrip(":"), int(parts[1]) * 1024)
        return found

    def _files(self) -> dict[str, int]:
        """Files below the model's folder and the weight cache's that are mapped → their resident bytes."""
        found: dict[str, int] = {}
        path = ""
        for line in read_text("/proc/self/smaps").splitlines():
            parts = line.split(maxsplit=5)
            if not parts[0].endswith(":"):  # the head of a mapping: addresses, rights, offset, device, inode, path
                below = len(parts) == 6 and not self._folders.isdisjoint(Path(parts[5]).parents)
                path = parts[5] if below else ""
            elif path and parts[0] == "Rss:":
                found[path] = found.get(path, 0) + int(parts[1]) * 1024
        return found


class MachineState:
    """What the machine is doing beside the measurement, from proc and sys below `root`.

    What cannot be read is named with why.
    """

    CPU = "sys/devices/system/cpu"
    THROTTLED = "sys/devices/platform/soc*/soc*:firmware/get_throttled"
    COUNTERS = (
        *("own_cpu_s", "others_cpu_s", "steal_cpu_s", "swap_in_pages", "swap_out_pages"),
        *("major_faults", "involuntary_switches"),
    )

    def __init__(self, root: str = "/") -> None:
        self._root = Path(root)
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._throttled = sorted(self._root.glob(self.THROTTLED))
        folders = os.environ.get("PATH", "").split(os.pathsep)
        self._vcgencmd = next((path for path in (Path(f, "vcgencmd") for f in folders) if path.is_file()), None)
        self._before: dict[str, float] = {}
        self._threads: dict[str, float] = {}
        self._start = 0.0
        self.read("before")  # what it needs of Python's own memory is there from now on

    def emit(self, moment: str) -> None:
        """Send a reading."""
        emit("state", **self.read(moment))

    def read(self, moment: str) -> dict[str, Any]:
        """One reading; what counts up counts since the last one."""
        now = time.perf_counter()
        if moment == "before":
            self._before, self._start = {}, now
        unknown: dict[str, str] = {}
        allowed, used = allowed_cores(), self._cores_in_use()
        state: dict[str, Any] = {"moment": moment, "seconds": now - self._start, "cores": used}
        state["allowed_cores"] = len(allowed)
        state["clock_mhz"] = self._clocks(used, "scaling_cur_freq", "clock_mhz", unknown)
        # Above the base clock x86 goes as far as its neighbours and its temperature let it.
        best = "base_frequency" if platform.machine() in ("x86_64", "AMD64", "i686") else "cpuinfo_max_freq"
        state["nominal_clock_mhz"] = self._clocks(used, best, "nominal_clock_mhz", unknown)
        state["temperature_c"] = self._temperature(unknown)
        state["throttled"] = self._bits(moment, unknown)
        state["load_1min"] = self._load(unknown)
        state.update(self._since(allowed, unknown))
        state["unknown"] = unknown
        return state

    def _cores_in_use(self) -> list[int]:
        """Where those threads of this process ran last that computed since the reading before."""
        found: dict[str, int] = {}
        busy: dict[str, float] = {}
        for path in Path("/proc/self/task").glob("*/stat"):
            fields = read_text(path).rpartition(")")[2].split()
            if len(fields) > 36:  # a thread may end meanwhile
                found[path.parent.name], busy[path.parent.name] = int(fields[36]), int(fields[11]) + int(fields[12])
        used = {core for thread, core in found.items() if busy[thread] > self._threads.get(thread, 0)}
        self._threads = busy
        own = found.get(str(os.getpid()))
        return sorted(used or ({own} if own is not None else set()))

    def _clocks(self, cores: list[int], name: str, of: str, unknown: dict[str, str]) -> Any:
        found = [read_text(self._root / self.CPU / f"cpu{core}" / "cpufreq" / name).strip() for core in cores]
        if found and all(text.isdigit() and int(text) for text in found):
            return [int(text) / 1e3 for text in found]
        there = cores and Path(self._root, self.CPU, f"cpu{cores[0]}", "cpufreq").is_dir()
        why = f"{name} is not there, or 0" if there else "no cpufreq there: a virtual machine or a fixed clock"
        unknown[of] = f"/{self.CPU}/cpu{cores[0]}: {why}" if cores else "/proc/self/task does not tell the cores in use"
        return None

    def _temperature(self, unknown: dict[str, str]) -> Any:
        texts = [read_text(path).strip() for path in Path(self._root, "sys/class/thermal").glob("thermal_zone*/temp")]
        found = [int(text) / 1e3 for text in texts if text.lstrip("-").isdigit()]
        if not found:
            unknown["temperature_c"] = "no thermal zone in /sys/class/thermal: a virtual machine or container"
        return max(found, default=None)

    @staticmethod
    def _load(unknown: dict[str, str]) -> Any:
        try:
            return os.getloadavg()[0]
        except OSError:
            unknown["load_1min"] = "the system does not tell its load"
            return None

    def _bits(self, moment: str, unknown: dict[str, str]) -> Any:
        text = read_text(self._throttled[0]).strip() if self._throttled else ""
        if not text and self._vcgencmd:
            if moment == "during":
                unknown["throttled"] = "vcgencmd is asked before and after only: it starts a process"
                return None
            import subprocess

            try:
                asked = [str(self._vcgencmd), "get_throttled"]
                done = subprocess.run(asked, capture_output=True, text=True, timeout=2, check=False)
                text = done.stdout.strip().rpartition("=")[2]
            except (OSError, subprocess.SubprocessError):
                text = ""
        try:
            return int(text, 16)
        except ValueError:
            unknown["throttled"] = "neither the firmware's get_throttled in /sys nor vcgencmd: not a Raspberry Pi"
            return None

    def _since(self, allowed: list[int], unknown: dict[str, str]) -> dict[str, Any]:
        """What has grown since the reading before: 0 in the first."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        now: dict[str, float] = {
            "own_cpu_s": own.ru_utime + own.ru_stime,
            "major_faults": own.ru_majflt,
            "involuntary_switches": own.ru_nivcsw,
        }
        lines = {line.split(" ", 1)[0]: line.split()[1:] for line in read_text(self._root / "proc/stat").splitlines()}
        cores = [[int(ticks) for ticks in lines.get(f"cpu{core}", [])[:8]] for core in allowed]
        if cores and all(len(ticks) == 8 for ticks in cores):  # user nice system idle iowait irq softirq steal
            busy = sum(sum(ticks[:3]) + sum(ticks[5:7]) for ticks in cores) / self._ticks
            now["others_cpu_s"] = busy - now["own_cpu_s"]
            now["steal_cpu_s"] = sum(ticks[7] for ticks in cores) / self._ticks
        else:
            unknown["others_cpu_s"] = unknown["steal_cpu_s"] = "/proc/stat does not count the cores of this process"
        pages = dict(line.split(" ", 1) for line in read_text(self._root / "proc/vmstat").splitlines())
        for name, key in (("swap_in_pages", "pswpin"), ("swap_out_pages", "pswpout")):
            if key in pages:
                now[name] = int(pages[key])
            else:
                unknown[name] = f"/proc/vmstat has no {key}"
        if "others_cpu_s" in now:  # ticks are counted up to a hundredth of a second late
            now["others_cpu_s"] = max(now["others_cpu_s"], self._before.get("others_cpu_s", now["others_cpu_s"]))
        before, self._before = self._before, now
        return {name: now[name] - before.get(name, now[name]) if name in now else None for name in self.COUNTERS}


class Input(NamedTuple):
    """One input of the model. A size that is no number of 0 or more is symbolic."""

    name: str
    shape: list[Any]
    dtype: str


class OnnxRuntime:
    """InferenceSession with the configured options."""

    def __init__(self, config: dict[str, Any]) -> None:
        # From 1.29 its packages send what they run to Microsoft: a thread, files in the home folder and in TMPDIR.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort

        self._ort, self._config, self.version = ort, config, ort.__version__
        self._arrays: dict[str, Any] = {}

    def open(self) -> None:
        """Model file → session."""
        ort, config = self._ort, self._config
        levels = {
            "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        }
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = int(config.get("threads", 1))
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = choice(config, "graph_optimization", "all", levels)
        options.enable_cpu_mem_arena = bool(config.get("arena", True))
        options.enable_mem_pattern = bool(config.get("memory_pattern", True))
        for key, value in config.get("session_config", {}).items():
            options.add_session_config_entry(key, str(value))
        if config.get("profile"):
            import tempfile

            self._profile = tempfile.TemporaryDirectory(prefix="edgeks_")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profile.name, "ops"))
        self._session = ort.InferenceSession(
            config["model"],
            sess_options=options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(config.get("disabled_optimizers", [])),
        )
        made = self._session.get_modelmeta().custom_metadata_map.get("edgeks.prepared")
        if made is not None:
            require_prepared_here(json.loads(made), self.version)

    def inputs(self) -> list[Input]:
        """As the file declares them."""
        names = {"float": "float32", "double": "float64"}
        kinds = ((v, v.type.replace("tensor(", "").rstrip(")")) for v in self._session.get_inputs())
        return [Input(value.name, list(value.shape), names.get(kind, kind)) for value, kind in kinds]

    def feed(self, arrays: dict[str, Any]) -> None:
        """Take the arrays of all runs to come."""
        self._arrays = arrays

    def run(self) -> list[Any]:
        """One inference → its outputs."""
        return list(self._session.run(None, self._arrays))

    def ops(self, runs: int) -> tuple[Any, str]:
        """Operators of the last `runs` inferences and an empty text; the session is of no more use."""
        with self._profile:
            trace = json.loads(read_text(self._session.end_profiling()))
        return ops_of_trace(trace, runs), ""


class Interpreter:
    """The interpreter of LiteRT or tflite-runtime. The file is mapped, not copied."""

    def __init__(self, config: dict[str, Any]) -> None:
        if config["runtime"] == "litert":
            import ai_edge_litert as package
            from ai_edge_litert import interpreter as module
        else:
            import tflite_runtime as package
            from tflite_runtime import interpreter as module
        self._module, self._config, self.version = module, config, package.__version__
        self._arrays: list[tuple[int, Any]] = []

    def open(self) -> None:
        """Model file → interpreter with its tensors allocated."""
        kinds = self._module.OpResolverType
        resolvers = {
            "xnnpack": kinds.AUTO,
            "builtin": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": kinds.BUILTIN_REF,
        }
        self._interpreter = self._module.Interpreter(
            model_path=self._config["model"],
            num_threads=int(self._config.get("threads", 1)),
            experimental_op_resolver_type=choice(self._config, "kernels", "xnnpack", resolvers),
        )
        self._interpreter.allocate_tensors()
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def inputs(self) -> list[Input]:
        """As the file declares them."""
        details = self._interpreter.get_input_details()
        return [Input(d["name"], [int(n) for n in d["shape_signature"]], d["dtype"].__name__) for d in details]

    def feed(self, arrays: dict[str, Any]) -> None:
        """Take the arrays of all runs to come; symbolic sizes become theirs."""
        details = self._interpreter.get_input_details()
        fits(self.inputs(), arrays)
        for detail in details:
            if list(detail["shape"]) != list(arrays[detail["name"]].shape):
                self._interpreter.resize_tensor_input(detail["index"], arrays[detail["name"]].shape)
        self._interpreter.allocate_tensors()
        self._arrays = [(detail["index"], arrays[detail["name"]]) for detail in details]

    def run(self) -> list[Any]:
        """One inference → its outputs."""
        for index, array in self._arrays:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def ops(self, _runs: int) -> tuple[Any, str]:
        """Nothing, and why."""
        return None, NO_OPS_OF_LITERT


class CompiledModel:
    """LiteRT's CompiledModel on the CPU; XNNPACK's packed kernels lie in a file, which is mapped.

    LiteRT uses whatever is in that file without a check, and goes on without one that cannot be written. So it is
    named by a digest of the model, the runtime's version and the processor, and has its checksum beside it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        import ai_edge_litert
        from ai_edge_litert import compiled_model, hardware_accelerator, options

        self._modules = compiled_model, hardware_accelerator, options
        self._config, self.version = config, ai_edge_litert.__version__

    def open(self) -> None:
        """Model file → compiled model, its weight cache checked or built."""
        if lacks_atomics(platform.machine(), read_text("/proc/cpuinfo")):
            raise Failure("config", "LiteRT's CompiledModel needs ARMv8.1, which this processor lacks; runtime: litert")
        if self._config.get("kernels", "xnnpack") != "xnnpack":
            raise Failure("config", "a weight cache is XNNPACK's: kernels needs to be xnnpack, or the runtime litert")
        if not self._config.get("weight_cache"):
            raise Failure("config", "the runtime litert-compiled needs weight_cache, a folder")
        folder = Path(self._config["weight_cache"])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = digest(Path(self._config["model"]), f"{self.version} {platform.machine()} {cpu_name()}")[:32]
            cache, checksum = folder / f"{name}.xnnpack", folder / f"{name}.sha256"
            if cache.is_file() and read_text(checksum) == digest(cache):
                self._compile(cache)
                return
            fresh = folder / f"{name}.{os.getpid()}"
            try:
                self._compile(fresh)
                if not fresh.is_file():
                    raise Failure("model", f"LiteRT wrote no weight cache in {folder}; is there anything to pack?")
                written = digest(fresh)
                fresh.replace(cache)
                checksum.write_text(written, encoding="ascii")
            finally:
                if fresh.exists():
                    fresh.unlink()
        except OSError as error:
            raise Failure("config", f"weight cache in {folder}: {error}") from error

    def _compile(self, cache: Path) -> None:
        compiled_model, hardware_accelerator, options = self._modules
        cpu = options.CpuOptions(num_threads=int(self._config.get("threads", 1)), xnnpack_weight_cache_path=str(cache))
        chosen = options.Options(hardware_accelerator.HardwareAccelerator.CPU, cpu_options=cpu)
        self._model = compiled_model.CompiledModel.from_file(self._config["model"], options=chosen)
        self._signature = self._model.get_signature_by_index(0)["key"]
        self._fed, self._given = self._model.create_input_buffers(0), self._model.create_output_buffers(0)
        # The first question about outputs allocates all activations: part of opening, not of what the caller holds.
        outputs = self._model.get_output_tensor_details(self._signature)
        names = self._model.get_signature_by_index(0)["outputs"]
        self._results = [(list(outputs[name]["shape"]), str(outputs[name]["dtype"])) for name in names]

    def inputs(self) -> list[Input]:
        """As the first signature declares them."""
        names = self._model.get_signature_by_index(0)["inputs"]
        details = self._model.get_input_tensor_details(self._signature)
        found = (details[name] for name in names)
        return [Input(d["name"], [int(n) for n in d["shape"]], str(d["dtype"])) for d in found]

    def feed(self, arrays: dict[str, Any]) -> None:
        """Take the arrays of all runs to come."""
        fits(self.inputs(), arrays)
        self._arrays = [arrays[value.name] for value in self.inputs()]

    def run(self) -> list[Any]:
        """One inference → its outputs."""
        for buffer, array in zip(self._fed, self._arrays):
            buffer.write(array)
        self._model.run_by_index(0, self._fed, self._given)
        given = zip(self._given, self._results)
        return [buffer.read(math.prod(shape), dtype).reshape(shape) for buffer, (shape, dtype) in given]

    def ops(self, _runs: int) -> tuple[Any, str]:
        """Nothing, and why."""
        return None, NO_OPS_OF_LITERT


NO_OPS_OF_LITERT = "the Python packages of LiteRT and TensorFlow Lite give no times of operators: only totals"


def ops_of_trace(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """ONNX Runtime's trace → its operators in the order they first ran in, over the last `runs` inferences.

    Times are microseconds. An operator with a body lasts as long as what is in it.
    """
    inferences = sorted((e["ts"], e["dur"]) for e in events if e.get("name") == "model_run")[-runs:]
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    kernels.sort(key=lambda event: (event["ts"], -event["dur"]))
    found: dict[tuple[str, str, int], float] = {}
    open_until: list[int] = []
    for event in kernels:
        if not inferences or event["ts"] < inferences[0][0]:
            continue
        end = event["ts"] + event["dur"]
        while open_until and not (event["ts"] < open_until[-1] and end <= open_until[-1]):
            open_until.pop()
        kind = event["args"]["op_name"]
        key = event["name"][: -len("_kernel_time")], kind, len(open_until)
        found[key] = found.get(key, 0.0) + event["dur"] / 1e3 / len(inferences)
        if kind in ("Loop", "If", "Scan"):
            open_until.append(end)
    return [{"name": name, "type": kind, "ms": ms, "depth": depth} for (name, kind, depth), ms in found.items()]


RUNTIMES = {
    "onnxruntime": OnnxRuntime,
    "litert": Interpreter,
    "litert-compiled": CompiledModel,
    "tflite-runtime": Interpreter,
}


def choice(config: dict[str, Any], key: str, default: str, legal: dict[str, Any]) -> Any:
    """What the configured word stands for."""
    word = config.get(key, default)
    if word not in legal:
        raise Failure("config", f"{key} is {word!r}; legal: {', '.join(legal)}")
    return legal[word]


def runtime_of(config: dict[str, Any]) -> str:
    """The runtime that is named, else the one that reads the file and is installed."""
    if config.get("runtime"):
        return str(config["runtime"])
    if not config["model"].endswith(".tflite"):
        return "onnxruntime"
    return "litert" if importlib.util.find_spec("ai_edge_litert") else "tflite-runtime"


def fits(inputs: list[Input], arrays: dict[str, Any]) -> None:
    """Raise Failure where an array has not the type, or not the sizes, that its input has."""
    for value in inputs:
        array = arrays[value.name]
        same = len(value.shape) == array.ndim and all(own in (-1, n) for own, n in zip(value.shape, array.shape))
        if not same or array.dtype.name != value.dtype:
            found = f"{list(array.shape)} {array.dtype.name}"
            raise Failure("input", f"input {value.name!r} takes {value.shape} {value.dtype}, not {found}")


def random_inputs(np: Any, inputs: list[Input], seed: int, shapes: dict[str, Any]) -> dict[str, Any]:
    """One array per model input: normal floats, integers over the range of 8-bit types, 0 or 1 for wider ones."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for name, shape, dtype in inputs:
        sizes = list(shapes.get(name, shapes.get("", shape) if len(inputs) == 1 else shape))
        if sizes and not (isinstance(sizes[0], int) and sizes[0] >= 0):
            sizes[0] = 1  # the batch
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise Failure("input", f"input {name!r} has the shape {sizes}; give inputs of a known shape")
        if dtype in ("float16", "float32", "float64"):
            arrays[name] = rng.standard_normal(sizes).astype(dtype)
        elif dtype in ("int8", "uint8"):
            limits = np.iinfo(dtype)
            arrays[name] = rng.integers(limits.min, limits.max, sizes, np.dtype(dtype), endpoint=True)
        elif dtype in ("int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"):
            arrays[name] = rng.integers(0, 2, sizes).astype(dtype)
        else:
            raise Failure("input", f"input {name!r} has the type {dtype}; give inputs")
    return arrays


def stored_inputs(np: Any, inputs: list[Input], path: str) -> dict[str, Any]:
    """Arrays from a .npz (by the names of the model's inputs) or a .npy file (one input)."""
    names = [value.name for value in inputs]
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {names[0]: loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except (OSError, ValueError, EOFError) as error:
        raise Failure("input", f"{path}: cannot be read: {error}") from error
    if len(names) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if sorted(arrays) != sorted(names):
        raise Failure("input", f"{path}: holds {sorted(arrays)}; the model's inputs are {sorted(names)}")
    return arrays


def timed_run(engine: Any) -> float:
    """One inference → milliseconds."""
    start = time.perf_counter_ns()
    try:
        engine.run()
    except Exception as error:
        raise failure("run", error) from error
    return (time.perf_counter_ns() - start) / 1e6


def warm_up(engine: Any, config: dict[str, Any]) -> None:
    """The configured number of inferences; or windows of them, until the medians of the last two are within 2 %.

    A window has at least 5 inferences and 0.1 s, long enough for a clock to rise. After `warmup_seconds`: not stable.
    """
    start = time.perf_counter()
    asked = config.get("warmup", 5)
    if asked is not None:
        for _ in range(int(asked)):
            timed_run(engine)
        emit("warmup", runs=int(asked), seconds=time.perf_counter() - start, stable=None)
        return
    limit = float(config.get("warmup_seconds", WARMUP_SECONDS))
    runs, stable = 0, False
    medians: list[float] = []
    while len(medians) < 2 or not (stable or time.perf_counter() - start > limit):
        window: list[float] = []
        opened = time.perf_counter()
        while len(window) < WINDOW_RUNS or time.perf_counter() - opened < WINDOW_SECONDS:
            window.append(timed_run(engine))
        runs += len(window)
        medians.append(sorted(window)[len(window) // 2])
        stable = len(medians) > 1 and abs(medians[-1] - medians[-2]) < STABLE_WITHIN * medians[-2]
    emit("warmup", runs=runs, seconds=time.perf_counter() - start, stable=stable)


def measure(engine: Any, config: dict[str, Any], machine: MachineState) -> int:
    """First inference, warm-up, then counted runs, whose latencies are sent in batches between runs → how many."""
    emit("first_inference", ms=timed_run(engine))
    warm_up(engine, config)
    machine.emit("before")
    runs, min_seconds = int(config.get("runs", 50)), float(config.get("min_seconds", 0))
    start = sent_at = time.perf_counter()
    batch: list[float] = []
    done = 0
    while done < runs or time.perf_counter() - start < min_seconds:
        batch.append(timed_run(engine))
        done += 1
        if time.perf_counter() - sent_at > SECONDS_BETWEEN_EVENTS:
            emit("samples", ms=batch)
            machine.emit("during")
            batch, sent_at = [], time.perf_counter()
        elif len(batch) == MOST_SAMPLES:
            emit("samples", ms=batch)
            batch = []
    machine.emit("after")
    emit("samples", ms=batch)
    return done


def sample_batches(np: Any, inputs: list[Input], config: dict[str, Any]) -> Any:
    """The inputs of each inference, by name, and how many samples are in it: a last short batch is padded."""
    samples = config.get("samples", 1)
    if isinstance(samples, int):
        for seed in range(samples):
            yield random_inputs(np, inputs, seed, config.get("shapes", {})), None
        return
    if len(inputs) != 1:
        raise Failure("input", f"{samples}: is for one input; the model has {sorted(value.name for value in inputs)}")
    try:
        rows = np.load(samples, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Failure("input", f"{samples}: cannot be read: {error}") from error
    name, shape, _ = inputs[0]
    size = shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else 1
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        count = len(batch)
        yield {name: np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])}, count


def evaluate(np: Any, engine: Any, config: dict[str, Any]) -> None:
    """Every sample through the model, its outputs to a file."""
    rows: list[list[Any]] = []
    for arrays, count in sample_batches(np, engine.inputs(), config):
        try:
            engine.feed(arrays)
            found = engine.run()
        except Failure:
            raise
        except Exception as error:
            raise failure("run", error) from error
        rows.append([np.array(output) if count is None else np.array(output)[:count] for output in found])
    columns = [np.concatenate(column) if column[0].ndim else np.stack(column) for column in zip(*rows)]
    try:
        np.savez(config["outputs"], **{f"output_{index}": column for index, column in enumerate(columns)})
    except OSError as error:
        raise Failure("config", f"{config['outputs']}: cannot be written: {error}") from error


def run(arguments: list[str]) -> None:
    """The whole job; raises Failure."""
    config = read_config(arguments)
    config["runtime"] = runtime_of(config)
    kind = choice(config, "runtime", "", RUNTIMES)
    stay_on(config.get("pin"))  # before a library starts its threads
    try:
        import numpy as np

        engine = kind(config)
    except ImportError as error:
        raise Failure("config", f"{config['runtime']} and numpy are needed in {sys.executable}: {error}") from error
    emit(
        "facts",
        runtime=config["runtime"],
        runtime_version=engine.version,
        numpy_version=np.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_name(),
        cores=cores(),
    )
    machine = MachineState()
    memory = ProcessMemory(config["model"], config.get("weight_cache") or "")
    memory.emit("start")
    start = time.perf_counter_ns()
    try:
        engine.open()
    except Failure:
        raise
    except Exception as error:
        raise failure("model", error) from error
    emit("load", ms=(time.perf_counter_ns() - start) / 1e6)
    memory.emit("loaded")
    if config.get("outputs"):
        evaluate(np, engine, config)
        return
    path, inputs = config.get("inputs"), engine.inputs()
    if path:
        arrays = stored_inputs(np, inputs, path)
    else:
        arrays = random_inputs(np, inputs, config.get("seed", 0), config.get("shapes", {}))
    try:
        engine.feed(arrays)
    except Failure:
        raise
    except Exception as error:  # sizes that the network cannot be given
        raise failure("run", error) from error
    emit("inputs", **{"inputs": {k: {"shape": list(v.shape), "dtype": str(v.dtype)} for k, v in arrays.items()}})
    memory.emit("fed")
    done = measure(engine, config, machine)
    memory.emit("run")
    if config.get("profile"):
        ops, reason = engine.ops(done)
        emit("ops", ops=ops, reason=reason)


def main() -> int:
    """Exit code 0 when all of it was done."""
    try:
        run(sys.argv)
    except Failure as failure:
        emit("error", stage=failure.stage, message=str(failure))
        emit("end", ok=False)
        return 1
    emit("end", ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
