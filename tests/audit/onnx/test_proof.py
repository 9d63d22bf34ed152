"""The proof accepts files that hold every shared kernel once, and names what is wrong with all others."""

import numpy as np
import onnx
import pytest
import small_graphs as graphs
from onnx import helper

from edgeks.audit.onnx.proof import prove_exactly_once
from edgeks.errors import ModelFileError, SharingBroken
from edgeks.sharing.plan import SharingGroup, SharingPlan

SHAPE = (8, 8, 3, 3)
HEAD = SharingGroup("head", ("head",), (5, 8))


def plan(layers=4, unshared=(HEAD,)):
    return SharingPlan((SharingGroup("blocks.0.conv", graphs.layer_names(layers), SHAPE),), tuple(unshared))


def prove(proto, tmp_path, expected=None):
    return prove_exactly_once(graphs.save(proto, tmp_path / "net.onnx"), expected or plan())


def broken(proto, tmp_path, *words, expected=None):
    with pytest.raises(SharingBroken) as caught:
        prove(proto, tmp_path, expected)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def node(proto, name):
    return next(node for node in proto.graph.node if node.name == name)


def test_fp32_file(tmp_path):
    proof = prove(graphs.fp32_shared(), tmp_path)
    (group,), (head,) = proof.groups, proof.unshared
    assert proof.kernels_stored == 2
    assert (group.constant, group.dtype, group.shape, group.stored_bytes) == ("kernel", "float32", SHAPE, 2304)
    assert group.saved_bytes == 3 * 2304
    assert (head.constant, head.layers) == ("head.weight", ("head",))


def test_int8_qdq_and_qoperator_files(tmp_path):
    proof = prove(graphs.qdq(), tmp_path, plan(unshared=()))
    assert (proof.kernels_stored, proof.groups[0].dtype, proof.groups[0].stored_bytes) == (1, "int8", 576)
    assert prove(graphs.qoperator(), tmp_path).kernels_stored == 2


@pytest.mark.parametrize("integer", [False, True])
def test_the_public_chain_is_caught(integer, tmp_path):
    broken(graphs.public_chain(integer=integer), tmp_path, "'blocks.0.conv'", "found 4 constants", "expected 1")


def test_one_layer_with_a_byte_equal_copy(tmp_path):
    proto = graphs.fp32_shared()
    proto.graph.initializer.append(graphs.initializer("copy", graphs.kernel()))
    node(proto, "blocks.2.conv").input[1] = "copy"
    broken(proto, tmp_path, "found 2 constants", "'kernel', 'copy'")


@pytest.mark.parametrize("values", [graphs.kernel(), -2 * graphs.kernel(), (2 * graphs.kernel()).reshape(8, 72)])
def test_a_copy_that_no_layer_of_the_group_reads(values, tmp_path):
    proto = graphs.fp32_shared()
    proto.graph.initializer.append(graphs.initializer("left_over", values))
    broken(proto, tmp_path, "found 2 constants that are equal up to a per-channel factor", "'left_over'")


def test_an_fp32_copy_beside_the_int8_kernel(tmp_path):
    proto = graphs.qdq()
    proto.graph.initializer.append(graphs.initializer("float_copy", graphs.kernel()))
    broken(proto, tmp_path, "'float_copy'", expected=plan(unshared=()))


def test_a_uint8_copy_with_a_zero_point(tmp_path):
    proto = graphs.qdq(layers=3)
    codes, scale = graphs.quantised_kernel()
    proto.graph.initializer.extend(
        [
            graphs.initializer("u8", (codes.astype(np.int16) + 128).astype(np.uint8)),
            graphs.initializer("u8_scale", scale),
            graphs.initializer("u8_zero", np.full(8, 128, np.uint8)),
        ]
    )
    proto.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["u8", "u8_scale", "u8_zero"], ["u8_w"], "u8.weight", axis=0),
            helper.make_node("Conv", ["d0", "u8_w"], ["side"], "side", pads=[1, 1, 1, 1]),
        ]
    )
    broken(proto, tmp_path, "'u8'", expected=plan(3, ()))
    alike = plan(3, [SharingGroup("side", ("side",), SHAPE)])  # a layer of the plan, initialised alike and never tied
    assert prove(proto, tmp_path, alike).kernels_stored == 2


@pytest.mark.parametrize("copy", ["codes", "codes as stored"])
def test_a_kernel_with_zero_point_minus_1_is_compared_by_value(tmp_path, copy):
    proto = graphs.qdq(layers=3)
    codes, _ = graphs.quantised_kernel()
    (kernel,) = (tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(graphs.initializer("kernel", codes - np.int8(1)))
    proto.graph.initializer.append(graphs.initializer("minus 1", np.full(8, -1, np.int8)))
    for index in range(3):
        node(proto, f"blocks.{index}.conv.weight").input.append("minus 1")
    assert prove(proto, tmp_path, plan(3, ())).kernels_stored == 1
    left_over = {"codes": codes, "codes as stored": codes - np.int8(1)}[copy]
    proto.graph.initializer.append(graphs.initializer("left_over", left_over))
    broken(proto, tmp_path, "'left_over'", expected=plan(3, ()))


def test_a_stranger_reads_the_kernel(tmp_path):
    proto = graphs.fp32_shared()
    expected = SharingPlan(
        (SharingGroup("g", graphs.layer_names(3), SHAPE),), (SharingGroup("own", ("blocks.3.conv",), SHAPE), HEAD)
    )
    broken(proto, tmp_path, "'g'", "4 readers, expected 3", "'blocks.3.conv'", expected=expected)
    proto.graph.node.append(helper.make_node("ReduceSum", ["kernel"], ["side"], "statistics"))  # not as its kernel
    assert prove(proto, tmp_path).kernels_stored == 2


def test_an_unshared_layer_that_became_shared(tmp_path):
    expected = SharingPlan((), tuple(SharingGroup(name, (name,), SHAPE) for name in graphs.layer_names(4)))
    broken(graphs.fp32_shared(), tmp_path, "unshared layer 'blocks.0.conv'", "4 readers, expected 1", expected=expected)


def test_missing_layer(tmp_path):
    broken(graphs.fp32_shared(3), tmp_path, "no node named 'blocks.3.conv'")
    proto = graphs.fp32_shared()
    node(proto, "blocks.1.conv").input[1] = "x"
    broken(proto, tmp_path, "no node named 'blocks.1.conv'", "run time")


def test_two_nodes_of_one_name(tmp_path):
    proto = graphs.fp32_shared()
    node(proto, "blocks.3.conv").name = "blocks.2.conv"
    broken(proto, tmp_path, "2 nodes are named 'blocks.2.conv'", expected=plan(3))


def test_layers_of_a_group_behind_one_dequantize_linear(tmp_path):
    proto = graphs.qdq()
    node(proto, "blocks.1.conv").input[1] = "w0"
    broken(proto, tmp_path, "3 DequantizeLinear nodes, expected 4", expected=plan(unshared=()))


def test_another_shape_than_the_plan_says(tmp_path):
    other = SharingPlan((SharingGroup("g", graphs.layer_names(4), (8, 8, 5, 5)),), (HEAD,))
    broken(graphs.fp32_shared(), tmp_path, "shape (8, 8, 3, 3), expected (8, 8, 5, 5)", expected=other)


def test_zero_kernels_are_no_copies(tmp_path):
    """Zero-initialised layers of an untrained network equal each other, and are stored once each as they should be."""
    proto = graphs.fp32_shared()
    for tensor in proto.graph.initializer:
        if tensor.name == "kernel":
            tensor.CopyFrom(graphs.initializer("kernel", np.zeros(SHAPE, np.float32)))
    proto.graph.initializer.append(graphs.initializer("other", np.zeros(SHAPE, np.float32)))
    proto.graph.node.append(helper.make_node("Conv", ["x", "other"], ["side"], "side", pads=[1, 1, 1, 1]))
    assert prove(proto, tmp_path, plan(unshared=(HEAD, SharingGroup("side", ("side",), SHAPE)))).kernels_stored == 3


def test_layers_in_bodies(tmp_path):
    expected = SharingPlan((SharingGroup("g", ("body.conv", "then.Conv"), SHAPE),))
    assert prove(graphs.loop(), tmp_path, expected).kernels_stored == 1


def test_a_file_that_is_not_onnx(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("not a model")
    with pytest.raises(ModelFileError):
        prove_exactly_once(path, plan())


def test_what_onnx_runtime_saves_can_be_proven(tmp_path):
    """With the folding optimisers off, ONNX Runtime's optimised model still holds the kernel once."""
    import onnxruntime as ort

    path, saved = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"), tmp_path / "optimised.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(saved)
    folding = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=folding)
    assert prove_exactly_once(saved, plan()).groups[0].stored_bytes == 2304
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    onnx.load(saved)
    with pytest.raises(SharingBroken):
        prove_exactly_once(saved, plan())
