"""Which networks a study trains, and the widths that give them equal parameters."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeks.audit.footprint import footprint
from edgeks.checkpoint import Checkpoint
from edgeks.errors import CheckpointError, ConfigError
from edgeks.exporter import export
from edgeks.layered_toml import assignment
from edgeks.models import zoo
from edgeks.recipe import load_recipe
from edgeks.study.cost import meta_network, network_cost
from edgeks.study.points import Images, nearest_width, require_not_varied, study_points
from edgeks.study.settings import load_study, read_seeds, read_study, study_names
from edgeks.target import catalogue, load_target

CIFAR, DIGITS = Images(3, 32, 32, 10), Images(1, 8, 8, 10)
STUDY = """
description = "mine"
kind = "iso_channel"
recipe = "quickstart"
[[plans]]
name = "unshared"
set.model.config.kernels = 0
[width]
values = [4]
set.model.config.dim = 1
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_study(path)


def test_equal_parameters_as_in_table_1_of_the_paper():
    points = study_points(load_study("convmixer_iso_parameter"), [], CIFAR)
    first = {(p.plan, p.depth): (p.width, p.cost.parameters) for p in points if p.seed == 0}
    assert first["unshared", 4] == (128, 112_138) and first["unshared", 8] == (128, 222_218)
    # arXiv 2210.14151 has 283 and 410: 112,644 and 221,820 parameters; 282 is nearer to 112,138.
    assert first["2 kernels", 4] == (282, 111_964) and first["2 kernels", 8] == (410, 221_820)
    assert [p.seed for p in points] == [0] * 4 + [1] * 4 + [2] * 4
    assert points[0].recipe.training.epochs == 200 and points[4].recipe.training.seed == 1


def test_growing_depth_at_equal_parameters():
    points = [p for p in study_points(load_study("quick_iso_depth"), [], DIGITS) if p.seed == 0]
    wanted = points[0].cost.parameters
    assert (points[0].width, points[0].depth) == (16, 4)
    for plan in ("unshared", "4 kernels", "2 kernels"):
        own = [p for p in points if p.plan == plan]
        assert [p.depth for p in own] == [4, 8, 12]
        assert sorted((p.width for p in own), reverse=True) == [p.width for p in own]
        assert all(abs(p.cost.parameters / wanted - 1) < 0.1 for p in own)
    for depth in (4, 8, 12):  # what differs in nothing has the same width
        assert len({p.width for p in points if p.depth == depth}) == 3


def test_equal_width_is_every_plan_at_every_width():
    points = study_points(load_study("quick_iso_channel"), [assignment("train.epochs", 2, "--set")], DIGITS)
    assert [(p.plan, p.width) for p in points if p.seed == 1] == [
        (plan, width) for plan in ("unshared", "4 kernels", "2 kernels") for width in (8, 16, 24)
    ]
    assert points[0].name == "unshared_width8_seed0"
    assert {p.recipe.training.epochs for p in points} == {2}
    assert points[0].recipe.config == {"dim": 8, "depth": 6, "kernel_size": 3, "patch_size": 1, "kernels": 0}
    same_width = {p.plan: p.cost.flops for p in points if p.width == 16}
    assert len(set(same_width.values())) == 1  # sharing saves no arithmetic


def test_lists_of_widths_are_multiplied(tmp_path):
    text = STUDY.replace('"quickstart"', '"kernel_sharing/se_resnet_d2"').replace("kernels = 0", "shared_stages = []")
    text = text.replace("values = [4]\nset.model.config.dim = 1", "values = [3]\nset.model.config.widths = [1, 2.5, 4]")
    (point,) = study_points(read(tmp_path, text + "[set]\nmodel.config.reduction = 1\n"), [], CIFAR)
    assert point.recipe.config["widths"] == [3, 8, 12]


@pytest.mark.parametrize(("wanted", "width"), [(100, 10), (104, 10), (105, 10), (106, 10), (111, 11), (1, 1), (0, 1)])
def test_the_nearest_width(wanted, width):
    assert nearest_width(lambda w: w * w, wanted) == width


def test_widths_that_a_network_refuses():
    def parameters(width):
        if width < 7:
            raise CheckpointError("too narrow")
        return width * width

    assert nearest_width(parameters, 4) == 7
    assert nearest_width(parameters, 81) == 9
    assert nearest_width(lambda width: 5, 1000) is None


@given(
    gaps=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    steps=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    wanted=st.integers(0, 200),
)
def test_the_nearest_of_the_widths_that_are_not_refused(gaps, steps, wanted):
    legal = dict(zip(accumulate(gaps), accumulate(steps), strict=False))

    def parameters(width):
        if width not in legal:
            raise CheckpointError("refused")
        return legal[width]

    found = nearest_width(parameters, wanted)
    if max(legal.values()) < wanted:
        assert found is None
    else:
        assert abs(legal[found] - wanted) == min(abs(count - wanted) for count in legal.values())


def test_a_width_that_must_be_a_multiple_of_four(tmp_path):
    text = """
description = "bottlenecks"
kind = "iso_parameter"
recipe = "shardnet/sl3_resnet_128"
[set.model]
architecture = "shard_resnet"
config = { block = "bottleneck", blocks = [3, 4, 6, 3] }
[[plans]]
name = "shared"
set.model.config = { shared = true, blending = "stage" }
[[plans]]
name = "own"
set.model.config = { shared = false, blending = "none" }
[width]
values = [128]
set.model.config.channels = 1
"""
    shared, own = study_points(read(tmp_path, text), [], CIFAR)
    assert (shared.cost.parameters, own.width, own.cost.parameters) == (73_994, 64, 73_354)  # 68: 82,562


@pytest.mark.parametrize(
    ("key", "value", "varied_by"),
    [
        ("model.config.kernels", 2, r"\[\[plans\]\]"),
        ("model.config.dim", 8, r"\[width\]"),
        ("model.config.depth", 8, r"\[depth\]"),
        ("model.config", {"dim": 8}, r"\[width\]"),
        ("model", 8, r"\[\[plans\]\]"),
        ("train.seed", 1, r"seeds\); --seeds gives others"),
    ],
)
def test_what_a_study_varies_cannot_be_given_for_all_points(key, value, varied_by):
    study = load_study("quick_iso_depth")
    with pytest.raises(ConfigError, match=f"--set: key '{key}.*' is what the study varies \\({varied_by}"):
        require_not_varied(study, [assignment("train.epochs", 1, "--set"), assignment(key, value, "--set")])
    require_not_varied(study, [assignment("model.config.kernel_size", 5, "--set"), assignment("train.lr", 1, "--set")])


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_are_read(name):
    study = load_study(name)
    assert study.name == name and study.description and len(study.plans) > 1
    assert load_study(f"pipelines/studies/{name}.toml").plans == study.plans


@pytest.mark.parametrize("name", ["convmixer", "se_resnet_d2"])
def test_macs_are_those_of_an_audit_of_the_exported_file(name, tmp_path):
    configs = {
        "convmixer": {"dim": 6, "depth": 2, "kernel_size": 3, "patch_size": 2, "kernels": 2},
        "se_resnet_d2": {"widths": [4, 8], "stem_width": 4, "reduction": 2, "shared_stages": [1, 2]},
    }
    model = zoo.build(name, configs[name], seed=0).eval()
    shape = (3, 12, 12)
    cost = network_cost(meta_network(name, configs[name], 3, 10), shape)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    export(Checkpoint(model), tmp_path / "m.onnx", load_target("onnx"), input_shape=shape)
    assert footprint(tmp_path / "m.onnx", load_target("onnx")).compute.macs == cost.macs
    convolutions = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d)}
    assert sum(convolutions.values()) == cost.conv_weights


def test_a_network_that_does_not_take_the_images():
    network = meta_network("convmixer", {"dim": 4, "depth": 1, "kernel_size": 3, "patch_size": 16}, 3, 10)
    with pytest.raises(CheckpointError, match="the network does not take images of 3×8×8"):
        network_cost(network, (3, 8, 8))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "iso_channel"', 'kind = "iso"', "key 'kind': found 'iso'; legal: iso_channel, iso_parameter, iso_d"),
        ('recipe = "quickstart"', 'recipe = "none"', "key 'recipe': found 'none.toml'; legal: the path"),
        ("values = [4]", "values = []", r"key 'width.values': found \[\]; legal: 1 to 1000 whole numbers, each once"),
        ("values = [4]", "values = [4, 4]", "legal: 1 to 1000 whole numbers, each once"),
        ("values = [4]", "values = [0]", r"key 'width.values': found \[0\]; legal: a list of whole numbers, each 1 to"),
        ("set.model.config.dim = 1", "", "key 'width.set': found {}; legal: keys of a recipe, such as"),
        ("set.model.config.dim = 1", "set.model.config.dim = 'x'", "key 'width.set': found 'x'; legal: numbers above"),
        ('name = "unshared"', "", r"key 'plans\[0\].name' is missing"),
        ('name = "unshared"', 'nam = "unshared"', r"key 'plans\[0\].name' is missing"),
        ("[width]", '[[plans]]\nname = "unshared"\n[width]', "legal: at least one .*each name once"),
        ('kind = "iso_channel"', 'kind = "iso_depth"', "key 'depth': found None; legal: a table with values"),
        ("[width]", "[widht]", "key 'width.values' is missing"),
    ],
)
def test_mistakes_in_a_study_are_named(tmp_path, old, new, message):
    assert STUDY.count(old) == 1
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, STUDY.replace(old, new))
    assert str(tmp_path / "mine.toml") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kernels = 0", "kernels = 3", "mine.toml: plan 'unshared', width 4: convmixer: kernels is 3"),
        ("kernels = 0", "kernel = 0", "mine.toml: plan 'unshared', width 4: convmixer: unknown config key 'kernel'"),
        ("[width]", '[[plans]]\nname = "Unshared!"\n[width]', "two points are unshared_width4_seed0"),
    ],
)
def test_points_that_cannot_be(tmp_path, old, new, message):
    study = read(tmp_path, STUDY.replace(old, new))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        study_points(study, [], DIGITS)


def test_a_study_and_a_recipe_are_not_taken_for_each_other(tmp_path):
    study, recipe = tmp_path / "study.toml", tmp_path / "recipe.toml"
    study.write_text(STUDY)
    recipe.write_text(f'base = "{catalogue("pipelines") / "quickstart.toml"}"')
    with pytest.raises(ConfigError, match=r"study.toml is a study, .* `edgeks study .*study.toml` runs it"):
        load_recipe(str(study))
    with pytest.raises(ConfigError, match=r"recipe.toml is a recipe, .* `edgeks run .*recipe.toml` runs it"):
        load_study(str(recipe))


@pytest.mark.parametrize("name", ["nope", "nope.toml", "", "."])
def test_unknown_studies(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no study '.*'; legal: the path of a .toml file, or one of .*quick_iso_ch"):
        load_study(name)


def test_seeds():
    assert read_seeds("3") == (3,) and read_seeds("0, 2,1") == (0, 2, 1)


@pytest.mark.parametrize("text", ["", "x", "1,", "1,1", "-1", "1.5", str(2**31), ",".join(map(str, range(101)))])
def test_what_are_no_seeds(text):
    with pytest.raises(ConfigError, match=r"--seeds .*: legal: 1 to 100 whole numbers, 0 to 2147483647, each once"):
        read_seeds(text)
