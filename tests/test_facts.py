"""Facts about torch, onnxsim and the runtimes that the design relies on: a release that changes one fails here."""

import platform
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import onnxsim
import pytest
import torch
from networks import SharedConvs, small_checkpoint
from onnx_text import graph_of, normal, run_graph
from tflite_by_hand import VALID, TfliteGraph

from edgeks.bench.memory import measure_ram
from edgeks.exporter import export
from edgeks.formats.onnx import LEVELS, open_session
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.formats.tflite.runtime import run as run_litert
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.runtime_profile import PROFILES
from edgeks.target import LiteRtSession, load_target

KERNEL_BYTES = 8 * 8 * 3 * 3


def se_resnet():
    return SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4)


def optimised(path, tmp_path, disabled=()):
    """The graph that ONNX Runtime makes of `path` at load, as it saves it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS["all"]
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled))
    return onnx.load(tmp_path / "optimised.onnx")


def constants_of_size(model, size):
    return sum(int(np.prod(t.dims)) == size for t in model.graph.initializer)


def kernel_reads(model):
    """Name of the 3×3 kernel of every convolution (in ONNX Runtime's own layout a BN is a 1×1 one)."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    found = [n.input[3 if n.op_type == "QLinearConv" else 1] for n in model.graph.node if "Conv" in n.op_type]
    return [name for name in found if shapes[name][2:] == [3, 3]]


def written(network, path, target="onnx", **options):
    export(small_checkpoint(network), path, load_target(target), min_sqnr_db=-200, **options)
    return path


@pytest.mark.parametrize("network", [SharedConvs(8, (1, 1, 1, 1)), se_resnet()], ids=["chain", "SE-ResNet"])
def test_the_target_s_session_options_keep_one_copy_in_ram_and_the_default_does_not(network, tmp_path):
    path = written(network, tmp_path / "m.onnx")
    options = load_target("onnx").session
    assert options.graph_optimization == "all"
    file = onnx.load(path)
    layers, kernels = len(kernel_reads(file)), len(set(kernel_reads(file)))
    assert kernels <= layers - 3
    kept, folded = optimised(path, tmp_path, options.disabled_optimizers), optimised(path, tmp_path)
    assert (len(kernel_reads(kept)), len(set(kernel_reads(kept)))) == (layers, kernels)
    assert (len(kernel_reads(folded)), len(set(kernel_reads(folded)))) == (layers, layers)


@pytest.mark.parametrize("depthwise", [False, True])
def test_negative_and_zero_weight_scales_are_exact(depthwise):
    groups = 4 if depthwise else 1
    codes = np.random.default_rng(0).integers(-127, 128, (4, 4 // groups, 3, 3)).astype(np.int8)
    scale = np.array([0.01, -0.02, 0.0, -0.005], np.float32)
    text = """(float[1,4,6,6] x) => (float[1,4,4,4] y) {{
        [q] xq = QuantizeLinear(x, s, z)
        {}
    }}"""
    common = {"W": codes, "sw": scale, "s": np.float32(0.02), "so": np.float32(0.1), "z": np.array(0, np.int8)}
    qlinear = graph_of(
        text.format(
            f"[c] yq = QLinearConv<group={groups}>(xq, s, z, W, sw, z, so, z) [d] y = DequantizeLinear(yq, so, z)"
        ),
        **common,
    )
    qdq = graph_of(
        text.format(
            f"""[xd] xf = DequantizeLinear(xq, s, z) [wd] w = DequantizeLinear<axis=0>(W, sw)
            [c] yf = Conv<group={groups}>(xf, w) [q2] yq = QuantizeLinear(yf, so, z)
            [d] y = DequantizeLinear(yq, so, z)"""
        ),
        **common,
    )
    x = normal(1, 4, 6, 6)
    integers = np.clip(np.rint(x / np.float32(0.02)), -128, 127)
    weight = torch.from_numpy(codes.astype(np.float64))
    sums = torch.nn.functional.conv2d(torch.from_numpy(integers.astype(np.float64)), weight, groups=groups).numpy()
    exact = sums * (0.02 * scale.astype(np.float64) / 0.1).reshape(1, 4, 1, 1)
    expected = 0.1 * np.clip(np.rint(exact), -128, 127)
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-3  # not a rounding tie
    for model in (qlinear, qdq):
        np.testing.assert_allclose(run_graph(model, x)[0][clear], expected[clear], atol=1e-5)


@pytest.mark.parametrize("optimise", [False, True])
def test_the_dynamo_exporter_keeps_a_shared_parameter_as_one_initializer(optimise):
    program = torch.onnx.export(
        SharedConvs(8, (1, 1, 1)).eval(), (torch.zeros(1, 3, 8, 8),), dynamo=True, optimize=optimise, verbose=False
    )
    assert constants_of_size(program.model_proto, KERNEL_BYTES) == 1


def test_onnxsim_keeps_one_copy_when_told_not_to_fold_bn_and_else_writes_one_per_layer(tmp_path):
    model = onnx.load(written(SharedConvs(8, (1, 1, 1)), tmp_path / "m.onnx"))
    assert constants_of_size(onnxsim.simplify(model, skip_fuse_bn=True)[0], KERNEL_BYTES) == 1
    assert constants_of_size(onnxsim.simplify(model)[0], KERNEL_BYTES) == 3


@pytest.mark.parametrize("target", ["onnx", "onnx-x64"])
def test_onnx_runtime_runs_our_u8_activations_in_integers(tmp_path, target):
    path = written(se_resnet(), tmp_path / "m.onnx", target, int8=True)
    ours = Counter(node.op_type for node in onnx.load(path).graph.node)
    found = Counter(node.op_type for node in optimised(path, tmp_path).graph.node)
    assert found["QLinearConv"] == ours["Conv"] == 11
    assert found["QLinearAdd"] == ours["Add"] == 4
    assert found["QLinearMul"] == ours["Mul"] == 4
    assert found["QLinearSigmoid"] == ours["Sigmoid"] == 4
    assert found["QLinearGlobalAveragePool"] == ours["GlobalAveragePool"] == 5
    assert found["QGemm"] == ours["Gemm"] == 9
    assert not found["Conv"] and not found["Gemm"] and not found["MatMul"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Arm has kernels for s8 activations")
def test_on_x86_s8_activations_that_two_nodes_read_are_not_fused(tmp_path):
    path = written(se_resnet(), tmp_path / "m.onnx", "rpi-4", int8=True)
    found = Counter(node.op_type for node in optimised(path, tmp_path).graph.node)
    assert found["Conv"] > 0  # float: why the portable target has u8 activations (docs/adr/0010)


def integer_convolutions(path, zero_point, layers=12, channels=256):
    """Convolutions that share a kernel of 590 kB and have scales and biases of their own, as QLinearConv."""
    codes = np.random.default_rng(0).integers(-127, 128, (channels, channels, 3, 3))
    kernel = (codes + zero_point).astype(np.int8)
    constants = {"W": kernel, "wz": np.int8(zero_point), "s": np.float32(0.05), "z": np.uint8(128)}
    nodes = []
    for index in range(layers):
        constants[f"ws{index}"] = np.full(channels, (1 + index / layers) / 4000, np.float32)
        constants[f"b{index}"] = np.arange(channels, dtype=np.int32) * (index + 1)
        nodes.append(f"q{index + 1} = QLinearConv<pads=[1,1,1,1]>(q{index}, s, z, W, ws{index}, wz, s, z, b{index})")
    text = f"""(float[1,{channels},8,8] x) => (float[1,{channels},8,8] y) {{
        q0 = QuantizeLinear(x, s, z) {" ".join(nodes)} y = DequantizeLinear(q{layers}, s, z)
    }}"""
    path.write_bytes(ir.to_proto(graph_of(text, **constants)).SerializeToString())
    return path, kernel.nbytes


def test_a_kernel_with_a_zero_point_is_packed_once_and_one_without_for_every_node(tmp_path):
    """Why targets have `kernel_zero_point = -1` (docs/adr/0017): it can go when ONNX Runtime shares either way."""
    profile = next(profile for profile in PROFILES["onnx"] if profile.name == "ort-default")
    held, outputs = [], []
    for zero_point in (0, -1):
        path, kernel_bytes = integer_convolutions(tmp_path / f"{zero_point}.onnx", zero_point)
        held.append(measure_ram(path, profile).loaded_anonymous_bytes / kernel_bytes)
        session = open_session(path.read_bytes(), load_target("onnx").session)
        outputs.append(session.run(None, {"x": normal(1, 256, 8, 8)})[0])
    assert 10 < held[0] - held[1] < 13  # in kernels
    assert outputs[0].std() > 0.5
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("target", ["onnx", "onnx-x64"])
def test_integer_convolutions_still_read_one_kernel_at_run_time(target, tmp_path):
    path = written(SharedConvs(8, (1, 1, 1, 1)), tmp_path / "m.onnx", target, int8=True)
    fused = optimised(path, tmp_path)
    assert Counter(node.op_type for node in fused.graph.node)["QLinearConv"] == 5
    assert len(set(kernel_reads(fused))) == 2


def float_kernels(model, dims):
    """Name of the float kernel of shape `dims` (padded to whole blocks in NCHWc) that each convolution reads."""
    shapes = {t.name: list(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    return [n.input[1] for n in model.graph.node if n.op_type == "Conv" and shapes.get(n.input[1], [])[2:] == dims]


def test_cast_and_mul_of_an_int8_kernel_fold_at_load_into_one_float_kernel_and_dequantize_linear_does_not(tmp_path):
    network = SharedConvs(16, (1, 1, 1, 1))
    path = written(network, tmp_path / "m.onnx", int8=True, options=Int8Options(activations="float"))
    options = load_target("onnx").session
    folded = optimised(path, tmp_path, options.disabled_optimizers)
    assert len(float_kernels(folded, [3, 3])) == 5 and len(set(float_kernels(folded, [3, 3]))) == 2
    assert not any(t.data_type == onnx.TensorProto.INT8 for t in folded.graph.initializer)

    kernels = normal(16, 16, 3, 3)
    text = """(float[1,16,6,6] x) => (float[1,16,6,6] y) {
        w = DequantizeLinear<axis=0>(W, s)
        a = Conv<pads=[1,1,1,1]>(x, w)
        y = Conv<pads=[1,1,1,1]>(a, w)
    }"""
    model = graph_of(text, W=(kernels * 30).astype(np.int8), s=np.full(16, 0.01, np.float32))
    (tmp_path / "dq.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    kept = Counter(node.op_type for node in optimised(tmp_path / "dq.onnx", tmp_path).graph.node)
    assert kept["DequantizeLinear"] == 2  # at every run, and one per layer


def test_a_dynamic_product_becomes_one_node_and_reads_the_one_stored_kernel(tmp_path):
    network = ConvMixer(16, 6, 3, 2, 2)
    path = written(network, tmp_path / "m.onnx", int8=True, options=Int8Options(activations="dynamic"))
    fused = optimised(path, tmp_path, load_target("onnx").session.disabled_optimizers)
    products = [node for node in fused.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(products) == 7 and len({node.input[1] for node in products}) == 2
    assert not {"MatMulInteger", "Cast"} & {node.op_type for node in fused.graph.node}


def test_dynamic_quantisation_alone_and_fused_give_the_same_numbers():
    text = """(float[1,8,8,16] x) => (float[1,8,8,16] y) {
        q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, W, z)
        f = Cast<to=1>(i)
        both = Mul(s, scale)
        y = Mul(f, both)
    }"""
    codes = np.random.default_rng(0).integers(-64, 65, (16, 16)).astype(np.int8)  # no sum of two products saturates
    model = graph_of(text, W=codes, scale=normal(16))
    x = normal(1, 8, 8, 16)
    fused = open_session(ir.to_proto(model).SerializeToString(), load_target("onnx").session).run(None, {"x": x})
    np.testing.assert_allclose(fused[0], run_graph(model, x)[0], rtol=1e-5, atol=1e-5)
    assert run_graph(model, np.zeros_like(x))[0].max() == 0  # a range of zero makes no NaN


def test_an_integer_average_pool_in_ceil_mode_that_counts_padding_is_wrong():
    """Why `pad_average_pool` is there: it can go when this fails."""
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,4,4] y) {
            [q] xq = QuantizeLinear(x, s, z) [d] xf = DequantizeLinear(xq, s, z)
            [pool] p = AveragePool
                <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(xf)
            [q2] pq = QuantizeLinear(p, s, z) [d2] y = DequantizeLinear(pq, s, z)
        }""",
        s=np.float32(0.02),
        z=np.array(128, np.uint8),
    )
    x = np.ones((1, 4, 6, 6), np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"x": x})[0] - run_graph(model, x)[0]).max() > 0.1


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
@pytest.mark.parametrize(("stride", "pads"), [((1, 1), (4, 2)), ((2, 2), (2, 4)), ((2, 1), (3, 3))])
def test_litert_computes_a_dilated_depthwise_convolution_behind_a_pad_with_any_stride(kernels, stride, pads, tmp_path):
    x, w, b = normal(1, 4, 14, 14), normal(4, 1, 3, 3, seed=1), normal(4, seed=2)
    expected = torch.nn.functional.conv2d(
        torch.nn.functional.pad(torch.from_numpy(x), (*pads, *pads)), torch.from_numpy(w), torch.from_numpy(b), stride,
        dilation=3, groups=4,
    ).numpy()  # fmt: skip
    g = TfliteGraph()
    fed = g.tensor([1, 14, 14, 4])
    amounts = g.constant(np.array([(0, 0), pads, pads, (0, 0)], np.int32))
    padded = g.op("PAD", [fed, amounts], g.tensor([1, 20, 20, 4]), table="PadOptions")
    constants = [g.constant(w.transpose(1, 2, 3, 0)), g.constant(b)]
    out = g.tensor([1, *expected.shape[2:], 4])
    g.op(
        "DEPTHWISE_CONV_2D", [padded, *constants], out, table="DepthwiseConv2DOptions",
        padding=VALID, strideH=stride[0], strideW=stride[1], depthMultiplier=1, dilationHFactor=3, dilationWFactor=3,
    )  # fmt: skip
    interpreter = open_interpreter(g.write(tmp_path / "m.tflite", [fed], [out]), LiteRtSession(1, kernels))
    found = run_litert(interpreter, x.transpose(0, 2, 3, 1))[0]
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-5)
