"""A ready Python program that opens a file with exactly the options it was measured with, and runs it once."""

from __future__ import annotations

from pathlib import Path

from edgeks.advice.rows import Artefact
from edgeks.interface import Interface
from edgeks.runtime_profile import COMPILED, RESOLVERS, Profile, literal, session_options
from edgeks.target import LiteRtSession, Session


def snippet(artefact: Artefact, profile: Profile) -> str:
    """File and profile → program text. It feeds zeros and prints every output."""
    session = profile.session
    if isinstance(session, Session):
        return _onnxruntime(artefact, session)
    if profile.runtime == COMPILED:
        return _compiled(artefact, session)
    return _interpreter(artefact, session, profile.runtime)


def _held(interface: Interface | None) -> str:
    """A comment that says what the input has to hold."""
    if interface is None:
        return "# Your input in place of zeros."
    spec = interface.inputs[0]
    told = ", ".join(filter(None, (f"N×{'×'.join(spec.layout[1:])}" if spec.layout else "", _one_line(spec.meaning))))
    return f"# Your input in place of zeros: {told}." if told else "# Your input in place of zeros."


def _one_line(text: str) -> str:
    """A file's own words must not become code."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _onnx_feed(interface: Interface | None) -> list[str]:
    """Lines that make `feed`; of a file that edgeks wrote with the sizes written out."""
    if interface is not None:
        spec = interface.inputs[0]
        shape = [size if isinstance(size, int) else 1 for size in spec.shape]
        return [_held(interface), f"feed = {{{literal(spec.name)}: np.zeros({shape}, {literal(spec.type)})}}"]
    return [
        'types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}',
        _held(interface),
        "feed = {",
        "    each.name: np.zeros([n if isinstance(n, int) else 1 for n in each.shape], types[each.type])",
        "    for each in session.get_inputs()",
        "}",
    ]


def _onnxruntime(artefact: Artefact, session: Session) -> str:
    disabled = ", ".join(map(literal, session.disabled_optimizers))
    lines = [
        "import numpy as np",
        "import onnxruntime as ort",
        "",
        *session_options(session),
        "session = ort.InferenceSession(",
        f"    {_path(artefact.path)},",
        "    options,",
        '    providers=["CPUExecutionProvider"],',
        *([f"    disabled_optimizers=[{disabled}],"] if disabled else []),
        ")",
        *_onnx_feed(artefact.interface),
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
        "# The path, not the bytes: the file is then mapped, not copied.",
        "interpreter = Interpreter(",
        f"    model_path={_path(artefact.path)},",
        f"    num_threads={session.threads},",
        *([f"    experimental_op_resolver_type=OpResolverType.{resolver},"] if resolver else []),
        ")",
        "interpreter.allocate_tensors()",
        _held(artefact.interface),
        "for each in interpreter.get_input_details():",
        '    interpreter.set_tensor(each["index"], np.zeros(each["shape"], each["dtype"]))',
        "interpreter.invoke()",
        "for each in interpreter.get_output_details():",
        '    print(interpreter.get_tensor(each["index"]))',
    ]
    return "\n".join(lines) + "\n"


def _compiled(artefact: Artefact, session: LiteRtSession) -> str:
    lines = [
        "import hashlib",
        "import os",
        "import re",
        "from importlib.metadata import version",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "from ai_edge_litert.compiled_model import CompiledModel",
        "from ai_edge_litert.hardware_accelerator import HardwareAccelerator",
        "from ai_edge_litert.options import CpuOptions, Options",
        "",
        f"model = Path({_path(artefact.path)})",
        "",
        "",
        "def with_cache(path):",
        f"    cpu = CpuOptions(num_threads={session.threads}, xnnpack_weight_cache_path=str(path))",
        "    return CompiledModel.from_file(str(model), options=Options(HardwareAccelerator.CPU, cpu_options=cpu))",
        "",
        "",
        "# LiteRT takes whatever cache it finds, unchecked: the name says for which model, version and processor,",
        "# the folder is your own, and a cache that is still being written has another name.",
        'cpu = re.findall(r"(?m)^(?:model name|flags|Features|CPU part).*", Path("/proc/cpuinfo").read_text())',
        "made_for = model.read_bytes() + f\"{version('ai-edge-litert')} {sorted(set(cpu))}\".encode()",
        'cache = Path.home() / ".cache" / "edgeks" / (hashlib.sha256(made_for).hexdigest()[:32] + ".xnnpack")',
        "if not cache.is_file():",
        "    cache.parent.mkdir(parents=True, exist_ok=True)",
        '    fresh = cache.with_suffix(f".{os.getpid()}")',
        "    with_cache(fresh)",
        "    fresh.replace(cache)",
        "compiled = with_cache(cache)",
        'signature = compiled.get_signature_by_index(0)["key"]',
        "fed, given = compiled.create_input_buffers(0), compiled.create_output_buffers(0)",
        _held(artefact.interface),
        "for buffer, each in zip(fed, compiled.get_input_tensor_details(signature).values()):",
        '    buffer.write(np.zeros(each["shape"], each["dtype"]))',
        "compiled.run_by_index(0, fed, given)",
        "for buffer, each in zip(given, compiled.get_output_tensor_details(signature).values()):",
        '    print(buffer.read(int(np.prod(each["shape"])), each["dtype"]))',
    ]
    return "\n".join(lines) + "\n"


def _path(path: Path) -> str:
    return literal(str(path))
