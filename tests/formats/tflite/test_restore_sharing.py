"""Restoring the sharing that another converter destroyed: on files built by hand, and on one of litert-torch."""

from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from foreign_tflite import SIZE, Graph, codes_of, convolutions, kernel, with_appended_buffers

from edgeks.errors import ModelFileError, OutputError
from edgeks.formats.tflite.kernels import kernel_tensors, stored_kernels
from edgeks.formats.tflite.restore_sharing import restore_sharing
from edgeks.formats.tflite.runtime import open_interpreter, run
from edgeks.model_files.tflite_file import constant, pack, read_tflite, schema
from edgeks.target import KERNEL_LIBRARIES, LiteRtSession

DATA = Path(__file__).parents[2] / "data"
FACTORS = (1.0, 0.37, 1.9)


def outputs(path: Path, kernels: str = "builtin") -> np.ndarray:
    """Of the file, on random inputs, real values."""
    interpreter = open_interpreter(path, LiteRtSession(1, kernels))
    shape = interpreter.get_input_details()[0]["shape"]
    return run(interpreter, np.random.default_rng(0).standard_normal((4, *shape[1:])).astype(np.float32))[0]


def folded(factors=FACTORS, channels: int = 4) -> list[np.ndarray]:
    """One kernel with a factor per layer and channel folded in, in float32 as BN folding does it."""
    spread = np.linspace(0.8, 1.2, channels, dtype=np.float32).reshape(-1, 1, 1, 1)
    return [kernel(channels) * (np.float32(factor) * spread) for factor in factors]


def with_a_tie(copy: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """As though one weight half-way between two codes had fallen to the other side."""
    codes = copy[0].copy()
    codes[1, 1, 1, 1] += 1
    return codes, copy[1]


def tied_original(kernels: list[np.ndarray]) -> list[np.ndarray]:
    """The weight that `with_a_tie` moves lies half-way between two codes, in every layer."""
    for weights in kernels:
        scale = np.abs(weights[1]).max() / 127
        weights[1, 1, 1, 1] = (np.floor(weights[1, 1, 1, 1] / scale) + 0.5) * scale
    return kernels


def test_equal_bytes_become_one_buffer_of_any_type(tmp_path):
    weights = kernel()
    source = convolutions(tmp_path / "a.tflite", [weights, weights, kernel(seed=1)])
    found = restore_sharing(source, tmp_path / "b.tflite")
    (one,) = found.restored
    assert one.tensors == ("conv0", "conv1")
    assert (one.copies, one.changed_codes, one.saved_bytes) == (2, 0, weights.nbytes)
    assert (found.stored_before, found.stored_after, found.kept_apart) == (3, 2, ())
    assert found.bytes_before - found.bytes_after >= weights.nbytes - 64
    assert found.bytes_after == (tmp_path / "b.tflite").stat().st_size
    np.testing.assert_array_equal(outputs(source), outputs(tmp_path / "b.tflite"))


def test_float_copies_with_a_factor_stay_and_the_report_says_why(tmp_path):
    source = convolutions(tmp_path / "a.tflite", folded())
    found = restore_sharing(source, tmp_path / "b.tflite")
    assert found.restored == () and found.stored_after == 3
    (apart,) = found.kept_apart
    assert apart.tensors == ("conv0", "conv1", "conv2") and "FLOAT32" in apart.reason


@pytest.mark.parametrize("kernels", KERNEL_LIBRARIES)
def test_int8_copies_that_differ_by_ties_become_one_where_the_float_file_proves_it(tmp_path, kernels):
    floats = tied_original(folded())
    copies = [codes_of(weights) for weights in floats]
    copies = [copies[0], with_a_tie((copies[0][0], copies[1][1])), (copies[0][0], copies[2][1])]
    originals = convolutions(tmp_path / "f.tflite", floats)
    source = convolutions(tmp_path / "a.tflite", floats, copies)

    unproven = restore_sharing(source, tmp_path / "b.tflite")
    assert [one.tensors for one in unproven.restored] == [("conv0", "conv2")]
    assert "float file" in unproven.kept_apart[0].reason

    found = restore_sharing(source, tmp_path / "c.tflite", originals)
    (one,) = found.restored
    assert (one.copies, one.changed_codes, found.stored_after, found.kept_apart) == (3, 1, 1, ())
    model = read_tflite(tmp_path / "c.tflite")
    assert len({entry.tensor.buffer for entry in kernel_tensors(model)}) == 1
    for entry, (_, scales) in zip(kernel_tensors(model), copies, strict=True):
        np.testing.assert_array_equal(entry.tensor.quantization.scale, scales)  # a layer keeps its own
    a, b = outputs(source, kernels), outputs(tmp_path / "c.tflite", kernels)
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def test_the_float_file_must_prove_it(tmp_path):
    """Kernels alike in int8 whose originals are not, and a float file of another network."""
    floats = folded()
    copies = [codes_of(weights) for weights in floats]
    copies[1] = with_a_tie(copies[1])
    source = convolutions(tmp_path / "a.tflite", floats, copies)
    others = [floats[0], floats[1].copy(), floats[2]]
    others[1][1, 1, 1, 1] += np.abs(floats[1]).max() / 127  # the code is right, and no copy
    originals = convolutions(tmp_path / "f.tflite", others)
    found = restore_sharing(source, tmp_path / "b.tflite", originals)
    assert found.stored_after == 2
    assert found.kept_apart[0].reason == "their float originals are no multiples of one another"

    stranger = convolutions(tmp_path / "g.tflite", [kernel(seed=5)] * 3)
    found = restore_sharing(source, tmp_path / "c.tflite", stranger)
    assert found.stored_after == 2  # what is equal byte for byte needs no proof
    assert "no rounding of the float file's kernel" in found.kept_apart[0].reason


def test_scales_that_another_rule_chose_keep_their_codes(tmp_path):
    floats = folded()
    copies = [codes_of(weights) for weights in floats]
    codes, scales = copies[1][0], copies[1][1] * np.float32(1.07)
    copies[1] = np.rint(floats[1] / scales.reshape(-1, 1, 1, 1)).astype(np.int8), scales
    assert (codes != copies[1][0]).any()
    originals = convolutions(tmp_path / "f.tflite", floats)
    source = convolutions(tmp_path / "a.tflite", floats, copies)
    found = restore_sharing(source, tmp_path / "b.tflite", originals)
    assert found.stored_after == 2
    assert "more than half a step" in found.kept_apart[0].reason


def test_negative_factors_part_the_copies_unless_negative_scales_are_asked(tmp_path):
    floats = folded((1.0, -0.5, -2.0))
    copies = [codes_of(weights) for weights in floats]
    originals = convolutions(tmp_path / "f.tflite", floats)
    source = convolutions(tmp_path / "a.tflite", floats, copies)
    unasked = restore_sharing(source, tmp_path / "b.tflite", originals)
    assert [one.tensors for one in unasked.restored] == [("conv1", "conv2")]
    assert "4 of 4 output channels have the opposite sign" in unasked.kept_apart[0].reason

    found = restore_sharing(source, tmp_path / "c.tflite", originals, negative_scales=True)
    assert (found.stored_after, found.kept_apart) == (1, ())
    assert found.restored[0].negative_scales and not unasked.restored[0].negative_scales
    for library in KERNEL_LIBRARIES:
        a, b = outputs(source, library), outputs(tmp_path / "c.tflite", library)
        assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def test_depthwise_kernels_have_their_channels_last(tmp_path):
    weights = np.random.default_rng(0).standard_normal((1, 3, 3, 8)).astype(np.float32)
    factors = np.linspace(0.5, 2, 8, dtype=np.float32)

    def write(name: str, kernels, int8: bool) -> Path:
        graph = Graph()
        x = first = graph.tensor("input", (1, SIZE, SIZE, 8), schema.TensorType.FLOAT32)
        for index, one in enumerate(kernels):
            codes, scales = codes_of(one, axis=3)
            kind = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
            content = (codes, scales) if int8 else (one, None)
            weight = graph.tensor(f"w{index}", one.shape, kind, *content, axis=3)
            unpacked = weight
            if int8:  # weight-only: read through a DEQUANTIZE
                unpacked = graph.tensor(f"d{index}", one.shape, schema.TensorType.FLOAT32)
                graph.operator(schema.BuiltinOperator.DEQUANTIZE, [weight], [unpacked], version=5)
            bias = graph.tensor(f"b{index}", (8,), schema.TensorType.FLOAT32, np.zeros(8, np.float32))
            y = graph.tensor(f"y{index}", (1, SIZE, SIZE, 8), schema.TensorType.FLOAT32)
            options = schema.DepthwiseConv2DOptionsT()
            options.strideH = options.strideW = options.depthMultiplier = 1
            kind = schema.BuiltinOptions.DepthwiseConv2DOptions
            code = schema.BuiltinOperator.DEPTHWISE_CONV_2D
            graph.operator(code, [x, unpacked, bias], [y], kind, options)
            x = y
        return graph.write(tmp_path / name, [first], [x])

    kernels = [weights, weights * factors]
    source, originals = write("a.tflite", kernels, True), write("f.tflite", kernels, False)
    assert [stored.values.shape for stored in stored_kernels(read_tflite(source))] == [(8, 9), (8, 9)]
    found = restore_sharing(source, tmp_path / "b.tflite", originals)
    assert found.stored_after == 1
    np.testing.assert_allclose(outputs(source), outputs(tmp_path / "b.tflite"), rtol=0.02, atol=0.02)


def test_an_int32_bias_that_two_layers_read_changes_sign_for_one_of_them_only(tmp_path):
    """Static int8, an input per layer; by hand, since converters write a bias per layer."""
    floats = folded((1.0, -0.5))
    copies = [codes_of(weights) for weights in floats]
    graph = Graph()
    x = graph.tensor("input", (1, SIZE, SIZE, 4), schema.TensorType.INT8, scales=[0.02])
    step = copies[0][1] * np.float32(0.02)
    bias = graph.tensor("bias", (4,), schema.TensorType.INT32, np.arange(1000, 5000, 1000, dtype=np.int32), step)
    outs = []
    for index, (codes, scales) in enumerate([copies[0], (copies[1][0], copies[0][1])]):
        weight = graph.tensor(f"conv{index}", codes.shape, schema.TensorType.INT8, codes, scales)
        outs.append(graph.tensor(f"out{index}", (1, SIZE, SIZE, 4), schema.TensorType.INT8, scales=[0.5]))
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        code = schema.BuiltinOperator.CONV_2D
        graph.operator(code, [x, weight, bias], [outs[-1]], schema.BuiltinOptions.Conv2DOptions, options, 3)
    source = graph.write(tmp_path / "a.tflite", [x], outs)
    originals = convolutions(tmp_path / "f.tflite", [floats[0], -floats[0]])
    found = restore_sharing(source, tmp_path / "b.tflite", originals, negative_scales=True)
    assert found.stored_after == 1 and found.restored[0].negative_scales
    feeds = np.random.default_rng(0).integers(-128, 128, (1, SIZE, SIZE, 4)).astype(np.int8)
    for library in KERNEL_LIBRARIES:
        first, second = (
            run(open_interpreter(tmp_path / name, LiteRtSession(1, library)), feeds)
            for name in ("a.tflite", "b.tflite")
        )
        for a, b in zip(first, second, strict=True):
            assert a.std() > 1
            assert np.abs(a - b).max() <= 0.5  # one step


def test_one_scale_for_all_channels_cannot_change_sign(tmp_path):
    floats = [kernel(), -kernel()]
    copies = [(codes_of(weights)[0], np.float32([1 / 128])) for weights in floats]
    originals = convolutions(tmp_path / "f.tflite", floats)
    source = convolutions(tmp_path / "a.tflite", floats, copies)
    found = restore_sharing(source, tmp_path / "b.tflite", originals, negative_scales=True)
    assert found.stored_after == 2
    assert "one scale for all output channels" in found.kept_apart[0].reason


def test_a_file_of_litert_torch_and_ai_edge_quantizer(tmp_path):
    """Three convolutions of one kernel, γ of both signs, static int8."""
    source, originals = DATA / "litert_torch_static.tflite", DATA / "litert_torch_fp32.tflite"
    kept = restore_sharing(source, tmp_path / "a.tflite", originals)
    assert kept.stored_after == kept.stored_before == 5
    assert "opposite sign" in kept.kept_apart[0].reason
    found = restore_sharing(source, tmp_path / "b.tflite", originals, negative_scales=True)
    assert (found.stored_before, found.stored_after, found.kept_apart) == (5, 3, ())
    assert found.restored[0].copies == 3 and found.bytes_after < found.bytes_before - 4000
    model = read_tflite(tmp_path / "b.tflite")
    names = [tensor.name for graph in model.subgraphs for tensor in graph.tensors]
    assert len(set(names)) == len(names)
    biases = [
        graph.tensors[operator.inputs[2]].buffer
        for graph in model.subgraphs
        for operator in graph.operators
        if operator.inputs is not None and len(operator.inputs) > 2
    ]
    assert len(set(biases)) == len(biases) == 5  # a bias belongs to one layer
    details = open_interpreter(source, LiteRtSession(1, "reference")).get_output_details()[0]
    for library in KERNEL_LIBRARIES:
        for path in (tmp_path / "a.tflite", tmp_path / "b.tflite"):
            steps = np.abs(outputs(source, library) - outputs(path, library)) / details["quantization"][0]
            assert steps.max() <= 1.01


@pytest.mark.parametrize("kernels", KERNEL_LIBRARIES)
def test_equal_vectors_are_written_once_and_read_as_ever(tmp_path, kernels):
    """The zero points of every kernel and bias, 8 bytes per channel, are one vector of zeros in the file."""
    source = DATA / "litert_torch_static.tflite"
    model = read_tflite(source)
    whole, written = tmp_path / "a.tflite", tmp_path / "b.tflite"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    whole.write_bytes(bytes(builder.Output()))
    written.write_bytes(pack(model))
    vectors_of_zeros = 2 * 5  # kernel and bias of 4 layers of 16 channels and one of 5
    assert whole.stat().st_size - written.stat().st_size > (vectors_of_zeros - 3) * 16 * 8 - 16 * len(model.buffers)
    np.testing.assert_array_equal(outputs(whole, kernels), outputs(written, kernels))
    for one, other in zip(kernel_tensors(model), kernel_tensors(read_tflite(written)), strict=True):
        np.testing.assert_array_equal(one.tensor.quantization.scale, other.tensor.quantization.scale)
        np.testing.assert_array_equal(one.tensor.quantization.zeroPoint, other.tensor.quantization.zeroPoint)


def test_buffers_behind_the_flatbuffer_are_read(tmp_path):
    """As ai-edge-quantizer writes large models; LiteRT reads them as any other."""
    plain = convolutions(tmp_path / "a.tflite", [kernel(), kernel()])
    source = with_appended_buffers(plain, tmp_path / "b.tflite")
    np.testing.assert_array_equal(outputs(plain), outputs(source))
    model = read_tflite(source)
    assert all(buffer.offset == buffer.size == 0 for buffer in model.buffers)
    for entry in kernel_tensors(model):
        np.testing.assert_array_equal(constant(model, entry.tensor), kernel())
    assert restore_sharing(source, tmp_path / "c.tflite").stored_after == 1
    np.testing.assert_array_equal(outputs(plain), outputs(tmp_path / "c.tflite"))


def test_a_file_whose_appended_buffers_are_cut_off_is_refused(tmp_path):
    source = with_appended_buffers(convolutions(tmp_path / "a.tflite", [kernel(), kernel()]), tmp_path / "b.tflite")
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="behind the end of the file"):
        restore_sharing(source, tmp_path / "out.tflite")
    assert not (tmp_path / "out.tflite").exists()


def test_it_never_replaces_what_it_reads(tmp_path):
    source = convolutions(tmp_path / "a.tflite", [kernel(), kernel()])
    with pytest.raises(OutputError, match="name another file"):
        restore_sharing(source, source)
    with pytest.raises(OutputError, match="name another file"):
        restore_sharing(source, tmp_path / "f.tflite", tmp_path / "f.tflite")
