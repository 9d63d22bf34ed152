"""Kernels that are to stay float do so in all their layers, and everything else is int8 as before."""

import onnx
import pytest
from networks import SharedConvs, small_checkpoint
from torch import nn

from edgeks.errors import ConfigError
from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.quant.keep_float import float_layers
from edgeks.quant.options import Int8Options
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.target import load_target

PLAN = SharingPlan(
    (SharingGroup("pair", ("a", "b"), (4, 4, 1, 1)),),
    tuple(SharingGroup(f"own{i}", (f"own{i}",), (4, 4, 1, 1)) for i in range(20)),
)


@pytest.mark.parametrize(
    ("names", "layers"),
    [((), set()), (("pair",), {"a", "b"}), (("b",), {"a", "b"}), (("own3", "a"), {"own3", "a", "b"})],
)
def test_names_of_kernels_and_of_layers(names, layers):
    assert float_layers(PLAN, names) == layers


@pytest.mark.parametrize("name", ["dw", "a", "b"])
def test_a_kernel_that_was_split_is_named_as_it_was(name):
    tiles = (SharingGroup(f"dw#tile{n}", (f"a#tile{n}", f"b#tile{n}"), (4, 1, 3, 3)) for n in range(2))
    plan = SharingPlan(tuple(tiles), (SharingGroup("stem", ("stem",), (4, 3, 1, 1)),))
    assert float_layers(plan, [name]) == {"a#tile0", "b#tile0", "a#tile1", "b#tile1"}
    assert float_layers(plan, ["b#tile1"]) == {"a#tile1", "b#tile1"}
    with pytest.raises(ConfigError, match=r"legal: dw, stem$"):
        float_layers(plan, ["head"])


def test_an_unknown_name_lists_the_legal_ones():
    with pytest.raises(ConfigError) as caught:
        float_layers(PLAN, ["own1", "stem"])
    message = str(caught.value)
    assert message.startswith("--keep-float stem: no such kernel; legal: pair, own0, own1")
    assert message.endswith("and 9 more")


def exported(tmp_path, network, keep, form="qdq", target="onnx"):
    options = Int8Options(form=form, keep_float=keep)
    checkpoint = small_checkpoint(network, negative=0.3)
    return export(checkpoint, tmp_path / "m.onnx", load_target(target), int8=True, options=options)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("name", ["convs.0-2", "convs.1"])
def test_a_shared_kernel_stays_float_in_all_its_layers(name, form, tmp_path):
    report = exported(tmp_path, SharedConvs(8, (1, 2, 1)), (name,), form)
    assert report.proof.kernels_stored == 3
    (group,) = report.proof.groups
    assert (group.layers, group.dtype) == (("convs.0", "convs.1", "convs.2"), "float32")
    assert {owner.dtype for owner in report.proof.unshared} == {"int8"}
    assert "kept in float, as asked: convs.0, convs.1, convs.2" in report.warnings
    (row,) = (row for row in report.ledger.rows if row.step == "quantize_kernels")
    assert row.note == "2 kernels quantised once each; kept in float: convs.0 (as asked)"
    graph = onnx.load(tmp_path / "m.onnx").graph
    kept = [node for node in graph.node if node.op_type == "Conv" and node.name.startswith("convs.")]
    assert len({node.input[1] for node in kept}) == 1 and len(kept) == 3
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == 3
    # what only float ops read is not quantised: the first kept layer reads the stem's output, the others floats
    producer = {output: node.op_type for node in graph.node for output in node.output}
    assert [producer[node.input[0]] for node in kept[1:]] == ["Relu", "Relu"]


def test_what_stays_float_is_no_longer_rounded(tmp_path):
    everything = exported(tmp_path, SharedConvs(8, (1, 2, 1)), ())
    kept = exported(tmp_path, SharedConvs(8, (1, 2, 1)), ("convs.0-2",))
    assert kept.parity.sqnr_db > everything.parity.sqnr_db
    assert not any("kept in float" in warning for warning in everything.warnings)
    assert kept.file_bytes > everything.file_bytes + 3 * 8 * 8 * 9 - 1200


def test_a_stem_before_a_kernel_that_stays_float_keeps_float_activations(tmp_path):
    report = exported(tmp_path, ConvMixer(8, 2, 3, 2, 2), ("blocks.0-1.depthwise", "blocks.0-1.pointwise"))
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == 1  # ahead of the classifier
    assert report.proof.kernels_stored == 4
    assert report.parity.sqnr_db > exported(tmp_path, ConvMixer(8, 2, 3, 2, 2), ()).parity.sqnr_db


def test_one_reason_for_what_was_asked_and_one_for_what_cannot_be(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(8, 4, 1))
    report = exported(tmp_path, network, ("0",))
    assert report.warnings == (
        "kept in float, as asked: 0",
        "kept in float: 1 (the ledger's quantize_kernels row says why)",
    )


def test_an_unknown_name_leaves_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"--keep-float conv: no such kernel; legal: convs\.0-2, stem, head"):
        exported(tmp_path, SharedConvs(), ("conv",))
    assert list(tmp_path.iterdir()) == []
