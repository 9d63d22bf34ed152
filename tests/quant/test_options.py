"""Int8Options: every value is checked, and the message says what is legal."""

import pytest

from edgeks.errors import ConfigError
from edgeks.quant.options import Int8Options


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
