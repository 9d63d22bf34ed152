"""Recipes: the shipped ones load, and every mistake in a TOML is named with file, key and legal values."""

import tomllib

import pytest

from edgeks.errors import ConfigError
from edgeks.models.zoo import architecture
from edgeks.recipe import load_recipe, read_recipe, recipe_names
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


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_its_network_exists(name):
    recipe = load_recipe(name)
    data = tomllib.loads((catalogue("pipelines") / f"{name}.toml").read_text())
    assert recipe.name == name
    assert recipe.description == data["description"]
    assert recipe.training.epochs == data["train"]["epochs"]
    architecture(recipe.architecture, recipe.config)


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
        ("model.architecture = 'convmixer'", "key 'description' is missing"),
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
        (MINIMAL + "epoch = 3", "unknown key 'train.epoch'; legal keys here: epochs, batch_size"),
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
        (MINIMAL + "[bench]\nrun = 1", "unknown key 'bench.run'; legal keys here: runs, warmup"),
        (
            MINIMAL + "[export]\nactivations = 'none'",
            "'export.activations': found 'none'; legal: static, dynamic, float",
        ),
        (
            MINIMAL + "[export]\nform = 'qdq'\nactivations = 'float'",
            "key 'export.form': int8: form qdq is about static",
        ),
        (MINIMAL + "[qat]\nqat = 'off'", r"\[qat\]: qat is 'off'; legal: learned, moving_average"),
        (MINIMAL + "[qat]\nepoch = 3", "unknown key 'qat.epoch'; legal keys here: epochs"),
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


def test_qat_takes_from_train_what_it_does_not_say(tmp_path):
    recipe = read(tmp_path, MINIMAL + "batch_size = 48\n[qat]\nepochs = 2\nlr = 0.002\nfrozen_norm_epochs = 1\n")
    assert (recipe.qat.qat, recipe.qat.epochs, recipe.qat.lr, recipe.qat.frozen_norm_epochs) == ("learned", 2, 0.002, 1)
    assert recipe.qat.batch_size == recipe.training.batch_size == 48 and recipe.training.qat == "off"
    assert recipe.artefacts == ("fp32", "int8", "int8_qat")
