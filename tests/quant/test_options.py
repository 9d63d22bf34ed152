"""Int8Options: every value is checked, and the message says what is legal."""

import pytest

from edgeks.errors import ConfigError
from edgeks.quant.options import Int8Options
from edgeks.target import load_target


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "QDQ"}, "int8: form is 'QDQ'; legal: qdq, qoperator"),
        ({"activations": "int8"}, "int8: activations is 'int8'; legal: static, dynamic, float"),
        ({"calibration": "max"}, "int8: calibration is 'max'; legal: minmax, percentile, entropy, mse"),
        ({"rounding": "up"}, "int8: rounding is 'up'; legal: nearest, adaround"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ConfigError, match=message):
        Int8Options(**options)


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({"form": "qoperator"}, "tflite", "form qoperator is about ONNX; TFLite has one form"),
        ({"activations": "auto"}, "onnx", "activations auto is about TFLite; legal for ONNX: static, dynamic, float"),
    ],
)
def test_what_a_format_has_not(options, target, message):
    with pytest.raises(ConfigError, match=message):
        Int8Options(**options).scheme(load_target(target).int8)
