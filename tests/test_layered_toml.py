"""A TOML file on its bases: what wins, and which file a mistake is reported in."""

import pytest

from edgeks.errors import ConfigError
from edgeks.layered_toml import Layer, assignment, merged, read_layers


def beside(base, path):
    found = path.parent / base
    return found if found.is_file() else None


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def test_tables_are_merged_key_by_key_and_lists_replaced(tmp_path):
    write(
        tmp_path,
        grandparent="[train]\nepochs = 9\nlr = 0.1\naugment = ['crop', 'flip']\n",
        parent="base = 'grandparent.toml'\n[train]\nlr = 0.2\n",
        child="base = 'parent.toml'\ntrain.augment = ['crop']\n",
    )
    layers = read_layers(tmp_path / "child.toml", beside)
    assert [layer.origin.rpartition("/")[2] for layer in layers] == ["grandparent.toml", "parent.toml", "child.toml"]
    root = merged([*layers, assignment("train.epochs", 1, "--set")], tmp_path / "child.toml")
    assert root.table("train").values() == {"epochs": 1, "lr": 0.2, "augment": ["crop"]}


def test_a_mistake_is_reported_in_the_file_that_it_is_in(tmp_path):
    write(
        tmp_path,
        parent="odd = 1\n[train]\nlr = 'high'\nepochs = 3\n[bench]\nruns = 1\n",
        child="base = 'parent.toml'\n[train]\nepochs = 'many'\n",
    )
    root = merged(read_layers(tmp_path / "child.toml", beside), tmp_path / "child.toml")
    train = root.table("train")
    with pytest.raises(ConfigError, match=r"parent.toml: key 'train.lr': found 'high'"):
        train.number("lr")
    with pytest.raises(ConfigError, match=r"child.toml: key 'train.epochs': found 'many'"):
        train.integer("epochs")
    with pytest.raises(ConfigError, match=r"child.toml: key 'bench.warmup' is missing"):
        root.table("bench").integer("warmup")
    with pytest.raises(ConfigError, match=r"parent.toml: unknown key 'odd'"):
        root.finish()


def test_a_value_may_replace_a_table_and_a_table_a_value(tmp_path):
    root = merged([Layer({"a": {"b": 1}, "c": 2}, "first"), Layer({"a": 3, "c": {"d": 4}}, "second")], tmp_path)
    assert root.integer("a") == 3
    assert root.table("c").integer("d") == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"child": "base = 'child.toml'"}, "key 'base': .*child.toml is this file, or has it as its base"),
        ({"child": "base = 'b.toml'", "b": "base = 'child.toml'"}, "b.toml: key 'base': .*child.toml is this file"),
        ({"child": "base = 'none.toml'"}, "child.toml: key 'base': found 'none.toml'; legal: the path of a .toml file"),
        ({"child": "base = ['a.toml']"}, r"key 'base': found \['a.toml'\]"),
        ({"child": "base = ''"}, "key 'base': found ''"),
        ({"child": "base = 'b.toml'", "b": "[broken"}, "b.toml: malformed TOML"),
        ({"child": "base = '0.toml'", **{str(i): f"base = '{i + 1}.toml'" for i in range(12)}}, "more than 8 bases"),
    ],
)
def test_bases_that_cannot_be(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=message) as caught:
        read_layers(tmp_path / "child.toml", beside)
    assert "\n" not in str(caught.value)


def test_tables_without_end(tmp_path):
    nested: dict = {}
    for _ in range(5000):
        nested = {"a": nested}
    with pytest.raises(ConfigError, match=r"child.toml: has tables within tables without end"):
        merged([Layer(nested, "child.toml")], tmp_path / "child.toml")


def test_a_key_of_many_thousand_parts_takes_no_memory(tmp_path):
    write(tmp_path, child=".".join(["a"] * 40_000) + " = 1")
    with pytest.raises(ConfigError, match=r"child.toml: has a line of more than 1000 characters"):
        read_layers(tmp_path / "child.toml", beside)


@pytest.mark.parametrize("key", ["", ".", "train.", ".lr"])
def test_a_key_with_an_empty_part(key):
    with pytest.raises(ConfigError, match=r"--set: found the key .*; legal: a key of a recipe, such as train.epochs"):
        assignment(key, 1, "--set")
