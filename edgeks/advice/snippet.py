"""A ready Python program that opens a file with exactly the options it was measured with, and runs it once."""

from __future__ import annotations

from pathlib import Path

from edgeks.advice.rows import Artefact
from edgeks.bench.local import COMPILED
from edgeks.interface import Interface, TensorSpec
from edgeks.runtime_profile import RESOLVERS, Profile
from edgeks.target import LiteRtSession, Session

LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def snippet(artefact: Artefact, profile: Profile) -> str:
    """File and profile → program text. It feeds zeros and prints every output."""
    session = profile.session
    if isinstance(session, Session):
        return _onnxruntime(artefact, session)
    if profile.runtime == COMPILED:
        return _compiled(artefact, session)
    return _interpreter(artefact, session, profile.runtime)


def _fed(interface: Interface | None, name: str) -> str:
    """A comment that says what the input named by the program's `name` has to hold."""
    if interface is None:
        return f"  # zeros: put {name} here"
    spec = interface.inputs[0]
    return f"  # zeros: put {_meaning(spec)} here"


def _meaning(spec: TensorSpec) -> str:
    return f"{spec.layout or 'the input'}, {spec.meaning}" if spec.meaning else spec.layout or "the input"


def _onnxruntime(artefact: Artefact, session: Session) -> str:
    lines = [
        "import numpy as np",
        "import onnxruntime as ort",
        "",
        "options = ort.SessionOptions()",
        f"options.intra_op_num_threads = {session.threads}",
        "options.inter_op_num_threads = 1",
        f"options.graph_optimization_level = ort.GraphOptimizationLevel.{LEVELS[session.graph_optimization]}",
        *(f"options.add_session_config_entry({key!r}, {value!r})" for key, value in session.config),
        "session = ort.InferenceSession(",
        f"    {_path(artefact.path)},",
        "    options,",
        '    providers=["CPUExecutionProvider"],',
        f"    disabled_optimizers={list(session.disabled_optimizers)!r},",
        ")",
        'types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}',
        "feed = {",
        "    each.name: np.zeros([n if isinstance(n, int) else 1 for n in each.shape], types[each.type])",
        f"    for each in session.get_inputs(){_fed(artefact.interface, 'the inputs')}",
        "}",
        "for output in session.run(None, feed):",
        "    print(output)",
    ]
    return "\n".join(lines) + "\n"


def _interpreter(artefact: Artefact, session: LiteRtSession, runtime: str) -> str:
    module = "ai_edge_litert.interpreter" if runtime == "litert" else "tflite_runtime.interpreter"
    resolver = RESOLVERS[session.kernels]
    names = "Interpreter, OpResolverType" if resolver else "Interpreter"
    lines = [
        "import numpy as np",
        f"from {module} import {names}",
        "",
        "interpreter = Interpreter(",
        f"    model_path={_path(artefact.path)},  # the path, not the bytes: the file is then mapped, not copied",
        f"    num_threads={session.threads},",
        *([f"    experimental_op_resolver_type=OpResolverType.{resolver},"] if resolver else []),
        ")",
        "interpreter.allocate_tensors()",
        "for each in interpreter.get_input_details():",
        '    values = np.zeros(each["shape"], each["dtype"])' + _fed(artefact.interface, "the input"),
        '    interpreter.set_tensor(each["index"], values)',
        "interpreter.invoke()",
        "for each in interpreter.get_output_details():",
        '    print(interpreter.get_tensor(each["index"]))',
    ]
    return "\n".join(lines) + "\n"


def _compiled(artefact: Artefact, session: LiteRtSession) -> str:
    lines = [
        "import hashlib",
        "import platform",
        "import tempfile",
        "from importlib.metadata import version",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from ai_edge_litert.compiled_model import CompiledModel",
        "from ai_edge_litert.hardware_accelerator import HardwareAccelerator",
        "from ai_edge_litert.options import CpuOptions, Options",
        "",
        f"model = Path({_path(artefact.path)})",
        "# LiteRT checks nothing: a cache is for one file, one version and one machine, in a folder that is your own.",
        "made_for = model.read_bytes() + f\"{version('ai-edge-litert')} {platform.machine()}\".encode()",
        'cache = Path(tempfile.gettempdir(), hashlib.sha256(made_for).hexdigest()[:32] + ".xnnpack")',
        f"cpu = CpuOptions(num_threads={session.threads}, xnnpack_weight_cache_path=str(cache))",
        "options = Options(HardwareAccelerator.CPU, cpu_options=cpu)",
        "compiled = CompiledModel.from_file(str(model), options=options)",
        'signature = compiled.get_signature_by_index(0)["key"]',
        "fed, given = compiled.create_input_buffers(0), compiled.create_output_buffers(0)",
        "for buffer, each in zip(fed, compiled.get_input_tensor_details(signature).values()):",
        '    buffer.write(np.zeros(each["shape"], each["dtype"]))' + _fed(artefact.interface, "the input"),
        "compiled.run_by_index(0, fed, given)",
        "for buffer, each in zip(given, compiled.get_output_tensor_details(signature).values()):",
        '    print(buffer.read(int(np.prod(each["shape"])), each["dtype"]))',
    ]
    return "\n".join(lines) + "\n"


def _path(path: Path) -> str:
    return repr(str(path))
