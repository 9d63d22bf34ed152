"""A .tflite file of another tool, a kernel copied per layer → the same file, what provably is one kernel stored once.

Converters fold BN into the kernel and so write a_l·W for every layer l that reads W. Quantised per output channel, all
these have the codes of W, but for ties: float32 rounds a_l·W once more, and a weight half-way between two codes falls
to either side. Several tensors, each with its own scales, may point to one buffer; so what it takes is the proof that
one set of codes is a right rounding of every layer's float kernel (docs/arithmetic.md).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.atomic_write import atomic_write
from edgeks.errors import ModelFileError, OutputError
from edgeks.formats.tflite.kernels import KernelTensor, StoredKernel, bias_input, kernel_tensors, rows, stored_kernels
from edgeks.model_files.tflite_file import TYPE_NAMES, constant, pack, read_tflite
from edgeks.sharing.equality import copy_sets

# A weight may lie this far, in steps, from its code: half a step, and what float32 adds to 127 of them and to a_l·W.
FITS = 0.5 + 1e-3


@dataclass(frozen=True, slots=True)
class RestoredKernel:
    """Copies that became one buffer: the tensors that point to it, and how many codes of them changed.

    A code changed by 1, or in a channel whose scale became negative by its sign.
    """

    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    copies: int
    changed_codes: int
    saved_bytes: int
    negative_scales: bool


@dataclass(frozen=True, slots=True)
class KeptApart:
    """Kernels that look like copies of one and stay apart, and why."""

    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Restoration:
    """What `restore_sharing` did. `stored_before` and `stored_after` count the buffers that hold kernels."""

    restored: tuple[RestoredKernel, ...]
    kept_apart: tuple[KeptApart, ...]
    bytes_before: int
    bytes_after: int
    stored_before: int
    stored_after: int


def restore_sharing(
    file: Path, out: Path, originals: Path | None = None, *, negative_scales: bool = False
) -> Restoration:
    """`file` → `out`, its kernels that provably are one in one buffer each; the operators stay what they are.

    Kernels that are equal byte for byte always become one. int8 kernels become one where `originals`, the float file
    that `file` was quantised from (tensors have the same names), proves it: its kernels are multiples of one another
    per output channel, and the codes of the first are a right rounding of each at that layer's own scales. Scales and
    biases stay as they are: int32 biases are never shared.

    `negative_scales`: also where a factor is negative. The scale then becomes negative (and an int32 bias with it),
    which built-in kernels compute exactly and XNNPACK leaves to them, so that these layers run slower.

    Raises:
        ModelFileError: a file cannot be read.
        OutputError: `out` cannot be written, or is one of the files that are read.
    """
    for source in (file, originals):
        if source is not None and source.resolve() == out.resolve():
            raise OutputError(f"{out}: is read to write it; name another file")
    model = read_tflite(file)
    floats = {} if originals is None else _float_kernels(originals)
    before = stored_kernels(model)
    home = {id(kernel.tensor): stored.buffer for stored in before for kernel in stored.tensors}
    reasons: dict[int, str] = {}
    changed: dict[int, int] = {}
    for alike in _of_one_form(before):
        _merge_equal(model, alike)
    if originals is not None:
        for alike in _of_one_form(stored_kernels(model)):
            changed |= _merge_proven(model, alike, floats, reasons, negative_scales=negative_scales)
    _drop_unused_buffers(model)
    after = stored_kernels(model)
    restored = [_restored(stored, home, changed) for stored in after]
    apart = [kept for alike in _of_one_form(after) for kept in _kept_apart(alike, reasons, proof=originals is not None)]
    content = pack(model)
    with atomic_write(out) as temporary:
        temporary.write_bytes(content)
        if len(stored_kernels(read_tflite(temporary))) != len(after):
            raise ModelFileError(f"{file}: its kernels change when it is written anew")
    return Restoration(
        restored=tuple(kernel for kernel in restored if kernel.copies > 1),
        kept_apart=tuple(apart),
        bytes_before=file.stat().st_size,
        bytes_after=len(content),
        stored_before=len(before),
        stored_after=len(after),
    )


def _float_kernels(file: Path) -> dict[str, NDArray[Any]]:
    """Name of every float kernel → output channels × taps."""
    model = read_tflite(file)
    found = [kernel for kernel in kernel_tensors(model) if kernel.tensor.type == schema.TensorType.FLOAT32]
    return {kernel.name: rows(model, kernel) for kernel in found}


def _of_one_form(stored: list[StoredKernel]) -> list[list[StoredKernel]]:
    """Kernels of one type, shape and layout: those that one buffer could hold."""
    found: dict[tuple[Any, ...], list[StoredKernel]] = defaultdict(list)
    for kernel in stored:
        tensor = kernel.tensors[0].tensor
        found[tensor.type, tuple(tensor.shape), kernel.tensors[0].axis].append(kernel)
    return list(found.values())


def _merge_equal(model: schema.ModelT, alike: list[StoredKernel]) -> None:
    """Buffers of the same bytes → one; every tensor keeps its scales and zero points."""
    first_of: dict[bytes, int] = {}
    for stored in alike:
        content = np.asarray(model.buffers[stored.buffer].data, np.uint8).tobytes()
        _move(stored, first_of.setdefault(content, stored.buffer))


def _move(stored: StoredKernel, buffer: int) -> None:
    for kernel in stored.tensors:
        kernel.tensor.buffer = buffer


def _restored(stored: StoredKernel, home: dict[int, int], changed: dict[int, int]) -> RestoredKernel:
    """What became of a buffer; `home` is the buffer that each tensor (by id) had before."""
    copies = {home[id(kernel.tensor)] for kernel in stored.tensors}
    return RestoredKernel(
        tensors=tuple(kernel.name for kernel in stored.tensors),
        shape=_shape(stored),
        copies=len(copies),
        changed_codes=changed.get(stored.buffer, 0),
        saved_bytes=(len(copies) - 1) * stored.stored_bytes,
        negative_scales=any(_has_negative_scale(kernel) for kernel in stored.tensors),
    )


def _has_negative_scale(kernel: KernelTensor) -> bool:
    quantization = kernel.tensor.quantization
    return quantization is not None and quantization.scale is not None and bool(np.any(quantization.scale < 0))


def _shape(stored: StoredKernel) -> tuple[int, ...]:
    return tuple(int(length) for length in stored.tensors[0].tensor.shape)


def _merge_proven(
    model: schema.ModelT,
    alike: list[StoredKernel],
    floats: dict[str, NDArray[Any]],
    reasons: dict[int, str],
    *,
    negative_scales: bool,
) -> dict[int, int]:
    """int8 buffers whose float originals are one kernel up to a factor, and which one set of codes fits → one.

    Returns how many codes changed for each buffer that took others in; `reasons` gets those that stay apart.
    """
    known = []
    for stored in alike:
        if stored.tensors[0].tensor.type == schema.TensorType.INT8:
            reason = _unlike_originals(stored, floats)
            if reason is None:
                known.append(stored)
            else:
                reasons[stored.buffer] = reason
    changed: dict[int, int] = {}
    for indices in copy_sets([floats[stored.tensors[0].name] for stored in known]):
        heads: list[StoredKernel] = []  # one, unless signs or scales part the set
        for stored in (known[index] for index in indices):
            for head in heads:
                reason = _misfit(head, stored, floats, negative_scales=negative_scales)
                if reason is None:
                    changed[head.buffer] = changed.get(head.buffer, 0) + _adopt(model, head, stored, floats)
                    break
                reasons.setdefault(stored.buffer, reason)
            else:
                heads.append(stored)
    return changed


def _adopt(model: schema.ModelT, head: StoredKernel, stored: StoredKernel, floats: dict[str, NDArray[Any]]) -> int:
    """The tensors of `stored` → the codes of `head`; how many of them were others."""
    for kernel in stored.tensors:
        signs = _signs(floats[head.tensors[0].name], floats[kernel.name])
        _negate(model, kernel, signs)
    _move(stored, head.buffer)
    return int(np.count_nonzero(head.values * signs != stored.values))  # tensors of one buffer have the same signs


def _unlike_originals(stored: StoredKernel, floats: dict[str, NDArray[Any]]) -> str | None:
    """Why these codes are not known to be a rounding of the float kernels of the same names; None where they are."""
    for kernel in stored.tensors:
        original = floats.get(kernel.name)
        if original is None or original.shape != stored.values.shape:
            return f"the float file has no kernel {kernel.name!r} of this shape"
        quantization = kernel.tensor.quantization
        if quantization.zeroPoint is not None and np.any(quantization.zeroPoint):
            return "its zero point is not 0"
        if quantization.scale is None or not np.all(np.asarray(quantization.scale) > 0):
            return "its scales are not all positive"
        wrong = _unfit(stored.values, kernel, original)
        if wrong:
            return f"{wrong} of its {original.size} codes are no rounding of the float file's kernel of that name"
    return None


def _misfit(
    first: StoredKernel, other: StoredKernel, floats: dict[str, NDArray[Any]], *, negative_scales: bool
) -> str | None:
    """Why the codes of `first` cannot stand for those of `other`; None where they can."""
    for kernel in other.tensors:
        signs = _signs(floats[first.tensors[0].name], floats[kernel.name])
        negative = int((signs < 0).sum())
        if negative and len(kernel.tensor.quantization.scale) != len(signs):
            return "they differ in sign, and have one scale for all output channels"
        if negative and not negative_scales:
            return (
                f"{negative} of {len(signs)} output channels have the opposite sign: one kernel would need negative "
                "scales, which XNNPACK leaves to slower kernels (negative_scales)"
            )
        wrong = _unfit(first.values * signs, kernel, floats[kernel.name])
        if wrong:
            return f"{wrong} of {first.values.size} weights are more than half a step from the codes of the first"
    return None


def _unfit(codes: NDArray[Any], kernel: KernelTensor, original: NDArray[Any]) -> int:
    """How many weights of `original` (output channels × taps) lie too far from `codes` at the tensor's own scales."""
    scales = np.asarray(kernel.tensor.quantization.scale, np.float64).reshape(-1, 1)
    return int(np.count_nonzero(np.abs(original - scales * codes) > FITS * scales))


def _signs(first: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int16]:
    """Output channels × 1: −1 where the channels point away from each other, else 1."""
    products = np.einsum("ct,ct->c", first.astype(np.float64), other.astype(np.float64))
    return np.where(products < 0, -1, 1).astype(np.int16)[:, None]


def _negate(model: schema.ModelT, kernel: KernelTensor, signs: NDArray[np.int16]) -> None:
    """Scales of the channels with sign −1 → their negatives, and with them scales and codes of int32 biases."""
    if (signs > 0).all():
        return
    factors = signs.reshape(-1)
    kernel.tensor.quantization.scale = np.asarray(kernel.tensor.quantization.scale, np.float32) * factors
    for graph in model.subgraphs:
        mine = [operator for operator in graph.operators if any(operator is reader for reader in kernel.readers)]
        for index in dict.fromkeys(_bias_of(model, operator) for operator in mine):
            codes = None if index < 0 else constant(model, graph.tensors[index])
            if codes is None or codes.dtype != np.int32:
                continue
            negated = _negated_bias(model, graph.tensors[index], codes, factors)
            others = [operator for operator in graph.operators if not any(operator is one for one in mine)]
            if any(other.inputs is not None and index in other.inputs for other in others):
                negated.name = bytes(negated.name) + b"/negated"  # another layer goes on reading the old one
                graph.tensors.append(negated)
                for operator in mine:
                    if _bias_of(model, operator) == index:
                        operator.inputs = [*operator.inputs[: bias_input(model, operator)], len(graph.tensors) - 1]
            else:
                graph.tensors[index] = negated


def _bias_of(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Tensor that a layer reads as its bias; −1: none."""
    position = bias_input(model, operator)
    return int(operator.inputs[position]) if operator.inputs is not None and len(operator.inputs) > position else -1


def _negated_bias(
    model: schema.ModelT, bias: schema.TensorT, codes: NDArray[np.int32], factors: NDArray[np.int16]
) -> schema.TensorT:
    """An int32 bias whose codes and scales have other signs in the channels with factor −1."""
    content = schema.BufferT()
    content.data = (codes * factors).astype(np.int32).view(np.uint8)
    model.buffers.append(content)
    own = copy.deepcopy(bias)
    own.buffer = len(model.buffers) - 1
    own.quantization.scale = np.asarray(bias.quantization.scale, np.float32) * factors
    return own


def _drop_unused_buffers(model: schema.ModelT) -> None:
    """Buffers that nothing points to any more → empty ones, so that the others keep their numbers."""
    used = {int(tensor.buffer) for graph in model.subgraphs for tensor in graph.tensors}
    used.update(int(entry.buffer) for entry in (model.metadata if model.metadata is not None else []))
    used.update(int(index) for index in (model.metadataBuffer if model.metadataBuffer is not None else []))
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _kept_apart(alike: list[StoredKernel], reasons: dict[int, str], *, proof: bool) -> list[KeptApart]:
    """The kernels that are still equal up to a factor, and why nothing was done about it."""
    found = []
    for indices in copy_sets([stored.values for stored in alike]):
        copies = [alike[index] for index in indices]
        kind = TYPE_NAMES[copies[0].tensors[0].tensor.type]
        told = [reasons[stored.buffer] for stored in copies if stored.buffer in reasons]
        if told:
            reason = told[0]
        elif kind == "INT8" and not proof:
            reason = "their codes differ, and only the float file that they were made from proves that they are one"
        elif kind == "INT8":
            reason = "their float originals are no multiples of one another"
        else:
            reason = (
                f"a factor per output channel is folded into each; in {kind} it has nowhere else to go, in int8 it has"
            )
        names = tuple(kernel.name for stored in copies for kernel in stored.tensors)
        found.append(KeptApart(names, _shape(copies[0]), reason))
    return found
