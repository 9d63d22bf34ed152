"""What a file must be to be exported; everything else is one clear line."""

import json

import numpy as np
import onnx
import pytest
import small_graphs
from onnx import TensorProto, helper
from onnx_files import by_text
from onnx_text import normal

from edgeks.errors import DataError, ModelFileError
from edgeks.graph.onnx_network import MAX_OPSET, load_onnx

CONV = "{ [c] y = Conv<pads=[1,1,1,1]>(x, K) }"


def conv(tmp_path, inputs="float[1,4,6,6] x", outputs="float[1,4,6,6] y", body=CONV, opset=20, **constants):
    constants = {"K": normal(4, 4, 3, 3)} | constants
    return by_text(tmp_path / "net.onnx", f"({inputs}) => ({outputs}) {body}", opset, checked=False, **constants)


def test_a_network(tmp_path):
    network = load_onnx(conv(tmp_path, "float[N,4,H,6] x"))
    assert network.image_size == (4, None, 6) and network.opset == 20 and not network.warnings
    assert network.input_shape(None) is None and network.input_shape((4, 8, 6)) == (4, 8, 6)
    with pytest.raises(DataError, match=r"--input 3x8x6 contradicts net.onnx, which takes 4×\?×6"):
        network.input_shape((3, 8, 6))


REFUSED = {
    "no input": ("", "has 0 inputs"),
    "two inputs": ("float[1,4,6,6] x, float[1,4,6,6] z", "has 2 inputs"),
    "a vector": ("float[1,4] x", "shape 1×4, 2-D; legal: a batch of images"),
    "a volume": ("float[1,4,6,6,6] x", "5-D; legal: a batch of images"),
    "no shape": ("float[] x", "has no shape"),
    "integers": ("uint8[1,4,6,6] x", "input 'x' is uint8; legal: float images"),
    "a batch of 8": ("float[8,4,6,6] x", "fixed batch of 8; edgeks writes batch 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_inputs_that_are_no_batch_of_images(kind, tmp_path):
    inputs, message = REFUSED[kind]
    body = {"no input": "{ y = Relu(K) }", "two inputs": "{ y = Add(x, z) }", "integers": "{ y = Cast<to=1>(x) }"}
    with pytest.raises(ModelFileError, match=message) as caught:
        load_onnx(conv(tmp_path, inputs, body=body.get(kind, "{ y = Relu(x) }")))
    assert "net.onnx: " in str(caught.value)


def test_an_input_that_nothing_reads_is_no_input(tmp_path):
    assert load_onnx(conv(tmp_path, "float[1,4,6,6] x, float[1] unused")).proto.graph.input[0].name == "x"


@pytest.mark.parametrize("opset", [9, 10, MAX_OPSET + 1])
def test_opsets(opset, tmp_path):
    with pytest.raises(ModelFileError, match=f"opset {opset}; legal: 11 to {MAX_OPSET}"):
        load_onnx(conv(tmp_path, opset=opset))


@pytest.mark.parametrize(
    "make", [small_graphs.qdq, small_graphs.qoperator, lambda: small_graphs.public_chain(integer=True)]
)
def test_quantised_files(make, tmp_path):
    with pytest.raises(ModelFileError, match=r"is quantised already .* give the float network"):
        load_onnx(small_graphs.save(make(), tmp_path / "net.onnx"))


def test_codes_that_are_only_cast(tmp_path):
    body = "{ f = Cast<to=1>(Q) y = Conv<pads=[1,1,1,1]>(x, f) }"
    with pytest.raises(ModelFileError, match=r"is quantised already \(Q\)"):
        load_onnx(conv(tmp_path, body=body, Q=np.ones((4, 4, 3, 3), np.int8)))


def test_operators_of_one_runtime(tmp_path):
    nodes = [helper.make_node("FusedConv", ["x", "K"], ["y"], "fused", domain="com.microsoft")]
    proto = small_graphs.model(nodes, [small_graphs.initializer("K", small_graphs.kernel())])
    with pytest.raises(ModelFileError, match=r"outside the ONNX standard \(com.microsoft.FusedConv\)"):
        load_onnx(small_graphs.save(proto, tmp_path / "net.onnx"))


def test_an_attribute_of_the_wrong_type(tmp_path):
    proto = onnx.load(conv(tmp_path))
    proto.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", "much"))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="is not sound ONNX"):
        load_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["float16", "double"])
def test_other_floats_become_float32(name, tmp_path):
    kernel = normal(4, 4, 3, 3).astype(np.float16 if name == "float16" else np.float64)
    path = conv(tmp_path, f"{name}[1,4,6,6] x", f"{name}[1,4,6,6] y", K=kernel)
    network = load_onnx(path)
    assert network.proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert network.proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    stored = onnx.numpy_helper.to_array(network.proto.graph.initializer[0])
    assert stored.dtype == np.float32 and np.array_equal(stored, kernel.astype(np.float32))
    assert "float16 in net.onnx" in network.warnings[0] if name == "float16" else "float64" in network.warnings[0]


def test_numbers_beyond_float32(tmp_path):
    path = conv(tmp_path, "double[1,4,6,6] x", "double[1,4,6,6] y", K=normal(4, 4, 3, 3).astype(np.float64) * 1e200)
    with pytest.raises(ModelFileError, match="constant 'K' holds numbers beyond float32"):
        load_onnx(path)


def test_external_data(tmp_path):
    path = small_graphs.external(small_graphs.fp32_shared(), tmp_path / "net.onnx")
    inline = load_onnx(small_graphs.save(small_graphs.fp32_shared(), tmp_path / "inline.onnx"))
    network = load_onnx(path)
    assert network.files == (path, tmp_path / "weights.bin")
    for found, wanted in zip(network.proto.graph.initializer, inline.proto.graph.initializer, strict=True):
        assert np.array_equal(onnx.numpy_helper.to_array(found), onnx.numpy_helper.to_array(wanted))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="not beside the model"):
        load_onnx(path)


PREPROCESSING = {"channels": 4, "height": 6, "width": 6, "mean": [0.5] * 4, "std": [0.2] * 4, "classes": ["a"]}


def test_preprocessing_of_a_file_that_edgeks_wrote(tmp_path):
    path = conv(tmp_path)
    plain = onnx.load(path)

    def stored(text):
        proto = onnx.ModelProto()
        proto.CopyFrom(plain)
        helper.set_model_props(proto, {"edgeks.preprocessing": text, "edgeks.architecture": '"mine"'})
        path.write_bytes(proto.SerializeToString())
        return path

    network = load_onnx(stored(json.dumps(PREPROCESSING)))
    assert network.preprocessing.shape == (4, 6, 6) and network.architecture == "mine"
    for text, message in (
        ("{", "is no JSON"),
        ("[1]", "preprocessing is malformed"),
        (json.dumps(PREPROCESSING | {"height": 8}), "its edgeks.preprocessing says"),
        ("[" * 100_000, "is no JSON"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_onnx(stored(text))


def test_random_damage_gives_a_network_or_one_line(tmp_path):
    whole = small_graphs.fp32_shared(2).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            load_onnx(path)
        except ModelFileError as error:
            assert "\n" not in str(error)
