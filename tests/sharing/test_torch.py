"""Sharing in torch: discovered by identity, planned, applied, undone."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn.utils import parametrizations

from edgeks.errors import PlanError
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.sharing.report import plan_json, plan_table
from edgeks.sharing.torch import apply_plan, discover, group_name, plan_sharing, untied


def convs(count, channels=4, **options):
    """Convolutions of one shape in a row, different weights."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1, **options) for _ in range(count)))


class TwoStages(nn.Module):
    """conv, conv, down (stride 2, isomorphic too), conv, and a head; registered in another order than called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.late = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.early = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.point = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.head(self.point(self.late(self.down(self.early(x)))).mean((2, 3)))


def layer_sets(plan):
    return [group.layers for group in plan.groups]


# ── discover ──


def test_discover_by_identity_not_by_value():
    model = convs(4)
    model[3].weight.data.copy_(model[2].weight.data)  # equal bytes, two Parameters
    model[1].weight = model[0].weight
    plan = discover(model)
    assert plan.groups == (SharingGroup("0-1", ("0", "1"), (4, 4, 3, 3), "own"),)
    assert [kernel.layers for kernel in plan.unshared] == [("2",), ("3",)]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda **o: nn.Conv1d(6, 8, 5, groups=2, **o), (8, 3, 5)),
        (lambda **o: nn.Conv2d(6, 8, (1, 5), **o), (8, 6, 1, 5)),
        (lambda **o: nn.Linear(6, 8, **o), (8, 6)),
    ],
)
@pytest.mark.parametrize("bias", ["none", "own", "shared"])
def test_discover_every_layer_type_and_kind_of_bias(make, shape, bias):
    layers = [make(bias=bias != "none") for _ in range(3)]
    for layer in layers[1:]:
        layer.weight = layers[0].weight
        if bias == "shared":
            layer.bias = layers[0].bias
    assert discover(nn.ModuleList(layers)).groups == (SharingGroup("0-2", ("0", "1", "2"), shape, bias),)


def test_one_module_under_several_names_is_a_layer_per_name():
    conv, block = nn.Conv2d(4, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3))
    model = nn.ModuleDict({"a": conv, "b": conv, "c": nn.Sequential(block, block)})
    assert layer_sets(discover(model)) == [("a", "b"), ("c.0.0", "c.1.0")]
    assert discover(model).groups[0].bias == "shared"


def test_a_model_that_is_one_layer_and_one_without_layers():
    assert [kernel.layers for kernel in discover(nn.Linear(2, 3)).unshared] == [("Linear",)]
    assert discover(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())) == SharingPlan(())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_layers_with_a_computed_weight_own_their_kernel(normalise):
    model = nn.Sequential(*(normalise(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(6)))
    plan = discover(model)
    assert plan.groups == ()
    assert [kernel.layers for kernel in plan.unshared] == [(str(index),) for index in range(6)]
    with pytest.raises(PlanError, match="ties nothing"):
        plan_sharing(model, "all")
    with pytest.raises(PlanError, match=r"layer '0' is computed by a parametrisation .*remove_parametrizations"):
        apply_plan(model, plan_sharing(model, [["0", "1"]]))


def test_table_and_json_figures_by_hand():
    model = convs(5, bias=False)
    for layer in (model[1], model[2], model[3]):
        layer.weight = model[0].weight
    plan = discover(model)  # a kernel is 4·4·3·3·4 = 576 bytes
    data = plan_json(plan)
    assert data["schema"] == "edgeks.plan/1"
    assert [(row["bytes_stored"], row["bytes_saved"]) for row in data["groups"] + data["unshared"]] == [
        (576, 3 * 576),
        (576, 0),
    ]
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(plan_table(plan))
    text = console.export_text()
    assert "4×4×3×3" in text
    total = next(line for line in text.splitlines() if "total" in line)
    assert "1,152" in total and "1,728" in total and total.split()[1] == "5"


def test_group_names():
    assert group_name(["blocks.0.pw", "blocks.1.pw"]) == "blocks.0-1.pw"
    assert group_name(["blocks.0.pw", "blocks.2.pw"]) == "blocks.0,2.pw"
    assert group_name(["a.x", "b.x"]) == "*.x"
    assert group_name(["a", "b.x"]) == "a…b.x"
    assert group_name(["a", "b"]) == "a…b"
    assert group_name(["conv", "conv#2"]) == "conv"


# ── plan and apply ──


@given(st.integers(2, 14), st.integers(1, 16))
@settings(deadline=None, max_examples=60)
def test_k_groups_are_contiguous_cover_every_layer_and_are_of_near_equal_length(layers, groups):
    model = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(layers)))
    if groups >= layers:
        with pytest.raises(PlanError, match=f"leave each layer a kernel of its own; legal: 1 to {layers - 1}"):
            plan_sharing(model, groups)
        return
    apply_plan(model, plan_sharing(model, groups))
    runs = [kernel.layers for kernel in discover(model).kernels]
    assert sorted(int(name) for run in runs for name in run) == list(range(layers))
    assert len(runs) == groups
    lengths = [len(run) for run in runs]
    assert max(lengths) - min(lengths) <= 1
    assert all([int(name) for name in run] == list(range(int(run[0]), int(run[-1]) + 1)) for run in runs)


def test_a_huge_number_of_groups_is_answered_at_once():
    with pytest.raises(PlanError, match="legal: 1 to 2"):
        plan_sharing(convs(3), 10**12)


def test_all_stage_and_order_of_execution():
    model, x = TwoStages(), torch.zeros(1, 4, 8, 8)
    assert layer_sets(plan_sharing(model, "all", example_input=x)) == [("early.0", "early.2", "down", "late")]
    assert layer_sets(plan_sharing(model, "all")) == [("late", "down", "early.0", "early.2")]  # as registered
    assert layer_sets(plan_sharing(model, "stage", example_input=x)) == [("early.0", "early.2"), ("down", "late")]
    assert layer_sets(plan_sharing(model, 2, example_input=x)) == [("early.0", "early.2"), ("down", "late")]
    assert layer_sets(plan_sharing(model, [["late", "early.0"]])) == [("late", "early.0")]
    assert not model.early[0]._forward_hooks
    assert model.training


@pytest.mark.parametrize("tie_bias", [False, True])
@pytest.mark.parametrize("init", ["first", "mean"])
def test_apply_starts_from_the_first_or_the_mean_and_ties_what_was_asked(init, tie_bias):
    model = convs(3)
    weights, biases = ([getattr(layer, kind).detach().clone() for layer in model] for kind in ("weight", "bias"))
    plan = plan_sharing(model, "all", tie_bias=tie_bias)
    assert apply_plan(model, plan, init) is model
    assert discover(model) == plan
    assert plan.groups[0].bias == ("shared" if tie_bias else "own")
    expected = weights[0] if init == "first" else (weights[0] + weights[1] + weights[2]) / 3
    assert all(layer.weight is model[0].weight for layer in model)
    torch.testing.assert_close(model[0].weight.data, expected)
    for layer, bias in zip(model, biases, strict=True):
        start = biases[0] if init == "first" else sum(biases) / 3
        torch.testing.assert_close(layer.bias.data, start if tie_bias else bias)


def test_gradient_of_the_shared_kernel_is_the_sum_over_the_layers_of_an_untied_copy():
    model = apply_plan(TwoStages(), plan_sharing(TwoStages(), "all", tie_bias=True))
    twin = untied(model)
    assert discover(twin).groups == ()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for network in (model, twin):
        network(x).square().sum().backward()
    layers = [twin.early[0], twin.early[2], twin.down, twin.late]
    for kind in ("weight", "bias"):
        shared = getattr(model.late, kind).grad
        torch.testing.assert_close(shared, sum(getattr(layer, kind).grad for layer in layers))
        assert not torch.allclose(shared, getattr(layers[0], kind).grad)


def test_untied_gives_the_same_outputs_shares_nothing_and_leaves_the_model_alone():
    conv, block = nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    model = nn.Sequential(conv, nn.ReLU(), conv, block, block, *convs(2)).eval()
    model[5].weight = conv.weight
    conv.weight.requires_grad_(False)
    before = discover(model)
    twin = untied(model)
    assert discover(model) == before
    assert discover(twin).groups == ()
    assert len(discover(twin).unshared) == before.layer_count
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert [twin[index].weight.requires_grad for index in (0, 2, 5, 6)] == [False, False, False, True]
    with torch.no_grad():
        twin[2].weight.zero_()
    assert conv.weight.abs().sum() > 0 and twin[0].weight.abs().sum() > 0


def test_frozen_kernels_stay_frozen_when_all_of_them_are():
    model = convs(4).requires_grad_(False)
    apply_plan(model, plan_sharing(model, 2))
    assert not any(p.requires_grad for p in model.parameters())
    model = convs(2)
    model[0].weight.requires_grad_(False)
    apply_plan(model, plan_sharing(model, "all"))
    assert model[0].weight.requires_grad


def test_tied_layers_stay_tied_through_deepcopy_and_optimiser_sees_one_kernel():
    model = apply_plan(convs(3, bias=False), plan_sharing(convs(3, bias=False), "all"))
    assert len(list(copy.deepcopy(model).parameters())) == len(list(model.parameters())) == 1


# ── errors ──


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("some", "unknown sharing scheme 'some'; legal: all, stage, a number of groups, or lists"),
        (0, "number of sharing groups is 0; legal: 1 or more"),
        (-3, "number of sharing groups is -3"),
        (True, "unknown sharing scheme True"),
        (1.5, "unknown sharing scheme 1.5"),
        ("stage", "needs an example input"),
        ([["early.0", "point"]], r"'early.0' \(Conv2d kernel 4×4×3×3\) and 'point' \(Conv2d kernel 4×4×1×1\)"),
        ([["head", "point"]], r"'head' \(Linear kernel 4×4\) and 'point' .* are not isomorphic"),
        ([["early.0", "erly.2"]], "unknown layer 'erly.2'.*near: early.2"),
        ([["early.0", "early.1"]], "unknown layer 'early.1'"),
        ([["early.0", "late"], ["late", "down"]], "layer 'late' is in two groups"),
        ([["late", "late"]], "lists layer 'late' twice"),
        ([["late"]], "at least 2 layers, found"),
        (["late", "down"], "found 'late' in a list of sharing groups; legal: a list of layer names per group"),
    ],
)
def test_schemes_that_cannot_be(scheme, message):
    with pytest.raises(PlanError, match=message):
        plan_sharing(TwoStages(), scheme)


def test_depthwise_and_dense_kernels_of_one_shape_are_not_isomorphic():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(1, 4, 3))
    with pytest.raises(PlanError, match=r"4×1×3×3, groups 4.*not isomorphic"):
        plan_sharing(model, [["0", "1"]])


def test_an_example_input_of_the_wrong_shape():
    model = TwoStages()
    with pytest.raises(PlanError, match="does not take the example input of 1×3×8×8"):
        plan_sharing(model, "stage", example_input=torch.zeros(1, 3, 8, 8))
    assert not model.late._forward_hooks


@pytest.mark.parametrize(
    ("group", "init", "message"),
    [
        (SharingGroup("g", ("0", "1"), (4, 4, 3, 3)), "median", "unknown initialisation 'median'; legal: first, mean"),
        (SharingGroup("g", ("0", "9"), (4, 4, 3, 3)), "first", "unknown layer '9'"),
        (
            SharingGroup("g", ("0", "1"), (4, 4, 1, 1)),
            "first",
            r"plans a kernel of shape \(4, 4, 1, 1\); layer '0' has",
        ),
        (SharingGroup("g", ("0", "1"), (4, 4, 3, 3), "shared"), "first", "ties biases, but not every one"),
    ],
)
def test_a_plan_that_does_not_fit_changes_nothing(group, init, message):
    model = convs(4, bias=False)
    before = [layer.weight for layer in model]
    fine = SharingGroup("fine", ("2", "3"), (4, 4, 3, 3))
    with pytest.raises(PlanError, match=message):
        apply_plan(model, SharingPlan((fine, group)), init)
    assert all(layer.weight is weight for layer, weight in zip(model, before, strict=True))
