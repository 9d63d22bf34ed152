"""What a file says of its inputs and outputs: codes there and back, and JSON there and back."""

import numpy as np
import pytest

from edgeks.errors import ModelFileError
from edgeks.interface import Interface, TensorSpec

FLOAT = TensorSpec("x", "float32", (1, 3, 4, 4), "NCHW", "as the network takes it")
INT8 = TensorSpec("y", "int8", (1, 10), "NC", "one score per class", 0.1, -28)


def test_codes_there_and_back():
    values = np.array([-50, -10, -0.04, 0, 0.26, 15.5, 50], np.float32)
    codes = INT8.encode(values)
    assert codes.dtype == np.int8
    assert codes.tolist() == [-128, -128, -28, -28, -25, 127, 127]
    np.testing.assert_allclose(INT8.decode(codes), [-10, -10, 0, 0, 0.3, 15.5, 15.5], atol=1e-5)
    np.testing.assert_array_equal(INT8.encode(codes), codes)  # codes stay codes
    assert INT8.decode(codes).dtype == np.float32


def test_floats_stay_as_they_are():
    values = np.ones((1, 3), np.float32)
    assert FLOAT.encode(values) is values
    np.testing.assert_array_equal(FLOAT.decode(values), values)


def test_json_there_and_back():
    interface = Interface((FLOAT,), (INT8,))
    assert Interface.from_dict(interface.to_dict()) == interface


@pytest.mark.parametrize(
    "change", [{"type": "int4"}, {"type": "int64"}, {"scale": "much"}, {"shape": 3}, {"zero_point": [1]}]
)
def test_a_malformed_description_is_one_line(change):
    told = Interface((FLOAT,), (INT8,)).to_dict()
    told["outputs"][0].update(change)
    with pytest.raises(ModelFileError, match="malformed"):
        Interface.from_dict(told)
    del told["outputs"][0]["name"]
    with pytest.raises(ModelFileError, match="malformed"):
        Interface.from_dict(told)
    with pytest.raises(ModelFileError, match="malformed"):
        Interface.from_dict({"inputs": []})
