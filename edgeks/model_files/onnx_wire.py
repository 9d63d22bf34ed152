"""The bytes of an ONNX file → the same without large tensors' content, small enough to be parsed.

Protobuf parses a message whole. So the file's fields are walked first, by the wire format
(https://protobuf.dev/programming-guides/encoding) and onnx's own descriptors: the content of a large tensor is left
where it is, and what remains says where that is. On the way it is counted what protobuf would take in memory: a file
can be made that needs fifty times its size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from edgeks.model_files.mapped_file import PIECE_BYTES, MappedFile

# Shape inference needs the values of up to 1024 numbers of 8 bytes; what is larger is not parsed.
MAX_INLINE_BYTES = 1024 * 8
MAX_DEPTH = 100  # what protobuf itself takes
MAX_PARSED_BYTES = 1 << 28
MESSAGE_BYTES = 160  # of an empty message in memory, with what points to it
TEXT_BYTES = 16
# Key of the entry of `external_data` that says where in the model's own file a tensor's content is.
CONTENT_AT = "edgeks.content_at"

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_NUMBERS = TensorProto.DESCRIPTOR.fields_by_name
# Packed floats are little-endian, as raw data are.
_CONTENT = {_NUMBERS[name].number for name in ("raw_data", "float_data", "double_data")}
_ELSEWHERE = {_NUMBERS[name].number for name in ("external_data", "data_location")}


class WireError(ValueError):
    """The bytes are no message of ONNX, or one that would take too much memory."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A message type: field number → type of the message in it, or bytes in memory per number of a packed field."""

    messages: dict[int, _Kind] = field(default_factory=dict)
    packed: dict[int, int] = field(default_factory=dict)
    texts: set[int] = field(default_factory=set)
    tensor: bool = False


def small_parts(content: MappedFile) -> bytes:
    """ModelProto → ModelProto in which each tensor of more than MAX_INLINE_BYTES has an entry CONTENT_AT instead.

    Raises:
        WireError: it is malformed, nested too deep, or would take more than MAX_PARSED_BYTES.
    """
    scan = _Scan(content)
    try:
        changed = scan.message(0, len(content), _MODEL, 0)
    except IndexError:
        raise WireError("cut short") from None
    return content[:] if changed is None else changed


class _Scan:
    """One walk over the file. `cost` is what the message would take in memory."""

    def __init__(self, content: MappedFile) -> None:
        self._content = content
        self._cost = 0

    def message(self, start: int, end: int, kind: _Kind, depth: int) -> bytes | None:
        """The message at start…end without large contents; None where it has none and stays as it is."""
        if depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH}")
        content, messages = self._content, kind.messages
        parts: list[bytes] = []
        kept = position = start  # what lies before `kept` is in `parts`
        large: tuple[int, int, int] | None = None  # of a tensor: start of the field, of its content, and its end
        elsewhere = False
        while position < end:
            field_start = position
            tag = content[position]
            position += 1
            if tag > 127:
                tag, position = self._varint(field_start)
            number, wire = tag >> 3, tag & 7
            if wire == LENGTH:
                length = content[position]
                position += 1
                if length > 127:
                    length, position = self._varint(position - 1)
                value_end = position + length
                if value_end > end:
                    raise WireError("cut short")
                inner_kind = messages.get(number)
                if inner_kind is not None:
                    self._add(MESSAGE_BYTES)
                    inner = self.message(position, value_end, inner_kind, depth + 1)
                    if inner is not None:
                        parts += (content[kept:field_start], _length_field(number, inner))
                        kept = value_end
                elif kind.tensor and number in _CONTENT and length > MAX_INLINE_BYTES and large is None:
                    large = field_start, position, value_end
                else:
                    self._add_value(number, position, value_end, kind)
                    elsewhere |= kind.tensor and (number in _CONTENT or number in _ELSEWHERE)
                position = value_end
            elif wire == VARINT:
                value, position = self._varint(position)
                elsewhere |= kind.tensor and number in _ELSEWHERE and value != 0
                self._add(8)
            elif wire in (FIXED64, FIXED32):
                position += 8 if wire == FIXED64 else 4
                self._add(8)
            else:
                raise WireError(f"a field of the wire type {wire}")
        if position != end:
            raise WireError("cut short")
        if large is not None:
            if elsewhere:
                raise WireError("a tensor whose content is in two places")
            parts += (content[kept : large[0]], _content_at(content[large[0]] >> 3, large[1], large[2] - large[1]))
            kept = large[2]
        if not parts:
            return None
        parts.append(content[kept:end])
        return b"".join(parts)

    def _add_value(self, number: int, start: int, end: int, kind: _Kind) -> None:
        if number not in kind.packed:
            self._add(end - start + (TEXT_BYTES if number in kind.texts else 0))
            return
        for piece in range(start, end, PIECE_BYTES):
            numbers = np.frombuffer(self._content[piece : min(end, piece + PIECE_BYTES)], np.uint8) < 128
            self._add(kind.packed[number] * int(np.count_nonzero(numbers)))

    def _add(self, size: int) -> None:
        self._cost += size
        if self._cost > MAX_PARSED_BYTES:
            raise WireError(
                f"its graph and small constants alone would take more than {MAX_PARSED_BYTES:,} bytes of memory"
            )

    def _varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70:
            byte = self._content[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise WireError("a number of more than ten bytes")


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _length_field(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | LENGTH) + _encoded(len(content)) + content


def _content_at(number: int, offset: int, length: int) -> bytes:
    name = TensorProto.DESCRIPTOR.fields_by_number[number].name
    return bytes(external_content(offset, length, name).SerializeToString())


def external_content(offset: int, length: int, field_name: str = "raw_data") -> TensorProto:
    """A tensor that says only that its content is in the model's own file, and in which field it would be."""
    tensor = TensorProto(data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = CONTENT_AT, f"{field_name} {offset} {length}"
    return tensor


def _kind_of(descriptor: Any, known: dict[str, _Kind]) -> _Kind:
    """The types of messages reachable from one, which may contain each other."""
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    kind = known[descriptor.full_name] = _Kind(tensor=descriptor is TensorProto.DESCRIPTOR)
    for entry in descriptor.fields:
        if entry.message_type is not None:
            kind.messages[entry.number] = _kind_of(entry.message_type, known)
        elif entry.type in (entry.TYPE_STRING, entry.TYPE_BYTES):
            kind.texts.add(entry.number)
        elif entry.is_repeated and entry.type not in (entry.TYPE_FLOAT, entry.TYPE_DOUBLE):
            kind.packed[entry.number] = 4 if entry.type in (entry.TYPE_INT32, entry.TYPE_ENUM) else 8
    return kind


_MODEL = _kind_of(ModelProto.DESCRIPTOR, {})
