import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from networks import SharedConvs, small_checkpoint
from onnx import helper, numpy_helper
from repeated_networks import BLOCKS, RepeatedNetwork

from edgeks.artefact import REFERENCES, run_artefact
from edgeks.audit.footprint import footprint
from edgeks.audit.onnx.proof import prove_exactly_once
from edgeks.errors import ConfigError, GraphError, SharingBroken
from edgeks.exporter import export
from edgeks.graph.onnx_network import load_onnx
from edgeks.graph.passes.roll import roll
from edgeks.graph.repeats import node_key
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TARGET = load_target("onnx")
REFERENCE = REFERENCES["onnx"]


def both_forms(network, folder, **options):
    """(report unrolled, report rolled, their outputs) of a network as a .onnx file of another tool."""
    path, calib = network.save(folder)
    reports = []
    for layers in ("unrolled", "rolled"):
        out = folder / f"{layers}.onnx"
        reports.append(export(load_onnx(path), out, TARGET, layers=layers, calib=calib, min_sqnr_db=-200, **options))
    samples = np.load(calib)["arr_0"]
    return (*reports, *(run_artefact(report.path, REFERENCE, samples)[0] for report in reports))


levels = st.lists(
    st.tuples(st.sampled_from(BLOCKS), st.integers(1, 4), st.sampled_from(["none", "pool"])), min_size=1, max_size=3
).filter(lambda found: any(count > 2 for _, count, _ in found))


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(levels=levels, seed=st.integers(0, 99), int8=st.booleans())
def test_a_rolled_network_computes_what_the_unrolled_one_does(tmp_path_factory, levels, seed, int8):
    network = RepeatedNetwork(levels, seed=seed)
    options = {"int8": True, "options": Int8Options(form="qoperator")} if int8 else {}
    unrolled, rolled, expected, found = both_forms(network, tmp_path_factory.mktemp("roll"), **options)
    assert rolled.proof.kernels_stored == unrolled.proof.kernels_stored
    in_loops = {layer for layers in rolled.ledger.rolled.values() for layer in layers}
    repeated = {name for name in network.layers if name != "stem" and levels[int(name[5])][1] > 1}
    if int8:  # where float blocks meet integer ones, the first or last of a level is quantised in another place
        np.testing.assert_array_equal(found, expected)
        assert in_loops
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert in_loops == repeated


def test_a_file_says_which_layers_its_loops_stand_for_and_is_proven(tmp_path):
    network = RepeatedNetwork([("gated", 3, "none")])
    _, rolled, *_ = both_forms(network, tmp_path)
    assert rolled.form == "rolled float"
    stored = json.loads(rolled.ledger_path.read_text())["rolled"]
    assert stored["level0.0"] == ["level0.0", "level0.1", "level0.2"]
    plan, path = rolled.ledger.plan, rolled.path
    proof = prove_exactly_once(path, plan, stored)
    assert [len(group.layers) for group in proof.groups] == [3] and proof.kernels_stored == 1 + 1 + 2 * 3 + 1
    with pytest.raises(SharingBroken, match="missing"):
        prove_exactly_once(path, plan)
    wrong = {**stored, "level0.0": [*stored["level0.0"], "level0.3"]}
    with pytest.raises(SharingBroken, match="runs 3 times and stands for 4 layers"):
        prove_exactly_once(path, plan, wrong)


def test_a_copy_in_a_loops_file_is_found(tmp_path):
    _, rolled, *_ = both_forms(RepeatedNetwork([("plain", 3, "none")]), tmp_path)
    proto = onnx.load(rolled.path)
    kernel = next(t for t in proto.graph.initializer if t.dims[2:] == [3, 3] and t.dims[1] == 6)
    copy = proto.graph.initializer.add()
    copy.CopyFrom(kernel)
    copy.name = "copy"
    onnx.save(proto, tmp_path / "copied.onnx")
    with pytest.raises(SharingBroken, match="found 2 constants that are equal"):
        prove_exactly_once(tmp_path / "copied.onnx", rolled.ledger.plan, rolled.ledger.rolled)


def test_copies_in_a_stack_are_found(tmp_path):
    _, rolled, *_ = both_forms(RepeatedNetwork([("plain", 3, "none")]), tmp_path, int8=True)
    proto = onnx.load(rolled.path)
    kernel = next(t for t in proto.graph.initializer if t.dims[2:] == [3, 3] and t.dims[1] == 6)
    stack = np.stack([numpy_helper.to_array(kernel)] * 3)
    proto.graph.initializer.append(numpy_helper.from_array(stack, "copies"))
    loop = next(node for node in proto.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.node.append(helper.make_node("Gather", ["copies", body.input[0].name], ["copy"], axis=0))
    onnx.save(proto, tmp_path / "copied.onnx")
    with pytest.raises(SharingBroken, match=r"copies of .*: 'copies'"):
        prove_exactly_once(tmp_path / "copied.onnx", rolled.ledger.plan, rolled.ledger.rolled)


@pytest.mark.parametrize("condition", ["given", "computed"])
def test_a_loop_that_ends_before_its_trips_does_not_stand_for_its_layers(condition, tmp_path):
    _, rolled, *_ = both_forms(RepeatedNetwork([("plain", 3, "none")]), tmp_path)
    plan, stands_for = rolled.ledger.plan, rolled.ledger.rolled
    proto = onnx.load(rolled.path)
    loop = next(node for node in proto.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    if condition == "given":
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
        loop.input[1] = "go"
        onnx.save(proto, tmp_path / "lasting.onnx")
        prove_exactly_once(tmp_path / "lasting.onnx", plan, stands_for)
        proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array(False), "go"))
    else:
        next(node for node in body.node if node.output[0] == body.output[0].name).op_type = "Not"
    onnx.save(proto, tmp_path / "ending.onnx")
    with pytest.raises(SharingBroken, match="runs 1 times and stands for 3 layers"):
        prove_exactly_once(tmp_path / "ending.onnx", plan, stands_for)


def test_macs_and_parameters_are_those_of_the_unrolled_file(tmp_path):
    network = RepeatedNetwork([("residual", 3, "pool"), ("gated", 2, "none")])
    unrolled, rolled, *_ = both_forms(network, tmp_path)
    first, second = (footprint(report.path).compute for report in (unrolled, rolled))
    assert first is not None and second is not None
    assert first.macs == second.macs


def refusal(network, tmp_path):
    path, calib = network.save(tmp_path)
    out = tmp_path / "out.onnx"
    with pytest.raises(GraphError) as error:
        export(load_onnx(path), out, TARGET, layers="rolled", calib=calib)
    assert not out.exists()
    return str(error.value)


def test_nothing_shared_is_an_error_that_says_so(tmp_path):
    assert "no two layers share a kernel" in refusal(RepeatedNetwork([("plain", 1, "none")]), tmp_path)


def test_layers_that_differ_are_named(tmp_path):
    network = RepeatedNetwork([("plain", 2, "none")])
    second = next(node for node in network.nodes if node.name == "level0.1")
    second.attribute.append(helper.make_attribute("strides", [2, 2]))
    assert "'level0.0' and 'level0.1', which share a kernel, differ in strides" in refusal(network, tmp_path)


def test_a_form_that_a_loop_cannot_have(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(8))
    with pytest.raises(ConfigError, match="form qdq in a loop, which ONNX Runtime would run in float"):
        export(checkpoint, tmp_path / "out.onnx", TARGET, int8=True, layers="rolled", options=Int8Options(form="qdq"))


def test_nodes_with_tensors_or_graphs_of_their_own_are_no_repeats():
    """Two constants of a thousand numbers and more read alike where numpy shortens their text."""
    constants = [ir.tensor(np.arange(2000, dtype=np.float32) * sign, name="c") for sign in (1, -1)]
    same, other = (ir.node("Constant", [], {"value": content}) for content in constants)
    assert node_key(same, frozenset()) != node_key(other, frozenset())


def test_a_value_that_is_read_behind_the_run_ends_it():
    network = RepeatedNetwork([("plain", 4, "none")])
    proto = network.proto()
    relus = [node for node in proto.graph.node if node.op_type == "Relu"][1:]
    pooled = next(node for node in proto.graph.node if node.op_type == "GlobalAveragePool")
    skip = helper.make_node("Add", [relus[1].output[0], relus[3].output[0]], ["skipped"], "skip")
    pooled.input[0] = "skipped"
    proto.graph.node.insert(list(proto.graph.node).index(pooled), skip)
    model = ir.from_proto(proto)
    rolled, note = roll(model)
    assert note == "2 loops: 2 × 3 nodes, 2 layers; 2 × 3 nodes, 2 layers"
    assert rolled == {"level0.0": ("level0.0", "level0.1"), "level0.2": ("level0.2", "level0.3")}


def test_kernels_of_their_own_that_outweigh_the_shared_ones_are_not_stacked():
    network = RepeatedNetwork([("gated", 3, "none")])
    for index in range(3):
        network.constant(f"level0.{index}.fc1.w", (100, 6))
        network.constant(f"level0.{index}.fc2.w", (6, 100))
    with pytest.raises(GraphError, match="not repeated as a whole"):
        roll(ir.from_proto(network.proto()))
