"""What a user chooses about an int8 export, beyond the scheme of its target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from edgeks.errors import ConfigError
from edgeks.target import FORMS, MODES, Activations, Int8Form, Int8Scheme

Calibration = Literal["minmax", "percentile", "entropy", "mse"]
Rounding = Literal["nearest", "adaround"]


@dataclass(frozen=True, slots=True)
class Int8Options:
    """`form` and `activations` None: the target's. `keep_float` names sharing groups whose layers stay in float.

    `calibration` is how an activation's range is chosen from what the samples show; `bias_correction` removes the mean
    error that rounding leaves in each output channel; `rounding` "adaround" chooses how each weight of a kernel is
    rounded, jointly over all layers that read it.

    Raises:
        ConfigError: a value that is none of the legal ones.
    """

    form: Int8Form | None = None
    activations: Activations | None = None
    calibration: Calibration = "minmax"
    bias_correction: bool = False
    rounding: Rounding = "nearest"
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("form", self.form, (None, *FORMS)),
            ("activations", self.activations, (None, *MODES)),
            ("calibration", self.calibration, get_args(Calibration)),
            ("rounding", self.rounding, get_args(Rounding)),
        ):
            if value not in legal:
                choices = ", ".join(str(choice) for choice in legal if choice)
                raise ConfigError(f"int8: {name.replace('_', ' ')} is {value!r}; legal: {choices}")
        if self.form is not None and self.activations in ("dynamic", "float"):
            raise ConfigError(
                f"int8: form {self.form} is about static activations, not {self.activations}; leave it out"
            )

    def scheme(self, scheme: Int8Scheme) -> Int8Scheme:
        """The target's `scheme` with what was chosen in its place; naming a form asks for static activations.

        Raises:
            ConfigError: the target's format has no such form or kind of activations.
        """
        if scheme.format == "tflite" and self.form not in (None, "qdq"):
            raise ConfigError(f"int8: form {self.form} is about ONNX; TFLite has one form: leave it out")
        if scheme.format == "onnx" and self.activations == "auto":
            raise ConfigError("int8: activations auto is about TFLite; legal for ONNX: static, dynamic, float")
        mode = self.activations or ("static" if self.form else scheme.mode)
        return replace(scheme, form=self.form or scheme.form, mode=mode)

    @property
    def after_training(self) -> bool:
        """Whether it asks for what is decided after training."""
        plain = Int8Options(form=self.form, activations=self.activations)
        return self != plain
