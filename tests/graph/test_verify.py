"""After every pass: one Value per kernel of the plan, read by its layers; a pass that breaks a tie is named."""

import json

import onnx_ir as ir
import pytest
from onnx_text import constant, graph_of, node_of, normal

from edgeks.errors import SharingBroken
from edgeks.graph.ledger import Ledger
from edgeks.graph.rewrite import new_initializer
from edgeks.graph.verify import verify
from edgeks.sharing.plan import SharingGroup, SharingPlan

PLAN = SharingPlan(
    (SharingGroup("pair", ("a", "b"), (4, 4, 1, 1)),),
    (SharingGroup("c", ("c",), (4, 4, 1, 1)),),
)


def chain():
    return graph_of(
        """(float[1,4,2,2] x) => (float[1,4,2,2] y) {
            [a] p = Conv(x, W)
            [b] q = Conv(p, W)
            [c] y = Conv(q, V)
        }""",
        W=normal(4, 4, 1, 1),
        V=normal(4, 4, 1, 1, seed=1),
    )


def untie(model):
    """An exactly equal copy for `b`: bytes agree, identity does not."""
    kernel = node_of(model, "b").inputs[1]
    node_of(model, "b").replace_input_with(1, new_initializer(model, "W", constant(kernel).copy()))


def forget(model):
    node_of(model, "b").name = "renamed"


def lend(model):
    node_of(model, "c").replace_input_with(1, node_of(model, "a").inputs[1])


def scale_at_run_time(model):
    node = node_of(model, "b")
    scaled = ir.node("Relu", [node.inputs[1]], name="scaled")
    model.graph.insert_before(node, scaled)
    node.replace_input_with(1, scaled.outputs[0])


def shuffle(model):
    node = node_of(model, "a")
    model.graph.remove(node)
    model.graph.append(node)


def test_a_sound_graph_passes():
    verify(chain(), PLAN, "nothing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (untie, "after spoil: group 'pair' of 2 layers holds 2 kernels, not 1"),
        (forget, "after spoil: layer 'b' of group 'pair' reads no kernel any more"),
        (scale_at_run_time, "after spoil: layer 'b' of group 'pair' reads no kernel any more"),
        (lend, "after spoil: the kernel of 'pair' is also read by 'c'"),
        (shuffle, "after spoil: node 'b' reads 'p' before it is computed"),
    ],
)
def test_a_pass_that_breaks_something_is_named(spoil, message):
    model, ledger = chain(), Ledger(PLAN)
    ledger.run("innocent", model, lambda: "did nothing")

    def apply():
        spoil(model)
        return "did harm"

    with pytest.raises(SharingBroken) as caught:
        ledger.run("spoil", model, apply)
    assert str(caught.value) == message
    assert [row.step for row in ledger.rows] == ["innocent", "spoil"]


def test_rows_count_kernels_layers_copies_and_bytes():
    model, ledger = chain(), Ledger(PLAN)
    ledger.record("capture", model, "as it came")
    untie(model)
    ledger.record("untied", model, "a copy more")
    first, second = ledger.rows
    assert (first.kernels, first.layers, first.copies, first.constant_bytes) == (2, 3, 0, 128)
    assert (second.kernels, second.layers, second.copies, second.constant_bytes) == (3, 3, 1, 192)


def test_json_holds_the_steps_the_plan_and_the_extra_facts():
    model, ledger = chain(), Ledger(PLAN)
    ledger.run("innocent", model, lambda: "did nothing")
    content = json.loads(ledger.to_json(artefact="a.onnx"))
    assert content["schema"] == "edgeks.ledger/1" and content["artefact"] == "a.onnx"
    assert [row["step"] for row in content["steps"]] == ["innocent"]
    assert SharingPlan.from_json(json.dumps(content["plan"])) == PLAN
