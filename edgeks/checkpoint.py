"""Checkpoint: a trained network with everything an export needs. `.pt` in and out, `.safetensors` in.

A `.pt` written here holds plain data only: architecture name and config, sharing plan, state dict, preprocessing,
metrics, and a small calibration sample of real training images. Reading executes no code unless the user trusts it.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeks.atomic_write import atomic_write
from edgeks.errors import CheckpointError, EdgeksError
from edgeks.models import zoo
from edgeks.preprocessing import Preprocessing
from edgeks.quant.layout import Layout
from edgeks.quant.qat import is_prepared, layout_of, rebuild_qat
from edgeks.sharing.plan import SharingPlan
from edgeks.sharing.torch import apply_plan

FORMAT = "edgeks-checkpoint"
VERSION = 1
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
STATE_DICT_WAY = "save model.state_dict() and pass --arch package.module:callable"
TWO_WAYS_OUT = f"either {STATE_DICT_WAY}, or pass --trust if you know who made the file"


@dataclass(slots=True)
class Checkpoint:
    """A network in eval mode, and what travels with it. `calibration` is uint8 N×C×H×W, raw pixels."""

    model: nn.Module
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    plan: SharingPlan | None = None
    preprocessing: Preprocessing | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    calibration: NDArray[np.uint8] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint, training: Mapping[str, Any] | None = None) -> None:
    """Checkpoint → `.pt`, whole or not at all. Shared tensors are stored once.

    A network from `prepare_qat` keeps its fake-quantisers and their ranges. `training`: plain data that tells the
    training that ends in this file from others (`read_training`).

    Raises:
        OutputError: `path` cannot be written.
    """
    calibration = checkpoint.calibration
    content = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": checkpoint.architecture,
        "config": checkpoint.config,
        "plan": checkpoint.plan.to_json() if checkpoint.plan else None,
        "qat": layout_of(checkpoint.model).to_dict() if is_prepared(checkpoint.model) else None,
        "state_dict": dict(checkpoint.model.state_dict()),
        "preprocessing": checkpoint.preprocessing.to_dict() if checkpoint.preprocessing else None,
        "metrics": checkpoint.metrics,
        "calibration": None if calibration is None else torch.from_numpy(np.ascontiguousarray(calibration)),
        "training": training,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_checkpoint(path: Path, arch: str | None = None, *, trust: bool = False) -> Checkpoint:
    """File → Checkpoint, its model in eval mode and float32.

    `arch` names the network of a plain state dict: a zoo name, or `package.module:callable`.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, holds code, or does not fit the architecture.
    """
    content = _read(path, trust)
    if isinstance(content, nn.Module):
        return _checked(path, Checkpoint(model=content.float().eval()))
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    if content.get("format") == FORMAT:
        return _from_own(path, content, arch)
    return _from_state_dict(path, content, arch)


def read_training(path: Path) -> Mapping[str, Any] | None:
    """What `save_checkpoint` was told of the training that ended in this file; None: nothing.

    Raises:
        CheckpointError: the file cannot be read.
    """
    content = _read(path, trust=False)
    training = content.get("training") if isinstance(content, Mapping) and content.get("format") == FORMAT else None
    return training if isinstance(training, Mapping) else None


def build_architecture(arch: str) -> nn.Module:
    """`package.module:callable` or a zoo name → a new module. Runs the named code: the user asked for it.

    Raises:
        CheckpointError: it cannot be imported, fails, or returns something else than an nn.Module.
    """
    if ":" not in arch:
        return zoo.build(*zoo.architecture(arch, {}))
    module_name, _, attribute = arch.partition(":")
    _import_from_current_folder()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"--arch {arch}: no module {error.name!r}; it must be importable from the current folder or PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # SystemExit: a script without an `if __name__` guard
        raise CheckpointError(f"--arch {arch}: importing {module_name!r} failed: {error!r}") from error
    try:
        factory = getattr(module, attribute)
    except AttributeError as error:
        raise CheckpointError(f"--arch {arch}: module {module_name!r} has no {attribute!r}") from error
    if not callable(factory):
        raise CheckpointError(f"--arch {arch}: {attribute!r} is a {type(factory).__name__}, not a callable")
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise CheckpointError(f"--arch {arch}: calling {attribute!r} without arguments failed: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"--arch {arch}: {attribute!r} returned a {type(model).__name__}, not an nn.Module")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise CheckpointError(f"--arch {arch}: has lazy layers, whose shapes are unknown; give every layer its sizes")
    return model


def architecture_fingerprint(arch: str) -> str:
    """Hash of a user's network: the source file that `package.module` is, and how the module prints.

    Code that the file imports is not in it.
    """
    model = build_architecture(arch)
    source = getattr(sys.modules[arch.partition(":")[0]], "__file__", None)
    text = Path(source).read_bytes() if source else b""
    return hashlib.sha256(text + repr(model).encode()).hexdigest()


def load_tensors(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a state dict into `model`. Names that share a tensor in `model` may be given once or several times.

    Raises:
        CheckpointError: a tensor is missing, unknown, of the wrong shape, not finite, or layers that share one kernel
            are given different values.
    """
    own = model.state_dict(keep_vars=True)
    unknown = [name for name in tensors if name not in own]
    names_of: dict[int, list[str]] = {}
    for name, tensor in own.items():
        names_of.setdefault(id(tensor), []).append(name)
    missing = [names[0] for names in names_of.values() if not any(name in tensors for name in names)]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"{path}: tensor {missing[0]!r} is missing ({len(missing)} missing, {len(unknown)} unknown"
            f"{f', such as {unknown[0]!r}' if unknown else ''}); is this the right architecture?"
        )
    if unknown:
        raise CheckpointError(
            f"{path}: tensor {unknown[0]!r} is not in the architecture ({len(unknown)} such); is it the right one?"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(tensor.shape)}; "
                f"the architecture has {tuple(own[name].shape)}"
            )
        _check_numbers(path, name, tensor)
    for names in names_of.values():
        given = [name for name in names if name in tensors]
        for name in given[1:]:
            if not torch.equal(tensors[name], tensors[given[0]]):
                raise CheckpointError(
                    f"{path}: {given[0]!r} and {name!r} share one tensor in the architecture but differ in the file; "
                    "load it into the unshared architecture and tie the layers with `edgeks share`"
                )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _from_own(path: Path, content: Mapping[str, Any], arch: str | None) -> Checkpoint:
    version = content.get("version")
    if version.__class__ is not int or version != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {version!r}; this edgeks reads {VERSION}")
    name: str | None = _field(path, content, "architecture", str)
    config: dict[str, Any] = _field(path, content, "config", dict) or {}
    plan_text: str | None = _field(path, content, "plan", str)
    preprocessing_data: dict[str, Any] | None = _field(path, content, "preprocessing", dict)
    metrics: dict[str, Any] = _field(path, content, "metrics", dict) or {}
    calibration: Tensor | None = _field(path, content, "calibration", Tensor)
    layout: dict[str, Any] | None = _field(path, content, "qat", dict)
    for key, value in metrics.items():
        if not isinstance(key, str) or not isinstance(value, int | float):
            raise CheckpointError(f"{path}: metric {key!r} is a {type(value).__name__}; legal: a name and a number")
    if arch is None and name is None:
        raise CheckpointError(f"{path}: names no architecture; pass --arch package.module:callable")
    try:
        model = build_architecture(arch) if arch else _build_named(str(name), config)
        plan = SharingPlan.from_json(plan_text) if plan_text is not None else None
        if plan:
            apply_plan(model, plan)
        if layout is not None:
            model = rebuild_qat(model, Layout.from_dict(layout))
        preprocessing = Preprocessing.from_dict(preprocessing_data) if preprocessing_data is not None else None
        images = None if calibration is None else _calibration_images(calibration, preprocessing)
    except EdgeksError as error:
        raise CheckpointError(f"{path}: {error}") from error
    load_tensors(path, model, _tensors(path, content.get("state_dict")))
    loaded = Checkpoint(
        model=model.float().eval(),
        architecture=name,
        config=config,
        plan=plan,
        preprocessing=preprocessing,
        metrics={key: float(value) for key, value in metrics.items()},
        calibration=images,
    )
    return _checked(path, loaded)


def _field(path: Path, content: Mapping[str, Any], key: str, legal: type) -> Any:
    """Entry of a checkpoint: of the type it has to have, or None."""
    value = content.get(key)
    if value is not None and not isinstance(value, legal):
        raise CheckpointError(f"{path}: malformed: {key!r} is a {type(value).__name__}; legal: {legal.__name__}")
    return value


def _calibration_images(sample: Tensor, preprocessing: Preprocessing | None) -> NDArray[np.uint8]:
    if preprocessing is None or sample.dtype != torch.uint8 or sample.dim() != 4 or sample.layout != torch.strided:
        raise CheckpointError("the calibration sample must be uint8 N×C×H×W and needs preprocessing")
    images: NDArray[np.uint8] = sample.numpy()
    preprocessing.normalise(images[:1])
    return images


def _build_named(name: str, config: Mapping[str, Any]) -> nn.Module:
    if ":" in name:
        raise CheckpointError(
            f"was trained with --arch {name}; pass that --arch again (a file never runs code by itself)"
        )
    return zoo.build(name, dict(config))


def _from_state_dict(path: Path, content: Mapping[str, Any], arch: str | None) -> Checkpoint:
    for key in NESTED_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = _tensors(path, content)
    if arch is None:
        raise CheckpointError(
            f"{path}: is a plain state dict of {len(tensors)} tensors; "
            "pass --arch package.module:callable or a zoo name"
        )
    model = build_architecture(arch)
    if all(name.startswith("module.") for name in tensors):  # as DataParallel saves it
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    load_tensors(path, model, tensors)
    name, config = (None, {}) if ":" in arch else zoo.architecture(arch, {})
    return _checked(path, Checkpoint(model=model.float().eval(), architecture=name or arch, config=config))


def _checked(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    for name, tensor in checkpoint.model.state_dict().items():
        if isinstance(tensor, Tensor):  # a module's extra state can be anything
            _check_numbers(path, name, tensor)
    return checkpoint


def _check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_complex() or (tensor.dtype.itemsize < 2 and tensor.is_floating_point()):
        raise CheckpointError(
            f"{path}: tensor {name!r} is {tensor.dtype}, {tensor.layout}, on {tensor.device}; legal: a dense tensor of "
            "real numbers (float64, float32, float16, bfloat16 or integers)"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{path}: tensor {name!r} holds NaN or infinity; the training diverged or the file is damaged"
        )


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = type(value).__name__ if isinstance(name, str) else f"{type(name).__name__}, not a name"
            raise CheckpointError(f"{path}: entry {name!r} is a {what}; legal: a state dict, names to tensors")
    return dict(content)


def _read(path: Path, trust: bool) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with path.open("rb") as stream:
            head = stream.read(4)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or truncated ({error})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if head[:2] == b"PK":
        _check_archive(path)
    elif head[:1] != b"\x80":  # neither a zip archive nor a pickle of protocol 2 or later
        raise CheckpointError(f"{path}: not a PyTorch file: {_what_else(path, head)}")
    if trust:
        _import_from_current_folder()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats, which the user cannot act on
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except (AttributeError, ModuleNotFoundError) as error:
        if not trust:
            raise CheckpointError(f"{path}: cannot be read, damaged or truncated ({error})") from error
        raise CheckpointError(
            f"{path}: needs code that cannot be imported from the current folder or PYTHONPATH ({error})"
        ) from error
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)", str(error))
        what = f"a pickled {found.group(1)}" if found else "a pickled Python object"
        raise CheckpointError(
            f"{path}: holds {what}; loading it would execute code from the file: {TWO_WAYS_OUT}"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read, damaged or truncated ({reason[:160]})") from error


def _what_else(path: Path, head: bytes) -> str:
    if not head:
        return "the file is empty"
    if path.suffix.lower() in (".onnx", ".tflite"):
        return (
            f"a {path.suffix} file is already exported; `edgeks footprint` audits and `edgeks bench` times .onnx files"
        )
    return f"begins with {head!r}; save one with torch.save(model.state_dict(), …)"


def _import_from_current_folder() -> None:
    if "" not in sys.path:  # the console script's own folder stands there instead
        sys.path.insert(0, "")


def _check_archive(path: Path) -> None:
    """A torch archive stores its tensors uncompressed; one that grows when read is an attack or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > 2 * path.stat().st_size + 1_000_000:
                raise CheckpointError(
                    f"{path}: its archive unpacks to far more than the file's size; torch.save writes no such file"
                )
            damaged = archive.testzip()  # torch does not compare the checksums
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: truncated or damaged: its archive cannot be read ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: entry {damaged!r} does not match its checksum; copy the file again")
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path}: is a TorchScript archive; {STATE_DICT_WAY}")
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            f"{path}: is a zip archive that torch.save did not write (such as a .pt2 of torch.export); {STATE_DICT_WAY}"
        )
