"""Bias correction: afterwards no layer's output has a mean error, on the samples that it was measured on."""

import numpy as np
import pytest
from networks import SharedConvs, inputs_of, small_checkpoint
from onnx_text import constant, graph_of, node_of, normal

from edgeks.exporter import export
from edgeks.graph.float_graph import float_graph
from edgeks.graph.kernels import array, kernel_reads, output_channels
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.quantize_activations import place_activations, quantize_activations
from edgeks.graph.passes.quantize_kernels import quantize_kernels, symmetric_codes
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.parity import compare
from edgeks.quant import bias_correction
from edgeks.quant.activations import activations
from edgeks.quant.bias_correction import correct_biases, quantised_layers
from edgeks.quant.calibrate import calibrate
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

STEP = 16  # coarse kernels: 15 levels instead of 255


def coarse(graph):
    """Kernel → codes that are multiples of STEP, rounded down so that the error has a mean."""
    found = {}
    for read in kernel_reads(graph):
        weight = array(read.kernel).astype(np.float64)
        codes, _ = symmetric_codes(weight, output_channels(read))
        found[str(read.kernel.name)] = (np.floor(codes / STEP) * STEP).clip(-127, 127).astype(np.int8)
    return found


def coarsely_quantised(graph, samples):
    """Float graph → (int8 graph with float biases and coarse kernels, its layers)."""
    quantize_kernels(graph, "int8", codes_of=coarse(graph))
    absorb_batch_norm(graph)
    layers = quantised_layers(graph)
    placement = place_activations(graph)
    ranges = calibrate(graph, [str(value.name) for value in placement.ranged], samples)
    quantize_activations(graph, placement, ranges, "uint8")
    drop_saturated_relu(graph)
    return layers


def channel_means(graph, names, samples):
    rows = list(activations(graph, names, samples))
    return {n: np.mean([r[n].mean(axis=(0, *range(2, r[n].ndim))) for r in rows], axis=0) for n in names}


def output_sqnr(reference, graph, samples):
    both = [
        np.concatenate([row[name] for row in activations(model, [name], samples)])
        for model in (reference, graph)
        for name in [str(model.graph.outputs[0].name)]
    ]
    return compare(*both).sqnr_db


NETS = {
    "shared": lambda: SharedConvs(8, (1, 2, 1), dilations=(1, 1, 2)),
    "biases": lambda: SharedConvs(8, (1, 2), bias=True),
    "depthwise": lambda: SharedConvs(8, (1, 1), groups=8),
    "ConvMixer": lambda: ConvMixer(8, 3, 3, 2, 2),
    "SE-ResNet": lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
}


@pytest.mark.parametrize("name", NETS)
def test_no_layer_has_a_mean_error_afterwards(name):
    checkpoint = small_checkpoint(NETS[name](), negative=0.3)
    samples = inputs_of(checkpoint)
    graph, _ = float_graph(checkpoint.model, samples[:1], 20)
    reference = graph.clone()
    layers = coarsely_quantised(graph, samples)
    assert len(layers) == len(list(kernel_reads(graph)))
    expected = channel_means(reference, list(layers.values()), samples)
    now = {layer: str(node_of(graph, layer).outputs[0].name) for layer in layers}

    def worst():
        found = channel_means(graph, list(now.values()), samples)
        return max(np.abs(found[now[layer]] - expected[layers[layer]]).max() for layer in layers)

    before, sqnr_before = worst(), output_sqnr(reference, graph, samples)
    note = correct_biases(graph, reference, layers, samples)
    assert note.startswith(f"{len(layers)} biases corrected, by ") and note.endswith("on 32 samples")
    assert worst() < 1e-4 < 0.01 * before
    assert output_sqnr(reference, graph, samples) > sqnr_before + 0.5
    biases = [node_of(graph, layer).inputs[2] for layer in layers]
    assert len(set(biases)) == len(layers)  # one per layer, also where it had none or one in common


def test_layers_without_a_bias_that_can_be_changed_are_left():
    graph = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] z) {
            [c] p = ReduceMean<keepdims=0>(x, axes)
            [a] q = Conv<pads=[1,1,1,1]>(x, W, p)
            [b] y = Conv<pads=[1,1,1,1]>(q, W)
            [m] z = MatMul(y, V)
        }""",
        W=normal(4, 4, 3, 3),
        V=normal(6, 6),
        axes=np.array([0, 2, 3]),
    )
    reference, samples = graph.clone(), normal(3, 4, 6, 6)
    layers = coarsely_quantised(graph, samples)
    assert list(layers) == ["b"]
    correct_biases(graph, reference, layers, samples)
    assert node_of(graph, "a").inputs[2].name == "p" and len(node_of(graph, "m").inputs) == 2
    assert constant(node_of(graph, "b").inputs[2]).shape == (4,)


def test_large_activations_take_fewer_samples(monkeypatch):
    checkpoint = small_checkpoint(SharedConvs())
    samples = inputs_of(checkpoint)
    graph, _ = float_graph(checkpoint.model, samples[:1], 20)
    reference = graph.clone()
    layers = coarsely_quantised(graph, samples)
    monkeypatch.setattr(bias_correction, "MAX_LIVE_BYTES", 4 * 4 * 8 * 12 * 12 * 5)
    assert correct_biases(graph, reference, layers, samples).endswith("on 5 samples")


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_an_export_holds_each_kernel_once(form, tmp_path):
    checkpoint = small_checkpoint(SharedConvs(8, (1, 2, 1)))
    options = Int8Options(form=form, bias_correction=True)
    report = export(checkpoint, tmp_path / "m.onnx", load_target("onnx"), int8=True, options=options)
    assert report.proof.kernels_stored == 3 and [len(g.layers) for g in report.proof.groups] == [3]
    assert "correct_biases" in [row.step for row in report.ledger.rows]
