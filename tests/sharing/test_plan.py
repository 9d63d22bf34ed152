"""SharingPlan: plain data, its figures, its JSON, and what it refuses."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.errors import PlanError
from edgeks.sharing.plan import SharingGroup, SharingPlan

LAYERS = ("blocks.0.conv", "blocks.1.conv", "blocks.2.conv")


@st.composite
def plans(draw):
    names = draw(st.lists(st.text(), unique=True, max_size=12))
    groups, unshared = [], []
    while names:
        take = draw(st.integers(1, len(names)))
        layers, names = tuple(names[:take]), names[take:]
        shape = tuple(draw(st.lists(st.integers(1, 512), min_size=1, max_size=4)))
        group = SharingGroup(draw(st.text()), layers, shape, draw(st.sampled_from(["none", "own", "shared"])))
        (groups if take > 1 else unshared).append(group)
    return SharingPlan(tuple(groups), tuple(unshared))


@given(plans())
@settings(deadline=None)
def test_json_round_trip(plan):
    assert SharingPlan.from_json(plan.to_json()) == plan


@given(plans())
@settings(deadline=None)
def test_stored_and_saved_bytes_add_up_to_those_of_the_unshared_network(plan):
    for group in plan.kernels:
        layers = len(group.layers)
        biases = 0 if group.bias == "none" else layers * group.kernel_shape[0]
        assert group.stored_bytes + group.saved_bytes == 4 * (layers * math.prod(group.kernel_shape) + biases)
    assert plan.layer_count == sum(len(group.layers) for group in plan.kernels)


@pytest.mark.parametrize(
    ("bias", "stored", "saved"),
    [("none", 4 * 288, 8 * 288), ("own", 4 * (288 + 3 * 8), 8 * 288), ("shared", 4 * (288 + 8), 8 * (288 + 8))],
)
def test_bytes_by_hand(bias, stored, saved):
    group = SharingGroup("g", LAYERS, (8, 4, 3, 3), bias)  # 288 weights, 8 biases
    assert (group.kernel_bytes, group.stored_bytes, group.saved_bytes) == (4 * 288, stored, saved)


def test_a_layer_reads_one_kernel():
    one, other = SharingGroup("one", ("a", "b"), (1,)), SharingGroup("other", ("b", "c"), (1,))
    with pytest.raises(PlanError, match=r"layer 'b' is in two groups \(one and other\)"):
        SharingPlan((one, other))
    with pytest.raises(PlanError, match="layer 'b' is in two groups"):
        SharingPlan((one,), (SharingGroup("b", ("b",), (1,)),))
    with pytest.raises(PlanError, match="'one' lists layer 'a' twice"):
        SharingGroup("one", ("a", "b", "a"), (1,))


@pytest.mark.parametrize(
    ("layers", "shape", "bias", "message"),
    [
        ((), (1,), "none", "has no layers"),
        (("a",), (1,), "tied", "bias 'tied' is not one of none, own, shared"),
        (("a",), (0, 3), "none", r"kernel shape \(0, 3\); legal: whole numbers"),
        (("a",), (True, 3), "none", "legal: whole numbers of 1 or more"),
        (("a",), (1.5,), "none", "legal: whole numbers of 1 or more"),
    ],
)
def test_a_group_checks_itself(layers, shape, bias, message):
    with pytest.raises(PlanError, match=message):
        SharingGroup("g", layers, shape, bias)


def plan_text(**row):
    group = {"name": "g", "layers": ["a", "b"], "kernel_shape": [1, 2], "bias": "none", **row}
    return json.dumps({"version": 1, "groups": [{k: v for k, v in group.items() if v is not None}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),  # beyond what Python converts
        ("[]", '"version": 1'),
        ('{"groups": []}', '"version": 1'),
        ('{"version": 2}', '"version": 1'),
        ('{"version": 1, "groups": {}}', "'groups' must be a list, not dict"),
        ('{"version": 1, "groups": [5]}', r"groups\[0\] needs the keys"),
        ('{"version": 1, "groups": [[]]}', r"groups\[0\] needs the keys"),
        (plan_text(name=None), r"groups\[0\] needs the keys name, layers"),
        (plan_text(layers="ab"), "layers a list of layer names"),
        (plan_text(layers=[1, 2]), "layers a list of layer names"),
        (plan_text(layers=["a"]), "at least 2 layers, found 1"),
        (plan_text(layers=["a", "a"]), "lists layer 'a' twice"),
        (plan_text(kernel_shape=3), "must be a list of sizes, found 3"),
        (plan_text(kernel_shape=[]), "must be a list of sizes"),
        (plan_text(kernel_shape=["x"]), "legal: whole numbers"),
        (plan_text(bias=["own"]), "is not one of none, own, shared"),
    ],
)
def test_malformed_json_is_refused_in_one_line(text, message):
    with pytest.raises(PlanError, match=message) as caught:
        SharingPlan.from_json(text)
    assert "\n" not in str(caught.value)
