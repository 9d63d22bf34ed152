"""What would lower the need: at most three suggestions, the one that saves the most RAM or flash first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeks.audit.compute import Compute
from edgeks.audit.flash import Flash
from edgeks.audit.onnxruntime.graph import IN_PLACE as ORT_IN_PLACE
from edgeks.audit.ram import RamPrediction
from edgeks.audit.sizes import in_kb, in_mb
from edgeks.audit.timeline import Arena, Timeline
from edgeks.audit.xnnpack.plan import IN_PLACE as XNNPACK_IN_PLACE
from edgeks.audit.xnnpack.plan import IN_PLACE_LATER as XNNPACK_IN_PLACE_LATER
from edgeks.runtime_profile import Profile
from edgeks.target import LiteRtSession

MOST = 3
LEAST_BYTES = 1000  # what saves less is not worth a line,
LEAST_SHARE = 0.01  # nor what saves less than this of what it is about: RAM, or the file
ERROR_BYTES, ERROR_SHARE = 1_000_000, 0.1  # how far a prediction may be off: profiles that are closer are alike
NEARLY = 1.02  # of two profiles that take as much, the one with fewer options
# Plain loops, which run the same everywhere: to check other kernels against, not to ship.
TOO_SLOW = (LiteRtSession(1, "reference"),)
Kind = Literal["profile", "in_place", "smaller_batch", "smaller_input", "form", "merge_copies", "roll"]
OF_THE_FILE = ("form", "merge_copies")  # the others lower RAM


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`saved_bytes`: of RAM, by the same rules as the prediction; of form and merge_copies, of the file."""

    kind: Kind
    text: str
    saved_bytes: int

    @property
    def resources(self) -> frozenset[Literal["flash", "ram"]]:
        """What it takes less of. A kernel stored once may be held several times, and int8 kernels packed per layer."""
        return frozenset({"flash" if self.kind in OF_THE_FILE else "ram"})


def suggest(
    flash: Flash,
    arena: Arena,
    compute: Compute,
    ram: Sequence[tuple[Profile, RamPrediction | None]],
    batch: int,
    by_edgeks: bool = False,
) -> tuple[Suggestion, ...]:
    """The three that save the most, given what is known of a file; `ram` has the profile that counts first.

    `by_edgeks`: edgeks wrote the file, and can write it in another form.
    """
    (now, first), *_ = ram
    peak = arena.peak.peak_bytes if arena.peak else 0
    whole_of = (
        (flash.file_bytes, [*_form(compute), *_copies(flash)]),
        (
            _needed(first) if first else peak,
            [
                *_profile(ram),
                *_activations(arena, batch, now),
                *(_roll(now, first, flash, compute) if first and by_edgeks else ()),
            ],
        ),
    )
    found = [
        suggestion
        for whole, some in whole_of
        for suggestion in some
        if suggestion.saved_bytes >= max(LEAST_BYTES, LEAST_SHARE * whole)
    ]
    return tuple(sorted(found, key=lambda suggestion: -suggestion.saved_bytes)[:MOST])


def _profile(ram: Sequence[tuple[Profile, RamPrediction | None]]) -> Iterator[Suggestion]:
    (now, first), *others = ram
    worth = [
        (profile, found)
        for profile, found in others
        if found is not None and profile.runtime == now.runtime and profile.session not in TOO_SLOW
    ]
    if first is None or not worth:
        return
    least_bytes = min(_needed(found) for _, found in worth)
    best, least = next(row for row in worth if _needed(row[1]) <= NEARLY * least_bytes)
    text = f"run it as {best.name} ({best.options}): predicted RAM {in_mb(_needed(least))}, not {in_mb(_needed(first))}"
    copies, fewer = (sum(kernel.copies for kernel in found.kernels if kernel.layers > 1) for found in (first, least))
    if copies > fewer:
        text += f"; {now.name} holds {copies} copies of shared kernels, {best.name} {fewer}"
    text += "; `edgeks bench` tells what it costs in time"
    saved = _needed(first) - _needed(least)
    if saved > max(ERROR_BYTES, ERROR_SHARE * _needed(first)):
        yield Suggestion("profile", text, saved)


def _roll(now: Profile, first: RamPrediction, flash: Flash, compute: Compute) -> Iterator[Suggestion]:
    """Layers of one shape that share a kernel as one loop, where the runtime packs that kernel for each of them.

    ONNX Runtime does so with codes; float kernels it folds, which another profile keeps it from. The scales of a
    .tflite file's static codes are no constants that a loop could gather.
    """
    integer = now.runtime == "onnxruntime"
    kinds = {kernel.constant for kernel in flash.shared if (kernel.dtype in ("int8", "uint8")) == integer}
    places: dict[str | None, set[object]] = defaultdict(set)
    for layer in compute.layers:
        places[layer.kernel].add((layer.op_type, layer.output_shape))
    copies = left = saved = 0
    for kernel in first.kernels:
        if kernel.kernel in kinds and kernel.copies > 1:
            loops = min(kernel.copies, max(1, len(places[kernel.kernel])))
            copies, left = copies + kernel.copies, left + loops
            saved += (kernel.copies - loops) * kernel.copy_bytes
    what = "export it with --form rolled"
    if integer:
        what += ", or for a target with kernel_zero_point = -1"
    text = f"{what}: {now.name} packs {copies} copies of shared kernels, then about {left}: {in_mb(saved)} less packed"
    yield Suggestion("roll", text, saved)


def _needed(found: RamPrediction) -> int:
    return max(found.run_peak.total_bytes, found.load_peak_bytes or 0)


def _activations(arena: Arena, batch: int, profile: Profile) -> Iterator[Suggestion]:
    peak, timeline = arena.peak, arena.timeline
    if peak is None:
        return
    yield from _in_place(timeline, profile) if timeline and timeline.moments else ()
    if batch > 1:
        saved = peak.peak_bytes - peak.peak_bytes // batch
        yield Suggestion(
            "smaller_batch", f"export it for a batch of 1, not {batch}: activations {in_mb(saved)} less", saved
        )
    # Of the batch: a kernel that is dequantised is alive as well, and no smaller for a smaller image.
    maps = [t for t in peak.alive if len(t.shape) == 4 and t.shape[0] == batch and min(t.shape[1:]) > 1]
    if maps:
        saved = sum(tensor.size_bytes for tensor in maps) * 3 // 4
        text = f"feed images (or tiles) of half the height and width: about {in_mb(saved)} less at the peak"
        yield Suggestion("smaller_input", text, saved)


def _in_place(timeline: Timeline, profile: Profile) -> Iterator[Suggestion]:
    """Ops computed in place of an input, those at the peak first: what the runtime does of itself saves nothing."""
    done = _done_in_place(profile)
    left = [m.live_bytes - (0 if m.op_type in done else m.in_place_bytes) for m in timeline.moments]
    top, rest = timeline.moments[timeline.peak], max(left)
    others = sum(m.live_bytes > rest for m in timeline.moments) - 1
    what = f"{top.op_type} {top.node!r}" + (f" and {others} more" if others else "")
    saved = top.live_bytes - rest
    yield Suggestion("in_place", f"{what} in place of the input: activations {in_kb(saved)} less at the peak", saved)


def _done_in_place(profile: Profile) -> frozenset[str]:
    """Ops that the runtime writes over their input already; what the TFLite planner does so is not in a timeline."""
    if not isinstance(profile.session, LiteRtSession):
        return ORT_IN_PLACE
    if profile.session.kernels != "xnnpack":
        return frozenset()
    return XNNPACK_IN_PLACE | XNNPACK_IN_PLACE_LATER if profile.runtime == "litert" else XNNPACK_IN_PLACE


def _form(compute: Compute) -> Iterator[Suggestion]:
    """Of the file only: what int8 takes in RAM depends on what the runtime packs, and may be more."""
    in_float = sum(layer.macs for layer in compute.layers if layer.precision == "fp32")
    saved = compute.weight_bytes - compute.parameters
    if in_float > 0.9 * compute.macs:
        text = f"export it as int8: about {in_mb(saved)} less in the file (what it takes in RAM, its own audit tells)"
        yield Suggestion("form", text, saved)


def _copies(flash: Flash) -> Iterator[Suggestion]:
    wasted = sum(copies.wasted_bytes for copies in flash.copies)
    if wasted:
        count = sum(len(copies.constants) - 1 for copies in flash.copies)
        text = f"store once what is stored {count} times more than it needs to be: {in_mb(wasted)} less in the file"
        yield Suggestion("merge_copies", text, wasted)
