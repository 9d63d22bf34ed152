"""The forms that a network can be exported in for a target, and the command that writes each."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeks.quant.options import Int8Options
from edgeks.target import LAYERS, Activations, Format, Layers, Target, load_target, target_names

# Weight-only int8 computes in float: it is a form of its own only where the target asks for it.
ACTIVATIONS: tuple[Activations, ...] = ("static", "dynamic")


@dataclass(frozen=True, slots=True)
class Form:
    """One export: `activations` is None for fp32. `target_name` is what --target takes: a name or a path."""

    target: Target
    target_name: str
    precision: Literal["fp32", "int8"]
    activations: Activations | None
    layers: Layers

    @property
    def name(self) -> str:
        """For people: "fp32", "int8 static rolled"."""
        way = None if self.layers == "unrolled" else self.layers
        return " ".join(filter(None, (self.precision, self.activations, way)))

    @property
    def options(self) -> Int8Options:
        """What the export is told beyond its target."""
        return Int8Options(activations=self.activations)

    def is_own(self, mode: Activations) -> bool:
        """Whether it is int8 as the target says; `mode` is what the target's "auto" comes to for the network."""
        return self.precision == "int8" and self.activations == mode and self.layers == self.target.layers

    def file_name(self, stem: str) -> str:
        """`model_int8_static_rolled.onnx`."""
        return f"{stem}_{self.name.replace(' ', '_')}.{self.target.format}"

    def command(self, model: Path, source_options: Sequence[str]) -> str:
        """The `edgeks export` that writes the file; `source_options` say how the model is to be read."""
        words = ["edgeks", "export", str(model)]
        if self.precision == "int8":
            words.append("--int8")
        words += ["--target", self.target_name]
        if self.activations is not None and self.activations != self.target.int8.mode:
            words += ["--activations", self.activations]
        if self.layers != self.target.layers:
            words += ["--form", self.layers]
        return shlex.join([*words, *source_options, "-o", self.file_name(model.stem)])


def forms_for(target: Target, target_name: str) -> tuple[Form, ...]:
    """Every form of the target's format, the target's own first: an export says which of them do not apply."""
    scheme_mode = target.int8.mode
    modes = (*ACTIVATIONS, "float") if scheme_mode == "float" else ACTIVATIONS
    layers = sorted(LAYERS[target.format], key=lambda way: way != target.layers)
    int8 = [Form(target, target_name, "int8", mode, way) for way in layers for mode in modes]
    fp32 = [Form(target, target_name, "fp32", None, way) for way in layers]
    return (*sorted(int8, key=lambda form: form.activations != scheme_mode), *fp32)


def targets_for(target: str | None, formats: Sequence[Format] | None) -> tuple[tuple[str, Target], ...]:
    """The targets to export for, by what --target takes: the one that is named, and its like for other `formats`.

    Without a target: those of any CPU, of both formats. Of a board: its target for the other format, within the named
    one's budgets.
    """
    if target is None:
        return tuple((name, load_target(name)) for name in formats or ("onnx", "tflite"))
    named = load_target(target)
    found = [(target, named)]
    for other in formats or ():
        if other != named.format:
            name = _like(named, other)
            like = load_target(name)
            like = replace(like, flash_budget_bytes=named.flash_budget_bytes, ram_budget_bytes=named.ram_budget_bytes)
            found.append((name, replace(like, board=named.board)))
    return tuple((name, each) for name, each in found if not formats or each.format in formats)


def _like(named: Target, other: Format) -> str:
    """The shipped target of format `other` for the same board; the one for any CPU where there is none."""
    for name in target_names() if named.board else ():
        each = load_target(name)
        if each.format == other and each.board and named.board and each.board.name == named.board.name:
            return name
    return other
