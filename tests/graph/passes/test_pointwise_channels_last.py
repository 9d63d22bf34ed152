"""1×1 convolutions become NHWC matrix products, exactly; Transposes move past what does not mind and cancel."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_text import constant, graph_of, normal, ops, run_graph

from edgeks.graph.kernels import readers
from edgeks.graph.passes.pointwise_channels_last import pointwise_channels_last


def shaped(text, **constants):
    """A graph whose Values have shapes, as a captured one has."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph_of(text, **constants))))


def norm(width, seed):
    names = zip("gbmv", (1, 1, 1, 0), strict=True)
    vectors = {f"{n}{seed}": normal(width, seed=seed + i) for i, (n, _) in enumerate(names)}
    vectors[f"v{seed}"] = np.abs(vectors[f"v{seed}"]) + np.float32(0.1)
    return vectors


def turned(model, shape=(1, 4, 5, 6)):
    x = normal(*shape, seed=9)
    before = run_graph(model, x)
    note = pointwise_channels_last(model)
    for found, expected in zip(run_graph(model, x), before, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    return note


def test_blocks_of_a_convmixer_keep_transposes_only_around_the_depthwise_layers():
    model = shaped(
        """(float[1,4,5,6] x) => (float[1,4,5,6] y) {
            [stem] s = Relu(x)
            [dw1] d1 = Conv<group=4, pads=[1,1,1,1]>(s, D)
            [n1] a1 = BatchNormalization(d1, g10, b10, m10, v10)
            [add1] r1 = Add(a1, s)
            [pw1] p1 = Conv(r1, P, B)
            [gelu1] h1 = Gelu(p1)
            [n2] z1 = BatchNormalization(h1, g20, b20, m20, v20)
            [dw2] d2 = Conv<group=4, pads=[1,1,1,1]>(z1, D)
            [add2] r2 = Add(z1, d2)
            [pw2] p2 = Conv(r2, P, B)
            [gelu2] y = Gelu(p2)
        }""",
        D=normal(4, 1, 3, 3),
        P=normal(4, 4, 1, 1, seed=1),
        B=normal(4, seed=2),
        **norm(4, 10),
        **norm(4, 20),
    )
    assert turned(model).startswith("2 pointwise layers")
    kernels = {tuple(constant(kernel).shape): layers for kernel, layers in readers(model).items()}
    assert kernels == {(4, 1, 3, 3): ["dw1", "dw2"], (4, 4): ["pw1", "pw2"]}
    assert ops(model).count("BatchNormalization") == 1  # ahead of the first pointwise layer; the other is Mul and Add
    between = ops(model)[ops(model).index("MatMul") :]
    assert between[: between.index("MatMul", 1)] == [
        "MatMul", "Add", "Gelu", "Mul", "Add", "Transpose", "Conv", "Transpose", "Add",
    ]  # fmt: skip
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("attributes", ["strides=[2,2]", "group=2", "pads=[1,1,1,1]"])
def test_a_kernel_that_one_layer_reads_in_another_way_is_left_alone(attributes):
    channels = 2 if "group" in attributes else 4
    model = shaped(
        f"""(float[1,4,5,6] x) => (float[?,?,?,?] y) {{
            [relu] r = Relu(x)
            [plain] p = Conv{"<group=2>" if channels == 2 else ""}(r, P)
            [other] y = Conv<{attributes}>(p, P)
        }}""",
        P=normal(4, channels, 1, 1),
    )
    assert turned(model) == "nothing to do: no pointwise layers"
    assert ops(model) == ["Relu", "Conv", "Conv"]


def test_what_the_transpose_cannot_pass():
    model = shaped(
        """(float[1,4,5,6] x) => (float[1,4,5,6] y, float[1,4,1,1] z) {
            [relu] r = Relu(x)
            [pw] p = Conv(r, P)
            [by_channel] c = Mul(p, C)
            [residual] a = Add(c, r)
            [pool] z = GlobalAveragePool(p)
            [clip] y = Clip(a, low)
        }""",
        P=normal(4, 4, 1, 1),
        C=normal(4, 1, 1, seed=1),
        low=np.float32(-0.5),
    )
    assert turned(model) == "1 pointwise layers as matrix products in NHWC, 2 Transposes left"
    assert [v.name for v in model.graph.outputs] == ["y", "z"]


def test_a_gate_and_numbers_and_an_output_inside():
    model = shaped(
        """(float[1,4,5,6] x) => (float[1,4,5,6] y, float[1,4,5,6] h) {
            [relu] r = Relu(x)
            [gate] g = GlobalAveragePool(r)
            [pw1] p = Conv(r, P)
            [clip] c = Clip(p, low, high)
            [half] h = Mul(c, number)
            [scaled] s = Mul(g, h)
            [pw2] y = Conv(s, P)
        }""",
        P=normal(4, 4, 1, 1),
        low=np.float32(-1),
        high=np.float32(1),
        number=np.float32(0.5),
    )
    assert turned(model).startswith("2 pointwise layers")
    assert [v.name for v in model.graph.outputs] == ["y", "h"]


def test_a_stem_that_reads_the_network_s_input_stays():
    model = shaped("(float[1,4,5,6] x) => (float[1,4,5,6] y) { [pw] y = Conv(x, P) }", P=normal(4, 4, 1, 1))
    assert turned(model) == "nothing to do: no pointwise layers"
