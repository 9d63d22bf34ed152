"""A run's folder: a finished stage is reused while what went in and what came out is unchanged, and only then."""

import json

import pytest

from edgeks.errors import DataError, OutputError
from edgeks.run_folder import STATE_FILE, RunFolder, Stage


class Counter:
    """A stage that writes two files and counts how often it ran."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0

    def stage(self, name="train", **inputs):
        return Stage(name, inputs, ("model.bin", "log.json"), self.action)

    def action(self):
        self.runs += 1
        (self.folder.path / "model.bin").write_bytes(b"weights")
        self.folder.write_json("log.json", {"loss": 0.5})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "one")


@pytest.fixture
def counter(folder):
    counter = Counter(folder)
    assert folder.run(counter.stage(lr=0.1)) is False
    return counter


def test_a_finished_stage_is_reused_also_by_the_next_process(folder, counter):
    assert folder.run(counter.stage(lr=0.1)) is True
    assert RunFolder(folder.path).run(counter.stage(lr=0.1)) is True
    assert counter.runs == 1
    assert folder.read_json("log.json") == {"loss": 0.5}


def test_the_order_of_inputs_does_not_matter_and_their_values_do(folder):
    counter = Counter(folder)
    folder.run(counter.stage(a=1, b=[1, 2]))
    assert folder.run(counter.stage(b=[1, 2], a=1)) is True
    assert folder.run(counter.stage(a=1, b=[2, 1])) is False
    assert folder.run(counter.stage(a=1, b=[1, 2])) is False  # the files are of the other run by now
    assert counter.runs == 3


@pytest.mark.parametrize("name", ["model.bin", "log.json"])
def test_a_changed_or_deleted_output_runs_again(folder, counter, name):
    path = folder.path / name
    path.write_bytes(path.read_bytes() + b" ")
    assert folder.run(counter.stage(lr=0.1)) is False
    path.unlink()
    assert folder.run(counter.stage(lr=0.1)) is False
    path.unlink()
    path.mkdir()
    with pytest.raises((OSError, OutputError)):
        folder.run(counter.stage(lr=0.1))
    path.rmdir()
    assert folder.run(counter.stage(lr=0.1)) is False


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"train": []}', '{"train": {"key": 1}}', '{"train": {}}', "\x00\xff"],
)
def test_a_damaged_state_runs_again_and_is_mended(folder, counter, text):
    (folder.path / STATE_FILE).write_text(text, encoding="latin-1")
    assert folder.run(counter.stage(lr=0.1)) is False
    assert folder.run(counter.stage(lr=0.1)) is True
    assert counter.runs == 2


@pytest.mark.parametrize("outputs", [None, [], {}, "model.bin", {"model.bin": 5, "log.json": None}])
def test_a_state_with_wrong_digests_runs_again(folder, counter, outputs):
    state = json.loads((folder.path / STATE_FILE).read_text())
    state["train"]["outputs"] = outputs
    (folder.path / STATE_FILE).write_text(json.dumps(state))
    assert folder.run(counter.stage(lr=0.1)) is False


def test_a_stage_that_raises_is_not_finished_and_harms_no_other(folder, counter):
    def fail():
        (folder.path / "half.bin").write_bytes(b"half")
        raise DataError("no data")

    for _ in range(2):
        with pytest.raises(DataError):
            folder.run(Stage("export", {}, ("half.bin",), fail))
    assert folder.run(counter.stage(lr=0.1)) is True
    assert folder.run(Stage("export", {}, ("half.bin",), lambda: None)) is False


def test_stages_are_kept_apart(folder, counter):
    assert folder.run(counter.stage("other", lr=0.1)) is False
    assert folder.run(counter.stage(lr=0.1)) is True
    assert counter.runs == 2


def test_how_a_stage_differs_from_the_one_that_was_finished(folder, counter):
    assert folder.difference(counter.stage(lr=0.1)) == folder.difference(counter.stage("other", lr=0.2)) == ""
    assert folder.difference(counter.stage(lr=0.2, data="a" * 64)) == "other data, lr 0.1 (now 0.2)"
    folder.run(counter.stage(settings={"augment": ("crop",), "epochs": 3}))
    assert folder.difference(counter.stage(settings={"augment": ("crop",), "epochs": 2})) == "epochs 3 (now 2)"
    state = json.loads((folder.path / STATE_FILE).read_text())
    del state["train"]["inputs"]  # as an older edgeks wrote it
    (folder.path / STATE_FILE).write_text(json.dumps(state))
    assert folder.difference(counter.stage(lr=0.1)) == "other settings or data"


def test_what_is_discarded_takes_with_it_what_was_made_of_it(folder, counter):
    def made(name, source):
        action = lambda: (folder.path / name).write_text(name)  # noqa: E731
        folder.run(Stage(name, {"source": folder.digest(source)}, (name,), action))

    made("export", "model.bin")
    made("report", "export")
    (folder.path / "mine").write_text("mine")
    made("other", "mine")
    folder.discard("train")
    assert {path.name for path in folder.path.iterdir()} == {STATE_FILE, "mine", "other"}
    assert list(json.loads((folder.path / STATE_FILE).read_text())) == ["other"]
    folder.discard("train")  # nothing is left of it


def test_nothing_outside_the_folder_is_discarded(folder, counter):
    (folder.path.parent / "outside").write_text("")
    state = json.loads((folder.path / STATE_FILE).read_text())
    state["train"]["outputs"] = {"../outside": "", "..": "", "": "", "model.bin": 1}
    (folder.path / STATE_FILE).write_text(json.dumps(state))
    folder.discard("train")
    assert (folder.path.parent / "outside").exists() and not (folder.path / "model.bin").exists()


def test_a_path_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="cannot be made into a run folder"):
            RunFolder(path)
