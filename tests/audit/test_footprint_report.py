"""The report answers first, fits 100 columns, and says whether budgets hold; the JSON matches its page."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import footprint_reports as reports
import pytest
import small_graphs as graphs
from rich.console import Console

from edgeks.audit.diff import diff
from edgeks.audit.footprint import footprint
from edgeks.audit.footprint_json import SCHEMA, to_json
from edgeks.audit.report import render
from edgeks.audit.suggestions import Suggestion
from edgeks.errors import BudgetExceeded, ConfigError
from edgeks.measured_footprint import with_measurements
from edgeks.runtime_profile import MeasuredRam
from edgeks.target import load_target

PAGE = Path(__file__).parents[2] / "docs" / "footprint_schema.md"


@pytest.fixture
def path(tmp_path):
    return graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")


def text_of(result, width=100, changed=None):
    console = Console(file=io.StringIO(), width=width)
    render(result, console, changed)
    return console.file.getvalue()


def budgets(**bytes_of):
    return dataclasses.replace(load_target("rpi-zero-2w"), **bytes_of)


def test_answer_comes_first(path):
    first = " ".join(text_of(footprint(path)).split())
    assert re.match(
        r"net\.onnx: 4\.1 kB in flash, [\d.]+ MB RAM( while loading, [\d.]+ MB running)? \(ort-default\); "
        r"2 kernels for 5 layers, sharing saves 6\.9 kB; peak activations [\d.]+ kB at .*; "
        r"[\d.]+ k MACs, \d+ parameters",
        first,
    )


def test_a_verdict_comes_before_that(path):
    assert text_of(footprint(path, load_target("rpi-zero-2w"))).startswith(
        "fits rpi-zero-2w: flash 4.1 kB of 16.00 MB, RAM "
    )
    text = text_of(footprint(path, flash_budget=4000, ram_budget=1))
    assert re.match(r"does not fit the budget: flash 4\.1 kB of 4\.0 kB \(\d+ B over\), RAM .* of 1 B \(", text)


def long_names():
    proto = graphs.fp32_shared(12)
    for node in proto.graph.node:
        node.name = f"backbone.stage.with.a.very.long.name.that.goes.on.and.on.{node.name}"
        for index, name in enumerate(node.input):
            if name == "kernel":
                node.input[index] = "kernel" * 30
    proto.graph.initializer[0].name = "kernel" * 30
    return proto


@pytest.mark.parametrize(
    "build", [graphs.fp32_shared, graphs.qdq, graphs.qoperator, graphs.loop, graphs.public_chain, long_names]
)
@pytest.mark.parametrize("width", [60, 100, 200])
def test_never_wider_than_the_console_or_100_columns(build, width, tmp_path):
    result = footprint(graphs.save(build(), tmp_path / "net.onnx"), load_target("rpi-zero-2w"))
    assert max(map(len, text_of(result, width).splitlines())) <= min(width, 100)


@pytest.mark.parametrize("name", ["[/x][bold]", "\x1b[2J\x1b]0;title\x07", "[link=http://a]b"])
def test_names_in_a_file_do_not_steer_the_terminal(name, tmp_path):
    proto = graphs.fp32_shared()
    for node in proto.graph.node:
        node.name = f"{name}{node.name}"
        node.input[:] = [name if value == "kernel" else value for value in node.input]
    proto.graph.initializer[0].name = name
    text = text_of(footprint(graphs.save(proto, tmp_path / "net.onnx")))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert name.replace("\x1b", "�").replace("\x07", "�")[:20] in text


def test_budgets_that_hold(path):
    result = footprint(path, load_target("rpi-zero-2w"))
    assert result.fits
    result.require_fit()
    assert [check.resource for check in result.budgets] == ["flash", "ram"]
    assert "fits rpi-zero-2w" in text_of(result)
    first = result.ram[0]
    assert first.profile.name == "rpi-zero-2w"
    assert result.ram_bytes == max(first.predicted.load_peak_bytes, first.predicted.run_peak.total_bytes)


@pytest.mark.parametrize(("resource", "key"), [("flash", "flash_budget_bytes"), ("ram", "ram_budget_bytes")])
def test_budgets_that_do_not_hold(resource, key, path):
    needed = next(check for check in footprint(path, budgets()).budgets if check.resource == resource).needed_bytes
    assert footprint(path, budgets(**{key: needed})).fits
    result = footprint(path, budgets(**{key: needed - 1}))
    assert not result.fits
    assert "does not fit rpi-zero-2w" in text_of(result)
    with pytest.raises(BudgetExceeded, match=f"{resource} {needed:,} bytes of {needed - 1:,}, 1 over"):
        result.require_fit()


def test_what_is_over_decides_what_is_suggested(path):
    for limits, hint in [({"flash_budget": 1000}, "export it as int8"), ({"ram_budget": 1000}, "share more kernels")]:
        with pytest.raises(BudgetExceeded, match=hint):
            footprint(path, **limits).require_fit()


def test_nothing_is_said_to_fit_where_nothing_is_limited(path):
    assert text_of(footprint(path, load_target("onnx"))).startswith("net.onnx: ")


def test_the_next_step_is_about_what_is_over(path):
    result = footprint(path, flash_budget=1)
    of_ram, of_flash = Suggestion("profile", "another runtime", 10**7), Suggestion("merge_copies", "store once", 10**6)
    with pytest.raises(BudgetExceeded, match=r"over; store once$"):
        dataclasses.replace(result, suggestions=(of_ram, of_flash)).require_fit()
    with pytest.raises(BudgetExceeded, match=r"over; share more kernels, or export int8$"):
        dataclasses.replace(result, suggestions=(of_ram,)).require_fit()


def test_limits_without_a_target_and_about_another_profile(path):
    needed = {row.profile.name: row.needed_bytes for row in footprint(path).ram}
    assert footprint(path, ram_budget=needed["ort-default"]).fits
    other = footprint(path, ram_budget=needed["ort-unfolded"] - 1, profile="ort-unfolded")
    assert not other.fits and other.ram[0].profile.name == "ort-unfolded"
    with pytest.raises(
        ConfigError, match="unknown profile 'ort'; legal: ort-default, ort-unfolded, ort-no-prepacking, ort-lean"
    ):
        footprint(path, profile="ort")
    with pytest.raises(ConfigError, match="is for tflite files; name one for onnx"):
        footprint(path, load_target("rpi-4-tflite"))


def measured(row, peak):
    figures = {field.name: peak for field in dataclasses.fields(MeasuredRam)}
    return MeasuredRam(**figures | {"profile": row.profile.name, "runtime_version": "1.0", "machine": "x86_64"})


def test_what_was_measured_stands_beside_and_decides(path):
    result = footprint(path, ram_budget=10_000_000)
    first, second, *_ = result.ram
    found = result.with_measured({first.profile.name: measured(first, 20_000_000), second.profile.name: "not here"})
    assert found.ram_bytes == 20_000_000 and not found.fits
    assert found.ram[0].error_bytes == first.predicted.run_peak.total_bytes - 20_000_000
    text = " ".join(text_of(found).split())
    assert "measured error" in text and " 20.0 " in text and "ort-unfolded not measured: not here" in text
    rows = to_json(found)["ram"]
    assert rows[0]["measured"]["run_peak_bytes"] == 20_000_000 and rows[2]["measured"] is None
    assert rows[1]["measured"] == {"failed": "not here"}


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_cuts_no_figure(width, tmp_path):
    result = footprint(graphs.save(long_names(), tmp_path / "net.onnx"))
    found = result.with_measured({row.profile.name: measured(row, 1_234_567_890) for row in result.ram})
    text = text_of(found, width)
    for row in found.ram:
        peak = f"{row.predicted.run_peak.total_bytes / 1e6:,.1f}"
        (line,) = (line for line in text.splitlines() if line.startswith(row.profile.name[:9]) and "%" in line)
        assert peak in line.split() and "1,234.6" in line.split()
        assert "…" not in line.split(maxsplit=1)[1]
    for kernel in found.flash.shared:
        assert f"{kernel.stored_bytes / 1e3:,.1f} kB" in text and f"{kernel.saved_bytes / 1e3:,.1f} kB" in text


def test_what_changed(path, tmp_path):
    old, new = footprint(graphs.save(graphs.public_chain(), tmp_path / "old.onnx")), footprint(path)
    changed = diff(old, new)
    rows = {row.what: row for row in changed.rows}
    assert rows["file"].change == new.flash.file_bytes - old.flash.file_bytes < 0
    assert rows["kernels"].change == new.flash.kernels - old.flash.kernels
    assert changed.groups_gained and not changed.groups_lost
    text = text_of(new, changed=changed)
    assert "newly shared" in text and "since old.onnx" in text
    assert max(map(len, text.splitlines())) <= 100
    measured_now = new.with_measured({new.ram[0].profile.name: measured(new.ram[0], 3)})
    ram = f"RAM {new.ram[0].profile.name}"
    assert next(row for row in diff(new, measured_now).rows if row.what == ram).change == 0  # predicted, both
    same = diff(new, new)
    assert all(row.change in (0, None) for row in same.rows) and not same.groups_gained


def test_a_prediction_is_not_held_against_a_measurement(path):
    result = footprint(path)
    found = result.with_measured({row.profile.name: measured(row, 99_000_000) for row in result.ram})
    for old, new, change in [(result, found, 0), (found, result, 0), (found, found, 0)]:
        assert [row.change for row in diff(old, new).rows if row.what.startswith("RAM")] == [change] * len(result.ram)
    assert [row.new for row in diff(found, found).rows if row.what.startswith("RAM")] == [99_000_000] * len(result.ram)


def test_no_budget_is_no_failure(path):
    result = footprint(path, load_target("onnx"))
    assert result.fits and result.is_known_to_fit
    result.require_fit()


def test_a_need_that_is_not_known_does_not_pass_a_budget(tmp_path):
    nodes = [graphs.helper.make_node("Relu", ["x"], ["y"], "relu")]
    proto = graphs.model(nodes, [], 1, None, input_shape=(8, "height", 6))
    result = footprint(graphs.save(proto, tmp_path / "open.onnx"), budgets(ram_budget_bytes=1))
    assert result.fits
    assert result.ram_bytes is None
    assert "flash fits rpi-zero-2w" in text_of(result) and "RAM unknown, limit 1 B" in text_of(result)
    with pytest.raises(BudgetExceeded, match="is not known to fit rpi-zero-2w: RAM under rpi-zero-2w is unknown; name"):
        result.require_fit()
    footprint(result.path, flash_budget=10**6).require_fit()  # RAM is not limited


def test_sizes_that_the_file_leaves_open_can_be_given(tmp_path):
    proto = graphs.fp32_shared()
    fixed = footprint(graphs.save(proto, tmp_path / "fixed.onnx"))
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    sizes = tuple(dim.dim_value for dim in dims)
    for index, name in enumerate(("batch", "channels", "height", "width")):
        if index != 1:
            dims[index].dim_param = name
    path = graphs.save(proto, tmp_path / "open.onnx")
    assert footprint(path).ram_bytes is None
    for name in ("", proto.graph.input[0].name):
        given = footprint(path, inputs={name: sizes})
        assert given.arena.peak.peak_bytes == fixed.arena.peak.peak_bytes
        assert given.compute.macs == fixed.compute.macs
        assert given.ram_bytes == pytest.approx(fixed.ram_bytes, rel=0.01)
    measured = with_measurements(given)
    assert all(row.measured for row in measured.ram)
    for wrong in ({"z": sizes}, {"": sizes[1:]}, {"": (sizes[0], 99, *sizes[2:])}):
        with pytest.raises(ConfigError, match=r"--input .*: (legal names: x|the file declares x=batchx8xheightxwidth)"):
            footprint(path, inputs=wrong)


def test_what_open_sizes_leave_unknown_is_said_and_summed_up(tmp_path):
    proto = graphs.fp32_shared()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    result = footprint(graphs.save(proto, tmp_path / "open.onnx"))
    assert result.compute.incomplete
    text = " ".join(text_of(result).split())
    assert "RAM cannot be predicted: the file leaves sizes open of input 'x': 1×8×height×6; name its sizes" in text
    assert "more than" in text.partition("RAM by")[0]
    assert text.count("the file does not say its shapes") == 1
    assert (
        "note: Conv 'blocks.0.conv', Conv 'blocks.1.conv' and 2 more: the file does not say its shapes; counted as 0"
        in text
    )
    assert sum("the file does not say its shapes" in note for note in result.compute.unknown) == 4


def test_a_name_in_a_sentence_is_cut_short(tmp_path):
    text = " ".join(text_of(footprint(graphs.save(long_names(), tmp_path / "net.onnx"))).split())
    assert len(text.partition(" at ")[2].partition(";")[0]) <= 48


def test_scaled_copies_are_called_lost_sharing(tmp_path):
    result = footprint(graphs.save(graphs.public_chain(), tmp_path / "net.onnx"))
    assert "sharing lost: 4 stored kernels are 1 up to a factor per channel" in " ".join(text_of(result).split())


def keys_of(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from keys_of(inner, f"{prefix}{key}.")
    elif isinstance(value, list) and value:
        yield from keys_of(value[0], f"{prefix[:-1]}[].")


@pytest.mark.parametrize("build", [graphs.fp32_shared, graphs.public_chain])
def test_json_has_exactly_the_documented_keys(build, tmp_path):
    path = graphs.save(build(), tmp_path / "net.onnx")
    other = footprint(graphs.save(graphs.qdq(), tmp_path / "old.onnx"))
    result = footprint(path, load_target("rpi-zero-2w"))
    result = result.with_measured({result.ram[0].profile.name: measured(result.ram[0], 1), "ort-default": "not here"})
    data = json.loads(json.dumps(to_json(result, diff(other, result))))
    assert data["schema"] == SCHEMA
    documented = set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    found = set(keys_of(data))
    assert found <= documented
    missing = documented - found
    empty = {
        "copies[].",
        "sharing_groups[].",
        "notes[].",
        "suggestions[].",
        "ram[].measured.failed",
        "session.kernels",
        "diff.groups_lost",
    }
    assert all(any(part in key for part in empty) for key in missing)


def test_the_reports_of_the_page_s_tests_have_documented_keys_only():
    documented = set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert set(keys_of(reports.report())) <= documented


def test_it_starts_without_torch_and_onnxruntime(path):
    code = (
        "import sys; from pathlib import Path; from edgeks.audit.footprint_json import to_json; "
        "from edgeks.audit.footprint import footprint; import edgeks.audit.onnx.proof; "
        f"to_json(footprint(Path({str(path)!r}))); "
        "print([name for name in ('torch', 'onnxruntime', 'onnx_ir') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
