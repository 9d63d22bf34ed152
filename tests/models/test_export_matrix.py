"""Every architecture of the zoo, small: ONNX and TFLite, fp32 and int8, each kernel proven to be stored once."""

from dataclasses import replace

import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from export_matrix import matrix, untrained
from plain_tflite import PlainTflite, require_exactly_once

from edgeks.exporter import export
from edgeks.models.zoo import ZOO
from edgeks.sharing.resolve import resolve_soft_sharing
from edgeks.sharing.torch import discover
from edgeks.target import load_target

VGG = {"channels": 8, "convolutions": [2, 2, 1]}
RESNET = {"channels": 8, "blocks": [3, 1]}

# Name → architecture, config, and whether it has blocks of one kernel that repeat.
SMALL = {
    "ConvMixer, 4 kernels": (
        "convmixer",
        {"dim": 8, "depth": 4, "kernel_size": 5, "patch_size": 2, "kernels": 4},
        True,
    ),
    "SE-ResNet, {1,2}": (
        "se_resnet",
        {"blocks_per_stage": 3, "widths": [8, 16], "reduction": 4, "shared_stages": [1, 2]},
        True,
    ),
    "E-VGGNet": ("shard_vgg", {**VGG, "shared": False}, False),
    "S-VGGNet": ("shard_vgg", VGG, True),
    "SL-VGGNet": ("shard_vgg", {**VGG, "blending": "stage", "hidden": [12]}, False),
    "SLℓ-VGGNet": ("shard_vgg", {**VGG, "blending": "every"}, True),
    "E-ResNet": ("shard_resnet", {**RESNET, "shared": False, "blending": "none"}, False),
    "SL-ResNet": ("shard_resnet", {**RESNET, "stem": "3x3"}, True),
    "SL-ResNet, bottlenecks, stem": (
        "shard_resnet",
        {**RESNET, "channels": 16, "block": "bottleneck", "stem": "7x7"},
        True,
    ),
    "ShaResNet, bottlenecks": ("sha_resnet", {"depth": 29, "bottleneck": True}, True),
    "ShaResNet-18": ("sha_resnet_imagenet", {"depth": 18, "width": 8, "classes": 10}, True),
    "SWRN, 1 template": ("swrn", {"depth": 16, "width": 1, "templates": 1}, True),
}


def test_every_architecture_is_in_the_matrix():
    assert {arch for arch, *_ in SMALL.values()} == set(ZOO)


@pytest.mark.parametrize("name", SMALL)
def test_it_exports_with_every_kernel_once(name, tmp_path):
    arch, config, rolls = SMALL[name]
    checkpoint = untrained(arch, config, 32 if arch == "sha_resnet_imagenet" else 16)  # its stem has stride 4
    plan = discover(resolve_soft_sharing(checkpoint.model)[0])
    rows = list(matrix(name, checkpoint, tmp_path))
    assert len(rows) == 8
    for row in rows:
        if row.form == "rolled" and not rolls:
            assert row.reason == "nothing repeats"
            continue
        assert (row.kernels, row.layers) == (len(plan.kernels), plan.layer_count), row
        assert row.sqnr_db > (80 if row.precision == "fp32" else 15), row
    for precision in ("fp32", "int8"):  # once more, by a reader that shares no code with the exporter
        require_exactly_once(PlainTflite(tmp_path / f"{precision}_unrolled.tflite"), [k.layers for k in plan.kernels])


def test_the_padded_image_is_int8_and_its_zeros_are_the_zero_point(tmp_path):
    """Pixels 0…1 have the zero point −128, so that zeros of codes would be 0.5 each."""
    checkpoint = untrained("shard_vgg", VGG, 16)
    checkpoint.preprocessing = replace(checkpoint.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    out = tmp_path / "m.tflite"
    report = export(checkpoint, out, load_target("tflite"), int8=True, min_sqnr_db=-100)
    assert report.parity.sqnr_db > 15
    file = PlainTflite(out)
    (pad,) = (operator for operator in file.operators if operator.name == "PAD")
    before, after = (file.tensors[number] for number in (pad.inputs[0], pad.outputs[0]))
    assert (before.type, before.shape) == (schema.TensorType.INT8, (1, 16, 16, 3))
    assert (after.type, after.shape) == (schema.TensorType.INT8, (1, 16, 16, 8))
    assert after.scales == before.scales

    onnx_file = tmp_path / "m.onnx"
    assert export(checkpoint, onnx_file, load_target("onnx"), int8=True, min_sqnr_db=-100).parity.sqnr_db > 15
    nodes = {node.op_type: node for node in onnx.load(onnx_file).graph.node}
    made_by = {output: node for node in onnx.load(onnx_file).graph.node for output in node.output}
    quantize = made_by[nodes["Pad"].input[0]]
    assert quantize.op_type == "QuantizeLinear" and nodes["Pad"].input[2] == quantize.input[2]
