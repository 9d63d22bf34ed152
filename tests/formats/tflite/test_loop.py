"""A Loop as a WHILE: the same numbers as the unrolled network, one buffer per shared kernel, and what is refused."""

import numpy as np
import onnx_ir as ir
import pytest
import rolled_graphs as graphs
from rolled_graphs import graph_of
from tflite_graph import interpreted
from tflite_runtime_env import needs_tflite_runtime, tflite_runtime

from edgeks.errors import GraphError
from edgeks.formats.tflite.lower import lower
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.model_files.tflite_file import OPERATOR_NAMES, operator_code, read_tflite
from edgeks.model_files.tflite_loops import LoopBody, loop_bodies
from edgeks.target import LiteRtSession

KERNELS = ["xnnpack", "builtin", "reference", pytest.param("tflite-runtime", marks=needs_tflite_runtime)]
TRIPS, CHANNELS = 4, 8
SHAPE = (2, CHANNELS, 8, 6)
BLOCKS = {
    "shared convolution": graphs.conv_affine(TRIPS, CHANNELS),
    "residual": graphs.conv_affine(TRIPS, CHANNELS, residual=True),
    "dynamic int8": graphs.conv_affine(TRIPS, CHANNELS, dynamic=True),
    "ConvMixer": graphs.convmixer(TRIPS, CHANNELS),
    "SE": graphs.squeeze_excite(TRIPS, CHANNELS),
    "kernels of their own, captured map": graphs.own_convolutions(TRIPS, CHANNELS),
    "halves": graphs.stored(TRIPS, CHANNELS, "half"),
    "codes for float": graphs.stored(TRIPS, CHANNELS, "codes"),
    "depthwise codes for float": graphs.stored(TRIPS, CHANNELS, "codes", depthwise=True),
    "BN": graphs.batch_norm(TRIPS, CHANNELS),
    "static int8, one scale": graphs.static_int8(TRIPS, CHANNELS),
}
# What the unrolled form has in the layer is behind it here: other roundings.
SPLIT = {
    "scales and biases of their own": graphs.with_own_bias_and_scales(TRIPS, CHANNELS),
    "SE in codes": graphs.squeeze_excite(TRIPS, CHANNELS, stored="codes"),
}


def outputs(path, inputs, kernels):
    return tflite_runtime(path, inputs) if kernels == "tflite-runtime" else interpreted(path, inputs, kernels)


def both(block, tmp_path, shape=SHAPE, **options):
    """Unrolled and rolled file."""
    paths = []
    for rolled in (False, True):
        path = tmp_path / f"{'rolled' if rolled else 'unrolled'}.tflite"
        path.write_bytes(lower(graph_of(block, shape, TRIPS, rolled=rolled, stem=True), {}, **options).content)
        paths.append(path)
    return paths


def images(shape=SHAPE, seed=0):
    n, c, h, w = shape
    return np.random.default_rng(seed).standard_normal((n, h, w, c)).astype(np.float32)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("block", BLOCKS)
def test_the_numbers_of_the_unrolled_network(block, kernels, tmp_path):
    """To the bit in the reference kernels; others may order a sum otherwise where a kernel is no constant."""
    unrolled, rolled = (outputs(path, [images()], kernels)[0] for path in both(BLOCKS[block], tmp_path))
    assert np.abs(unrolled).max() > 0.1
    if kernels == "reference":
        np.testing.assert_array_equal(rolled, unrolled)
    np.testing.assert_allclose(rolled, unrolled, atol=2e-5 * np.abs(unrolled).max())


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("block", "tolerance"), [*zip(SPLIT, (1e-5, 1e-3), strict=True)])
def test_what_a_layer_has_of_its_own_is_computed_behind_it(block, tolerance, kernels, tmp_path):
    """A gathered matrix is multiplied in float, which is nearer to the network than codes of the activations."""
    unrolled, rolled = (outputs(path, [images()], kernels)[0] for path in both(SPLIT[block], tmp_path))
    np.testing.assert_allclose(rolled, unrolled, atol=tolerance * np.abs(unrolled).max())


@pytest.mark.parametrize("block", ["dynamic int8", "depthwise codes for float", "SE"])
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_every_inference_and_every_batch_again(kernels, block, tmp_path):
    """LiteRT frees the arenas of a loop after an inference; what was computed once must not be lost with them."""
    interpreters = [open_interpreter(path, LiteRtSession(2, kernels)) for path in both(BLOCKS[block], tmp_path)]
    for batch in (2, 2, 3, 1):
        given, found = images((batch, *SHAPE[1:]), batch), []
        for interpreter in interpreters:
            index = interpreter.get_input_details()[0]["index"]
            interpreter.resize_tensor_input(index, given.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(index, given)
            interpreter.invoke()
            found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        np.testing.assert_allclose(found[1], found[0], atol=2e-5 * np.abs(found[0]).max())


@pytest.mark.parametrize("nhwc", [True, False])
def test_a_body_without_transposes_that_reads_the_kernel_in_the_one_buffer(nhwc, tmp_path):
    """Maps that come and go as N×C×H×W are transposed outside of the loop."""
    _, path = both(BLOCKS["shared convolution"], tmp_path, nhwc=nhwc)
    model = read_tflite(path)
    names = [[OPERATOR_NAMES[operator_code(model, op)] for op in graph.operators] for graph in model.subgraphs]
    main, body, condition = names
    assert (
        main == ["CONV_2D", "WHILE", "NEG"] if nhwc else main == ["TRANSPOSE", "CONV_2D", "WHILE", "NEG", "TRANSPOSE"]
    )
    assert sorted(body) == ["ADD", "ADD", "CONV_2D", "GATHER", "GATHER", "MUL"]
    assert condition == ["LESS"]
    assert loop_bodies(model) == {1: LoopBody(TRIPS, 0)}
    assert len([b for b in model.buffers if b.data is not None and len(b.data) == 4 * 9 * CHANNELS**2]) == 1
    assert model.signatureDefs[0].subgraphIndex == 0


def test_a_kernel_that_the_loop_and_the_network_around_it_read_is_one_buffer(tmp_path):
    weight = graphs.kernel(CHANNELS, 1, seed=7)

    def block(each, x, _):
        return each.op("Relu", [each.op("Conv", [x, each.shared("stem.weight", weight)], "conv")])

    _, path = both(block, tmp_path)
    model = read_tflite(path)
    readers = [
        t.buffer for graph in model.subgraphs for t in graph.tensors if len(t.shape) == 4 and t.shape[0] == CHANNELS
    ]
    assert len(readers) == 2
    assert len(set(readers)) == 1


def test_static_int8_whose_scales_differ_is_refused(tmp_path):
    for own in ("activations", "kernel"):
        model = graph_of(graphs.static_int8(TRIPS, CHANNELS, own=own), SHAPE, TRIPS, rolled=True)
        with pytest.raises(GraphError, match=r"layer 'conv\.0'.*static int8.*scales.*fp32.*dynamic") as caught:
            lower(model, {})
        assert "\n" not in str(caught.value)


def test_what_a_body_cannot_do_is_told_with_the_rest():
    def block(each, x, _):
        y = each.op("Atan", [each.op("CumSum", [x, each.shared("axis", np.array(1))])])
        return each.op("Conv", [y, each.own("w", np.zeros((TRIPS, CHANNELS, CHANNELS, 1, 1), np.float16))], "conv")

    with pytest.raises(GraphError, match=r"3 nodes.*CumSum.*Atan.*Conv 'conv\.0': .*float16"):
        lower(graph_of(block, SHAPE, TRIPS, rolled=True), {})


@pytest.mark.parametrize("change", ["condition", "no start", "trips", "scan"])
def test_other_loops_are_refused(change):
    model = graph_of(BLOCKS["shared convolution"], SHAPE, TRIPS, rolled=True)
    loop = next(node for node in model.graph if node.op_type == "Loop")
    body = loop.attributes["body"].as_graph()
    if change == "condition":
        flip = ir.node("Not", [body.inputs[1]])
        body.append(flip)
        body.outputs[0] = flip.outputs[0]
    elif change == "no start":
        never = ir.Value(name="never", const_value=ir.tensor(np.array(False), name="never"))
        model.graph.register_initializer(never)
        loop.replace_input_with(1, never)
    elif change == "trips":
        size = ir.node("Size", [model.graph.inputs[0]])
        size.outputs[0].name, size.outputs[0].dtype = "size", ir.DataType.INT64
        model.graph.insert_before(loop, size)
        loop.replace_input_with(0, size.outputs[0])
    else:
        loop.resize_outputs(2)
        body.outputs.append(body.outputs[1])
    with pytest.raises(GraphError, match="Loop 'loop'"):
        lower(model, {})
