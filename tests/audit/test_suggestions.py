"""What would lower the need: what applies is suggested with its bytes, what does not is not."""

import dataclasses

import small_graphs as graphs

from edgeks.audit.footprint import footprint
from edgeks.audit.suggestions import suggest
from edgeks.audit.timeline import Activation, Arena, Moment, Peak, Timeline


def kinds(result):
    return {suggestion.kind: suggestion for suggestion in result.suggestions}


def test_at_most_three_and_the_best_first(tmp_path):
    found = footprint(graphs.save(graphs.public_chain(), tmp_path / "net.onnx")).suggestions
    assert len(found) <= 3
    assert [each.saved_bytes for each in found] == sorted((each.saved_bytes for each in found), reverse=True)


def suggestions(result, arena, batch=1):
    return suggest(result.flash, arena, result.compute, [(row.profile, row.predicted) for row in result.ram], batch)


def test_in_place_saves_down_to_the_next_moment_at_most(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    moments = (Moment("conv", "Conv", 9_000_000), Moment("gelu", "Gelu", 90_000_000, 45_000_000))
    for next_highest, saved in ((9_000_000, 45_000_000), (80_000_000, 10_000_000)):
        timeline = Timeline((dataclasses.replace(moments[0], live_bytes=next_highest), moments[1]), 1, ())
        arena = Arena(Peak(90_000_000, "gelu", "Gelu", ()), (), timeline)
        first = suggestions(result, arena)[0]
        assert (first.kind, first.saved_bytes) == ("in_place", saved)
        assert "gelu" in first.text


def test_several_in_place_down_to_what_is_left(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    gelus = [Moment(f"gelu{index}", "Gelu", 90_000_000 - index, 40_000_000) for index in range(3)]
    arena = Arena(Peak(90_000_000, "gelu0", "Gelu", ()), (), Timeline((*gelus, Moment("c", "Conv", 60_000_000)), 0, ()))
    first = suggestions(result, arena)[0]
    assert (first.kind, first.saved_bytes) == ("in_place", 30_000_000)
    assert "'gelu0' and 2 more" in first.text


def test_what_the_runtime_does_in_place_of_itself_is_not_suggested(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    timeline = Timeline((Moment("relu", "Relu", 90_000_000, 45_000_000),), 0, ())
    arena = Arena(Peak(90_000_000, "relu", "Relu", ()), (), timeline)
    assert "in_place" not in {each.kind for each in suggestions(result, arena)}


def test_a_dequantised_kernel_is_no_smaller_for_a_smaller_image(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    alive = [
        Activation(name, shape, "float32", 4_000_000) for name, shape in (("map", (1, 8, 9, 9)), ("w", (8, 8, 3, 3)))
    ]
    arena = Arena(Peak(8_000_000, "conv", "Conv", tuple(alive)), ())
    assert {each.kind: each.saved_bytes for each in suggestions(result, arena)}["smaller_input"] == 3_000_000


def test_a_batch_is_said_to_cost(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    arena = Arena(Peak(80_000_000, "conv", "Conv", ()), ())
    first = suggestions(result, arena, batch=8)[0]
    assert (first.kind, first.saved_bytes) == ("smaller_batch", 70_000_000)
    assert "smaller_batch" not in {each.kind for each in suggestions(result, arena, batch=1)}


def test_a_profile_comes_with_its_options_and_a_trifle_is_not_suggested(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    (default, ram), (unfolded, _), (no_prepacking, _), _ = ((row.profile, row.predicted) for row in result.ram)

    def first(*rows):
        found = suggest(result.flash, Arena(None, ()), result.compute, [(default, taking(50_000_000)), *rows], 1)
        return next((each for each in found if each.kind == "profile"), None)

    def taking(size):
        heap = dataclasses.replace(ram.run_peak, heap_bytes=size - ram.run_peak.total_bytes + ram.run_peak.heap_bytes)
        return dataclasses.replace(ram, run_peak=heap, load_peak_bytes=0)

    alike = first((unfolded, taking(30_000_000)), (no_prepacking, taking(29_900_000)))
    assert alike.saved_bytes == 20_000_000 and "ort-unfolded (disabled_optimizers=['ConvBNFusion'" in alike.text
    assert (
        "add_session_config_entry('session.disable_prepacking', '1')" in first((no_prepacking, taking(9_000_000))).text
    )
    assert first((unfolded, taking(49_900_000))) is None  # 0.2 %
    assert first((dataclasses.replace(unfolded, runtime="another"), taking(1_000_000))) is None


def test_int8_is_said_to_lower_the_file_by_what_is_float_in_it(tmp_path):
    result = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    form = kinds(result)["form"]
    assert form.saved_bytes == 3 * result.compute.parameters and "less in the file" in form.text


def test_an_integer_file_is_not_told_to_become_one(tmp_path):
    floats = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"))
    integers = footprint(graphs.save(graphs.qdq(), tmp_path / "int8.onnx"))
    assert "form" in kinds(floats)
    assert "form" not in kinds(integers)
