"""ONNX file → the same as ONNX Runtime itself optimises it on this CPU, with constants that it maps instead of copying.

See docs/prepared.md and docs/adr/0019.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edgeks.atomic_write import atomic_write_together
from edgeks.audit.alignment import rounded_up
from edgeks.audit.onnx.kernels import Kernel, kernels_of, readers_of
from edgeks.bench.runner import Failure, Input, cpu_kind, random_inputs
from edgeks.errors import ConfigError, DataError, ModelFileError, OutputError, ParityFailed, SharingBroken
from edgeks.formats.onnx import open_session
from edgeks.model_files.onnx_file import ModelFile, read_model_file
from edgeks.prepared import PREPARED_KEY, Prepared, read_prepared
from edgeks.runtime_profile import literal, session_options
from edgeks.target import Session, Target

# ONNX Runtime maps a constant of external data, and copies one that lies in the model; below it a page would be wasted.
MAPPED_FROM_BYTES = 1024
SEEDS = (0, 1)
BLOCKS = (8, 16)  # channels in a block, with AVX2 and with AVX-512
BOARDS = "aarch64"  # what every target with a board is


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """What was written. `shared_kernels`: stored once in it, and read by several layers; outputs are bit-equal."""

    path: Path
    data_path: Path
    prepared: Prepared
    model_bytes: int
    data_bytes: int
    shared_kernels: int

    @property
    def loader(self) -> str:
        """A program that opens it, and nowhere else than where it was prepared."""
        made, session = self.prepared, self.prepared.session
        machine, *features = made.cpu.split(" ")
        lines = [
            "import platform",
            "",
            "import onnxruntime as ort",
            "",
            f"# {self.path.name} is right for {made.only_for} only; elsewhere it may compute wrong numbers.",
            f"assert ort.__version__ == {made.runtime_version!r} and platform.machine() == {machine!r}",
        ]
        if features and Path("/proc/cpuinfo").exists():
            lines.append(f"assert set({features!r}) <= set(open('/proc/cpuinfo').read().split())")
        opened = f'ort.InferenceSession({literal(self.path.name)}, options, providers=["CPUExecutionProvider"])'
        return "\n".join([*lines, *session_options(session), f"session = {opened}"])


def require_preparable(target: Target) -> Session:
    """The target's session, if a file for that target can be prepared on this machine.

    Raises:
        ConfigError: it is for another runtime, or its board is another kind of machine.
    """
    if not isinstance(target.session, Session):
        raise ConfigError(
            f"target {target.name!r} is for {target.runtime}: only ONNX Runtime writes prepared files; "
            "choose a target of the format onnx"
        )
    machine = platform.machine()
    if target.board is not None and machine.lower() not in (BOARDS, "arm64"):
        raise ConfigError(
            f"target {target.name!r} is {target.board.name} ({target.board.cpu}), and this machine is {machine}: a "
            f"prepared file is for the CPU that prepared it. Run this on the board: "
            f"edgeks prepare FILE.onnx --target {target.name}"
        )
    return target.session


def prepare_onnx(path: Path, target: Target, out: Path | None = None) -> PreparedFile:
    """Write `out` (default: NAME.prepared.onnx beside `path`) and NAME.prepared.DIGEST.data, for this CPU only.

    ONNX Runtime optimises `path` under the target's session options and saves it. Kernels that several layers read are
    still stored once, and outputs are those of `path` bit for bit: both are checked on the written file.

    Raises:
        ConfigError: the target is not for this machine, or not for ONNX Runtime.
        ModelFileError: `path` is no ONNX file that ONNX Runtime takes, or was prepared already.
        DataError: an input has a size or a type that random numbers cannot be made for.
        OutputError: a file cannot be written, or would replace what is read.
        SharingBroken: under these options ONNX Runtime makes copies of a shared kernel.
        ParityFailed: the outputs differ. In every case no file is left, and older ones stay.
    """
    session = require_preparable(target)
    source = _read_source(path)
    out = out or path.with_name(f"{path.stem}.prepared.onnx")
    if out.suffix != ".onnx":
        raise OutputError(f"{out}: a prepared file is ONNX; name it .onnx")
    prepared = Prepared(
        runtime_version=ort.__version__,
        cpu=cpu_kind(),
        session=replace(session, graph_optimization="disabled", disabled_optimizers=()),
        source=path.name,
        source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    # The name of the data is that of their content's origin, so that an old model never reads new data.
    data = out.with_name(f"{out.stem}.{_digest(source, prepared, session)}.data")
    inputs = {path, *(constant.data_file for constant in source.all_constants() if constant.data_file)}
    for written in (out, data):
        if written.resolve() in {read.resolve() for read in inputs}:
            raise OutputError(f"-o {out}: would replace {written.name}, which is read; name another file")
    replaced = _data_files(out)
    with atomic_write_together(data, out) as (temporary_data, temporary):
        _save(path, session, temporary, temporary_data)
        shared = _require_shared(source, temporary, session)
        _require_equal(path, session, temporary, prepared.session)
        written_bytes = temporary.stat().st_size, temporary_data.stat().st_size
        result = PreparedFile(out, data, prepared, *written_bytes, shared)
        _describe(temporary, prepared)
        result = replace(result, model_bytes=temporary.stat().st_size)
    for old in replaced - {data.resolve(), *(read.resolve() for read in inputs)}:
        old.unlink(missing_ok=True)
    return result


def _read_source(path: Path) -> ModelFile:
    if path.suffix.lower() != ".onnx":
        raise ModelFileError(f"{path}: only .onnx files can be prepared; `edgeks export` makes one of a checkpoint")
    source = read_model_file(path)
    before = read_prepared(path, source.proto)
    if before is not None:
        raise ModelFileError(f"{path}: is prepared already, for {before.only_for}; name its source, {before.source}")
    return source


def _digest(source: ModelFile, prepared: Prepared, session: Session) -> str:
    found = hashlib.sha256(f"{prepared.to_json()} {session}".encode())
    for constant in source.all_constants():
        if constant.data_file not in (None, source.path):
            found.update(constant.digest())
    return found.hexdigest()[:8]


def _data_files(out: Path) -> set[Path]:
    """Data of a prepared file that `out` already is."""
    try:
        model = read_model_file(out)
        if read_prepared(out, model.proto) is None:
            return set()
    except (ModelFileError, OSError):
        return set()
    files = {constant.data_file.resolve() for constant in model.all_constants() if constant.data_file}
    return {file for file in files if file.suffix == ".data"}


def _save(path: Path, session: Session, out: Path, data: Path) -> None:
    saving = {
        "session.optimized_model_external_initializers_file_name": data.name,
        "session.optimized_model_external_initializers_min_size_in_bytes": str(MAPPED_FROM_BYTES),
    }
    try:
        open_session(path, replace(session, config=(*session.config, *saving.items())), save_as=out)
    except ModelFileError as error:
        open_session(path, session)  # raises where the model is at fault, and not the disk
        raise OutputError(f"{out}: cannot be written by ONNX Runtime ({error}); is the disk full?") from error
    try:
        data.touch()  # where every constant is small there is nothing to map
        read_model_file(out)
    except ModelFileError as error:  # ONNX Runtime does not always say that it could not write
        if "is produced twice" in str(error):
            raise ModelFileError(
                f"{path}: ONNX Runtime gives values inside a loop and around it one name ({error}) and cannot read "
                "what it saves; run the file as it is, or prepare it unrolled"
            ) from error
        raise OutputError(f"{out}: was not written whole ({error}); is the disk full?") from error


def _require_shared(source: ModelFile, out: Path, session: Session) -> int:
    """How many kernels several layers share, if the written file has no more kernels of their sizes than `source` has.

    There they may be in blocks of channels, of which the last is filled up, so that values cannot be compared; a
    kernel may also have fewer readers there, where a condition was known.
    """
    before, after = ([_size(kernel) for kernel in _kernels(model)] for model in (source, read_model_file(out)))
    shared = [kernel for kernel in _kernels(source) if _reads(kernel) > 1]
    for kernel in shared:
        sizes = {_size(kernel), *_blocked_sizes(kernel)}
        had, has = (sum(size in sizes for size in found) for found in (before, after))
        if has > had:
            disabled = ", ".join(session.disabled_optimizers) or "none"
            raise SharingBroken(
                f"{source.path}: kernel {kernel.name!r} is read by {_reads(kernel)} layers, and ONNX Runtime makes "
                f"{has - had} more of its size when it optimises the file (disabled optimizers: {disabled}); no file "
                "was written. Choose a target that disables ConvBNFusion, ConvMulFusion and ConvAddFusion, and "
                "NchwcTransformer where a loop reads it too; or another form of int8"
            )
    return len(shared)


def _kernels(model: ModelFile) -> tuple[Kernel, ...]:
    return kernels_of(model, readers_of(model))


def _reads(kernel: Kernel) -> int:
    """How many layers it serves in one inference; a node in a loop serves one in each trip."""
    return (sum(kernel.runs) or len(kernel.layers)) // kernel.count


def _size(kernel: Kernel) -> tuple[bool, int]:
    """Whether it has a number per channel only (as BatchNormalization in blocks of channels has), and how many."""
    return math.prod(kernel.shape[1:]) == 1, math.prod(kernel.shape)


def _blocked_sizes(kernel: Kernel) -> Iterator[tuple[bool, int]]:
    """Its sizes where channels come in blocks."""
    outputs, *rest = kernel.shape
    for block in BLOCKS:
        inputs = rest[0] if rest[0] < block else rounded_up(rest[0], block)
        yield math.prod(rest) == 1, rounded_up(outputs, block) * inputs * math.prod(rest[1:])


def _require_equal(path: Path, session: Session, out: Path, opened: Session) -> None:
    original, prepared = open_session(path, session), open_session(out, opened)
    names = {"float": "float32", "double": "float64"}
    kinds = ((value, value.type.removeprefix("tensor(").removesuffix(")")) for value in original.get_inputs())
    inputs = [Input(value.name, list(value.shape), names.get(kind, kind)) for value, kind in kinds]
    for seed in SEEDS:
        try:
            fed = random_inputs(np, inputs, seed, {})
        except Failure as failure:
            raise DataError(f"{path}: {failure}; fix its sizes in the file") from failure
        for value, expected, found in zip(
            original.get_outputs(), _run(path, original, fed), _run(out, prepared, fed), strict=True
        ):
            if np.asarray(expected).tobytes() != np.asarray(found).tobytes():
                raise ParityFailed(
                    f"{out.name}: output {value.name!r} is not that of {path.name} bit for bit; no file was written. "
                    "ONNX Runtime saved something else than it runs: run the file as it is"
                )


def _run(path: Path, session: ort.InferenceSession, inputs: dict[str, Any]) -> list[Any]:
    try:
        return list(session.run(None, inputs))
    except Exception as error:
        raise ModelFileError(f"{path}: ONNX Runtime cannot run it: {str(error).splitlines()[0][:300]}") from error


def _describe(out: Path, prepared: Prepared) -> None:
    proto = onnx.load(out, load_external_data=False)
    proto.metadata_props.add(key=PREPARED_KEY, value=prepared.to_json())
    out.write_bytes(proto.SerializeToString())
