"""Recipes: the shipped ones load, and every mistake in a TOML is named with file, key and legal values."""

import tomllib

import pytest
import torch

from edgeks.errors import ConfigError
from edgeks.layered_toml import Layer, assignment
from edgeks.models.presets import PRESETS
from edgeks.models.zoo import build
from edgeks.recipe import QUICK, load_recipe, read_overlay, read_recipe, recipe_names
from edgeks.target import catalogue

MINIMAL = """
description = "mine"
[model]
architecture = "convmixer_48_6_2k"
[data]
source = "digits"
[train]
epochs = 3
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_recipe(path)


def changed(old, new):
    assert MINIMAL.count(old) == 1
    return MINIMAL.replace(old, new)


def test_every_shipped_recipe_loads_and_every_network_of_a_paper_has_one():
    with_recipe = set()
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        data = tomllib.loads((catalogue("pipelines") / f"{name}.toml").read_text())
        if "/" in name:
            assert recipe.architecture == data["model"]["architecture"]
            assert recipe.description == PRESETS[recipe.architecture].description
            first_line = (catalogue("pipelines") / f"{name}.toml").read_text().partition("\n")[0]
            assert first_line.startswith(f"# edgeks run {name} --data {recipe.data.partition(':')[0]}:DIR")
        else:
            assert recipe.description == data["description"]
            assert recipe.training.epochs == data.get("train", {}).get("epochs", 14)  # of an unshared twin: its base's
        if recipe.architecture not in with_recipe:
            with torch.device("meta"):
                build(recipe.architecture, {"classes": 10, **recipe.config})
        with_recipe.add(recipe.architecture)
    assert set(PRESETS) - with_recipe == {"convmixer_48_6_2k"}  # for first steps


def test_every_protocol_is_used():
    bases = [path.read_text() for path in catalogue("pipelines").rglob("*.toml")]
    for path in (catalogue("pipelines") / "protocols").iterdir():
        if path.stem != "published_augmentation":  # an option
            assert any(f'{path.name}"' in text for text in bases), path.name


def test_published_protocols():
    convmixer = load_recipe("kernel_sharing/convmixer_256_16_2k").training
    assert (convmixer.epochs, convmixer.batch_size, convmixer.lr) == (200, 128, 0.01)
    assert (convmixer.optimizer, convmixer.schedule) == ("adamw", "cosine")
    published = read_overlay("protocols/published_augmentation")
    strong = load_recipe("kernel_sharing/convmixer_256_16_2k", published).training
    assert (strong.mixup, strong.cutmix, strong.erasing, strong.label_smoothing) == (0.5, 0.5, 0.25, 0.1)
    assert strong.epochs == 200 and strong.randaugment == 9
    se_resnet = load_recipe("kernel_sharing/se_resnet_d4_shared").training
    assert (se_resnet.epochs, se_resnet.lr, se_resnet.optimizer) == (256, 0.1, "sgd")
    assert se_resnet.milestones == (85, 130, 180)
    assert load_recipe("shardnet/sl_vggnet_256").training.schedule == "plateau"


def test_a_recipe_by_name_by_repository_path_and_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder pipelines
    assert load_recipe("quickstart") == load_recipe("pipelines/quickstart.toml") == load_recipe("quickstart.toml")
    (tmp_path / "quickstart.toml").write_text(MINIMAL)
    assert load_recipe("quickstart.toml").description == "mine"


def test_defaults_of_a_minimal_recipe(tmp_path):
    recipe = read(tmp_path, MINIMAL)
    assert (recipe.target.name, recipe.precisions) == ("onnx", ("fp32", "int8"))
    assert recipe.form is None and recipe.activations is None  # the target's
    assert (recipe.data_size, recipe.bench_runs, recipe.bench_warmup) == (None, 200, 20)
    swapped = read(tmp_path, MINIMAL + '[export]\nprecisions = ["int8", "fp32", "int8"]\n')
    assert swapped.precisions == ("fp32", "int8")


@pytest.mark.parametrize(
    ("target", "form", "layers", "int8_form"),
    [
        ("onnx", "rolled", "rolled", None),
        ("tflite", "cached", "cached", None),
        ("onnx", "qoperator", "unrolled", "qoperator"),
        ("onnx", "unrolled", "unrolled", None),
    ],
)
def test_a_form_is_of_layers_that_repeat_or_of_int8(tmp_path, target, form, layers, int8_form):
    recipe = read(tmp_path, MINIMAL + f"[export]\ntarget = '{target}'\nform = '{form}'\n")
    assert (recipe.target.layers, recipe.form) == (layers, int8_form)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "key 'model.architecture' is missing"),
        ("model.architecture = 'convmixer'", "key 'data.source' is missing"),
        (
            MINIMAL + "[extra]\n",
            "unknown key 'extra'; legal keys here: model, description, data, train, qat, .*, bench",
        ),
        (changed('architecture = "convmixer_48_6_2k"', ""), "key 'model.architecture' is missing; legal: text"),
        (changed('architecture = "convmixer_48_6_2k"', "architecture = 5"), "key 'model.architecture': found 5"),
        (changed("[data]", "dim = 8\n[data]"), "unknown key 'model.dim'; legal keys here: architecture, config"),
        (changed("[data]", "config = 8\n[data]"), "key 'model.config': found 8; legal: a table"),
        (changed('source = "digits"', ""), "key 'data.source' is missing"),
        (changed("[train]", "size = 2\n[train]"), "key 'data.size': found 2; legal: a whole number, 4 to 4096"),
        (changed("epochs = 3", ""), "key 'train.epochs' is missing; legal: a whole number"),
        (changed("epochs = 3", 'epochs = "3"'), "epochs is '3'; legal: a whole number"),
        (MINIMAL + "epoch = 3", "unknown key 'train.epoch'; nearest: epochs; legal keys here: epochs, batch_size"),
        (MINIMAL + "distillation = 0.5", "key 'train.distillation': a recipe has no teacher to learn from; leave it"),
        (MINIMAL + "[qat]\ntemperature = 2", "key 'qat.temperature': a recipe has no teacher"),
        (MINIMAL + "lr = 'high'", "lr is 'high'; legal: a number"),
        (MINIMAL + 'optimizer = "adam"', "optimizer is 'adam'; legal: adamw, sgd"),
        (MINIMAL + 'augment = ["rotate"]', "augment is .*legal: a list of crop, resized_crop, flip"),
        (MINIMAL + "optimizer = [[1], {a = 2}]", "optimizer is"),
        (MINIMAL + "[export]\ntarget = 'rpi'", "key 'export.target': unknown target 'rpi'; legal: onnx"),
        (MINIMAL + "[export]\nprecisions = ['int4']", "key 'export.precisions': found .*each one of fp32, int8"),
        (MINIMAL + "[export]\nprecisions = []", "key 'export.precisions': found \\[\\]; legal: fp32, int8 or both"),
        (MINIMAL + "[export]\nform = 'QDQ'", "key 'export.form': found 'QDQ'; legal: qdq, qoperator, unrolled, r"),
        (
            MINIMAL + "[export]\nform = 'cached'",
            "key 'export.form': found 'cached'; legal: qdq, qoperator, unrolled, rolled",
        ),
        (
            MINIMAL + "[export]\ntarget = 'rpi-4-tflite'\nform = 'cached'",
            "key 'export.form': --form cached: the weight cache is XNNPACK's, in LiteRT",
        ),
        (
            MINIMAL + "[export]\ntarget = 'tflite'\nform = 'rolled'\nactivations = 'static'",
            "key 'export.form': --form rolled with static int8 activations",
        ),
        (
            MINIMAL + "[qat]\nepochs = 3\n[export]\ntarget = 'tflite'\nform = 'cached'",
            r"key 'export.form': --form cached has no scales of its own for each layer: leave \[qat\] out",
        ),
        (MINIMAL + "[bench]\nruns = 0", "key 'bench.runs': found 0; legal: a whole number, 1 to"),
        (MINIMAL + "[bench]\nrun = 1", "unknown key 'bench.run'; nearest: runs; legal keys here: runs, warmup"),
        (
            MINIMAL + "[export]\nactivations = 'none'",
            "'export.activations': found 'none'; legal: static, dynamic, float",
        ),
        (
            MINIMAL + "[export]\nform = 'qdq'\nactivations = 'float'",
            "key 'export.form': int8: form qdq is about static",
        ),
        (MINIMAL + "[qat]\nqat = 'off'", r"\[qat\]: qat is 'off'; legal: learned, moving_average"),
        (MINIMAL + "[qat]\nepoch = 3", "unknown key 'qat.epoch'; nearest: epochs; legal keys here: epochs"),
        (
            MINIMAL + "[export]\ntarget = 'tflite'\nform = 'qoperator'",
            "key 'export.form': int8: form qoperator is about ONNX",
        ),
        (MINIMAL + "[bench", "malformed TOML"),
    ],
)
def test_mistakes_are_named_with_file_key_and_legal_values(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nope", "nope.toml", "elsewhere/quickstart", "", "."])
def test_unknown_recipes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no recipe '.*'; legal: the path of a .toml file, or a name that .*quickstart"
    ):
        load_recipe(name)


def test_a_recipe_that_does_not_describe_itself_is_described_by_its_network(tmp_path):
    preset = changed('description = "mine"', "")
    assert read(tmp_path, preset).description == PRESETS["convmixer_48_6_2k"].description
    assert read(tmp_path, preset.replace("convmixer_48_6_2k", "convmixer")).description == "convmixer"


def test_qat_takes_from_train_what_it_does_not_say(tmp_path):
    recipe = read(tmp_path, MINIMAL + "batch_size = 48\n[qat]\nepochs = 2\nlr = 0.002\nfrozen_norm_epochs = 1\n")
    assert (recipe.qat.qat, recipe.qat.epochs, recipe.qat.lr, recipe.qat.frozen_norm_epochs) == ("learned", 2, 0.002, 1)
    assert recipe.qat.batch_size == recipe.training.batch_size == 48 and recipe.training.qat == "off"
    assert recipe.artefacts == ("fp32", "int8", "int8_qat")


def test_a_recipe_on_a_shipped_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("base = 'shardnet/e_vggnet_128.toml'\ntrain.epochs = 2\nmodel.config.channels = 8\n")
    recipe, shipped = read_recipe(path), load_recipe("shardnet/e_vggnet_128")
    assert (recipe.name, recipe.training.epochs, recipe.config) == ("mine", 2, {"channels": 8})
    assert (recipe.architecture, recipe.training.lr) == (shipped.architecture, shipped.training.lr)


def test_what_is_laid_over_a_recipe_is_named_where_it_is_wrong(tmp_path):
    over = [Layer({"train": {"epochs": 1}}, "--quick"), assignment("train.lr", "high", "--set train.lr")]
    with pytest.raises(ConfigError, match=r"--set train.lr: \[train\]: training: lr is 'high'"):
        load_recipe("quickstart", over)
    with pytest.raises(ConfigError, match=r"--set train.rate: unknown key 'train.rate'; legal keys here: epochs"):
        load_recipe("quickstart", [assignment("train.rate", 1, "--set train.rate")])
    with pytest.raises(ConfigError, match=r"--set model: key 'model': found 3; legal: a table"):
        load_recipe("quickstart", [assignment("model", 3, "--set model")])
    with pytest.raises(ConfigError, match=r"--with none.toml: no such file"):
        read_overlay("none.toml")
    assert load_recipe("quickstart", over[:1]).training.epochs == 1


def test_epochs_that_end_before_the_milestones_are_named_not_the_protocol():
    with pytest.raises(ConfigError, match=r"^--set train.epochs: .*epochs is 1, and milestones go to 180; legal"):
        load_recipe("kernel_sharing/se_resnet_d2_shared", [assignment("train.epochs", 1, "--set train.epochs")])


def test_a_rehearsal_is_of_one_epoch_and_adds_nothing(tmp_path):
    shipped = load_recipe("kernel_sharing/se_resnet_d2_shared", [QUICK])
    assert (shipped.training.epochs, shipped.training.milestones, shipped.qat) == (1, (), None)
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[qat]\nlr = 0.002\nfrozen_norm_epochs = 2\n")
    quick = read_recipe(path, [QUICK])
    assert (quick.training.epochs, quick.qat.epochs, quick.qat.frozen_norm_epochs, quick.qat.lr) == (1, 1, 0, 0.002)
    longer = read_recipe(path, [QUICK, assignment("train.epochs", 2, "--set train.epochs")])
    assert (longer.training.epochs, longer.qat.epochs) == (2, 1)


def test_a_mistake_in_a_base_is_named_there(tmp_path):
    (tmp_path / "base.toml").write_text(MINIMAL + "lr = 'high'\n")
    (tmp_path / "mine.toml").write_text("base = 'base.toml'\n")
    with pytest.raises(ConfigError, match=r"base.toml: \[train\]: training: lr is 'high'"):
        read_recipe(tmp_path / "mine.toml")


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match=r"shardnet/sl_vggnet_256"):
        load_recipe("sl_vggnet_256")
