"""Ranges are what the float graph gives on the samples, cut as each method says."""

import numpy as np
import pytest
from networks import SharedConvs, inputs_of, small_checkpoint
from onnx_text import graph_of, normal, run_graph

from edgeks.errors import DataError
from edgeks.exporter import export
from edgeks.graph.passes.quantize_activations import Range
from edgeks.quant.calibrate import INFORMATIVE, calibrate
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TEXT = "(float[1,3,4,4] x) => (float[1,3,4,4] y) { [a] h = Exp(x) [b] y = Neg(h) }"
WIDE = "(float[1,3,64,64] x) => (float[1,3,64,64] y) { [a] h = Relu(x) [b] y = Neg(h) }"
METHODS = ("minmax", "percentile", "entropy", "mse")


def test_ranges_of_input_inner_value_and_output():
    samples = normal(7, 3, 4, 4)
    ranges = calibrate(graph_of(TEXT), ["x", "h", "y"], samples)
    assert list(ranges) == ["x", "h", "y"]
    expected = {"x": samples, "h": np.exp(samples), "y": -np.exp(samples)}
    for name, values in expected.items():
        assert (ranges[name].low, ranges[name].high) == pytest.approx((values.min(), values.max()), rel=1e-6)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_every_sample_counts(method):
    samples = np.zeros((5, 3, 4, 4), np.float32)
    samples[4, 2] = 9
    assert calibrate(graph_of(TEXT), ["x"], samples, method)["x"].high == pytest.approx(9, rel=0.01)


@pytest.mark.parametrize("position", [0, 2, 4], ids=["first", "middle", "last"])
@pytest.mark.parametrize("value", [np.nan, 1000.0], ids=["NaN", "overflow"])
def test_a_value_that_is_not_finite_in_any_sample_is_named(position, value):
    samples = normal(5, 3, 4, 4)
    samples[position, 0, 0, 0] = value
    with pytest.raises(DataError, match="'h' is not finite"):
        calibrate(graph_of(TEXT), ["h"], samples, "mse")


@pytest.mark.parametrize("method", METHODS)
def test_no_names_no_ranges(method):
    assert calibrate(graph_of(TEXT), [], normal(2, 3, 4, 4), method) == {}


def squared_error(values, found: Range) -> float:
    """What quantising `values` to uint8 over a range really costs."""
    scale, zero_point = found.parameters("uint8")
    codes = np.clip(np.rint(values / scale) + zero_point, 0, 255)
    return float(np.mean(((codes - zero_point) * scale - values) ** 2))


def uniform(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_a_uniform_distribution_keeps_its_range(method):
    found = calibrate(graph_of(WIDE), ["x"], uniform(10, 3, 64, 64), method)["x"]
    if method == "entropy":  # symmetric, and its levels are coarser
        assert 0.8 < found.high <= 1 and -1 <= found.low < -0.8
    else:
        assert (found.low, found.high) == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_far_value_is_cut_off(method):
    samples = uniform(20, 3, 64, 64)
    samples[3, 1, 2, 3] = 5
    found = calibrate(graph_of(WIDE), ["x"], samples, method)["x"]
    assert found.high < 1.6 and -1.6 < found.low < -0.8


@pytest.mark.parametrize(("far", "cut"), [(1.5, True), (50, False)])
def test_mse_cuts_a_far_value_only_where_that_costs_less(far, cut):
    samples = uniform(20, 3, 64, 64)
    samples[3, 1, 2, 3] = far
    found = calibrate(graph_of(WIDE), ["x"], samples, "mse")["x"]
    assert (found.high < 1.1) is cut
    assert squared_error(samples, found) < squared_error(samples, Range(-1, far))


def test_mse_leaves_the_least_error_of_all_methods():
    samples = np.random.default_rng(1).laplace(0.3, 1.0, (20, 3, 64, 64)).astype(np.float32)
    errors = {m: squared_error(samples, calibrate(graph_of(WIDE), ["x"], samples, m)["x"]) for m in METHODS}
    assert min(errors, key=errors.get) == "mse"
    found = calibrate(graph_of(WIDE), ["x"], samples, "mse")["x"]
    near = [(found.low * a, found.high * b) for a in (0.9, 1, 1.1) for b in (0.9, 1, 1.1)]
    assert errors["mse"] <= 1.02 * min(squared_error(samples, Range(*ends)) for ends in near)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_never_negative_keeps_all_codes_for_the_positive(method):
    found = calibrate(graph_of(WIDE), ["h"], normal(6, 3, 64, 64), method)["h"]
    assert found.low == 0 and found.parameters("uint8")[1] == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_activation_has_no_range(method):
    found = calibrate(graph_of(WIDE), ["h"], -np.ones((2, 3, 64, 64), np.float32), method)["h"]
    assert (found.low, found.high) == (0, 0)


OPS = {
    "Gelu": "Gelu(h)",
    "HardSwish": "HardSwish(h)",
    "HardSigmoid": "HardSigmoid<alpha=0.16666667>(h)",
    "Sigmoid": "Sigmoid(h)",
}


def reading(*readers, output="z"):
    lines = " ".join(f"[r{i}] v{i} = {reader}" for i, reader in enumerate(readers))
    total = "v0" if len(readers) == 1 else ", ".join(f"v{i}" for i in range(len(readers)))
    return graph_of(
        f"(float[1,3,4,4] x) => (float[1,3,4,4] {output}) {{ [n] h = Neg(x) {lines} [s] z = Sum({total}) }}"
    )


@pytest.mark.parametrize("op", INFORMATIVE)
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_range_ends_where_its_reader_is_constant(op, method):
    samples = np.linspace(-20, 20, 4 * 48, dtype=np.float32).reshape(4, 3, 4, 4)
    low, high = INFORMATIVE[op]
    found = calibrate(reading(OPS[op]), ["h"], samples, method)["h"]
    assert (found.low, found.high) == pytest.approx((low, min(high, 20)), rel=0.1)
    beyond = run_graph(reading(OPS[op]), np.linspace(-low, 20, 48, dtype=np.float32).reshape(1, 3, 4, 4))[0]
    assert np.abs(beyond).max() < 0.002
    if np.isfinite(high):
        beyond = run_graph(reading(OPS[op]), np.linspace(-20, -high, 48, dtype=np.float32).reshape(1, 3, 4, 4))[0]
        assert np.abs(beyond - 1).max() < 0.002


@pytest.mark.parametrize(
    "readers",
    [("Gelu(h)", "Neg(h)"), ("Sigmoid(h)", "Mul(h, v0)"), ("HardSigmoid<alpha=0.05>(h)",), ("Relu(h)",)],
    ids=["another reader", "SiLU", "a flat HardSigmoid", "no such op"],
)
def test_a_range_stays_whole_where_a_reader_tells_more(readers):
    samples = np.linspace(-20, 20, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    found = calibrate(reading(*readers), ["h"], samples)["h"]
    assert (found.low, found.high) == (-20, 20)


def test_the_widest_of_several_readers_counts_and_an_output_is_whole():
    samples = np.linspace(-20, 20, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    found = calibrate(reading("Gelu(h)", "Sigmoid(h)"), ["h"], samples)["h"]
    assert (found.low, found.high) == (-8, 20)
    inner = graph_of("(float[1,3,4,4] x) => (float[1,3,4,4] z, float[1,3,4,4] h) { [n] h = Neg(x) [g] z = Gelu(h) }")
    assert calibrate(inner, ["h"], samples)["h"].low == -20


def test_far_values_in_the_samples_hurt_minmax_more_than_mse(tmp_path):
    """The far values are in a sample that parity does not compare."""
    checkpoint = small_checkpoint(SharedConvs(8, (1, 1)), 32)
    inputs = np.concatenate([inputs_of(checkpoint)] * 8)
    inputs[70, :, 3, 3] = 10
    np.savez(tmp_path / "calib.npz", inputs)
    found = {}
    for method in ("minmax", "mse"):
        options = Int8Options(calibration=method)
        calib, target = tmp_path / "calib.npz", load_target("onnx")
        report = export(checkpoint, tmp_path / "m.onnx", target, int8=True, options=options, calib=calib)
        assert report.proof.kernels_stored == 3
        found[method] = report.parity.sqnr_db
    assert found["mse"] > found["minmax"] + 1
