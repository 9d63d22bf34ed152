"""Networks as users have them: no data are moved that need not be, and a batch may be resized."""

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from graph_forms import FORMS, form_checkpoint
from networks import SharedConvs, inputs_of, small_checkpoint
from op_network import by_onnx_runtime, by_tflite, lowered

from edgeks.exporter import export
from edgeks.formats.tflite.runtime import RESOLVERS
from edgeks.graph.float_graph import float_graph
from edgeks.model_files.tflite_file import OPERATOR_NAMES, read_tflite
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.target import load_target

TFLITE = load_target("tflite")
NETWORKS = {
    "ConvMixer": lambda: ConvMixer(8, 4, 3, 2, 2),
    "SE-ResNet": lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
    "strides": lambda: SharedConvs(8, (1, 2, 1), bias=True),
}


def operators(path):
    model = read_tflite(path)
    return [OPERATOR_NAMES[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def at_once(file, kernels, images):
    """N×H×W×C → the one output, by an interpreter that is resized to N."""
    model = {"model_content": file} if isinstance(file, bytes) else {"model_path": str(file)}
    interpreter = Interpreter(**model, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels])
    feed, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(feed, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(feed, np.ascontiguousarray(images))
    interpreter.invoke()
    return interpreter.get_tensor(out)


def resizes(file, images):
    """A batch gives what its images give one by one, in all kernels."""
    for kernels in RESOLVERS:
        single = np.concatenate([at_once(file, kernels, image[None]) for image in images])
        found = at_once(file, kernels, images)
        np.testing.assert_allclose(found, single, atol=1e-4 * np.abs(single).max(), err_msg=kernels)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_transposes_and_batches_of_four(name, int8, tmp_path):
    checkpoint = small_checkpoint(NETWORKS[name]())
    file = export(checkpoint, tmp_path / "net.tflite", TFLITE, int8=int8).path
    assert "TRANSPOSE" not in operators(file)
    resizes(file, inputs_of(checkpoint)[:4].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_feature_maps_as_the_network_has_them_cost_one_transpose(name, tmp_path):
    checkpoint = small_checkpoint(NETWORKS[name]())
    report = export(checkpoint, tmp_path / "net.tflite", TFLITE, nhwc=False)
    assert operators(report.path).count("TRANSPOSE") == 1
    assert report.interface.inputs[0].shape == (1, 3, 12, 12) and report.parity.sqnr_db > 90


def test_a_map_out_costs_another(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    for nhwc, moves in ((True, 0), (False, 2)):
        report = export(small_checkpoint(network), tmp_path / "net.tflite", TFLITE, nhwc=nhwc)
        assert operators(report.path).count("TRANSPOSE") == moves


@pytest.mark.parametrize(
    ("form", "moves"),
    [
        ("channel shuffle", 2),
        ("permute", 1),
        ("crop", 0),
        ("split and sum", 0),
        ("flatten", 0),
        ("SE gate", 0),
        ("residual add", 0),
    ],
)
def test_what_moves_in_other_networks(form, moves):
    checkpoint = form_checkpoint(FORMS[form], 0)
    many = inputs_of(checkpoint)[:4]
    images = many[:1]
    graph, _ = float_graph(checkpoint.model, images, TFLITE.opset)
    file = lowered(graph)
    assert file.operators.count("TRANSPOSE") == moves  # the shuffle network shuffles twice
    (wanted,) = by_onnx_runtime(graph, {"input": images})
    for kernels in RESOLVERS:
        (found,) = by_tflite(file, {"input": images}, kernels)
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=kernels)
    resizes(file.content, many.transpose(0, 2, 3, 1))


def test_an_integer_linear_layer_has_a_bias_even_where_it_is_zeros(tmp_path):
    """tflite-runtime 2.14 on arm64 dies at one without (seen on an emulated Cortex-A72; x86-64 takes it)."""
    checkpoint = small_checkpoint(NETWORKS["SE-ResNet"]())
    model = read_tflite(export(checkpoint, tmp_path / "net.tflite", TFLITE, int8=True).path)
    names = [OPERATOR_NAMES[code.builtinCode] for code in model.operatorCodes]
    (graph,) = model.subgraphs
    linear = [op for op in graph.operators if names[op.opcodeIndex] == "FULLY_CONNECTED"]
    assert linear and all(len(op.inputs) == 3 and op.inputs[2] >= 0 for op in linear)
    assert any(not model.buffers[graph.tensors[op.inputs[2]].buffer].data.any() for op in linear)
