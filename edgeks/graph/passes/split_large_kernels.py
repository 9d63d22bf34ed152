"""Depthwise kernels that XNNPACK has no fast path for, as a sum of smaller dilated ones (docs/adr/0014)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, required
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer, replace_node
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.wording import counted

TILE = "#tile"  # `stem#tile0`: the first tile of layer, kernel or group `stem`
# Sizes of XNNPACK's depthwise microkernels; one with fewer taps takes the time of the next size.
MICROKERNEL_TAPS = (3, 4, 9, 25)
MAX_TAPS = MICROKERNEL_TAPS[-1]
ADD_IN_TAPS = 1.0  # what adding one tile costs, in taps: orders the measured tilings as they were (docs/adr/0014)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Taps first, first + step, …, along every axis of the map."""

    first: tuple[int, ...]
    step: tuple[int, ...]

    @property
    def taps(self) -> tuple[slice, ...]:
        return tuple(slice(first, None, step) for first, step in zip(self.first, self.step, strict=True))


@dataclass(frozen=True, slots=True)
class _Window:
    """What a convolution reads of the map, per axis: taps, distance of two taps, padding at begin and end."""

    size: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def pads_of(self, tile: _Tile) -> list[tuple[int, int]]:
        """What to pad (or, where negative, to crop) ahead of a tile so that it gives the layer's own map."""
        pads = []
        for axis, (begin, end) in enumerate(self.pads):
            taps = range(tile.first[axis], self.size[axis], tile.step[axis])
            pads.append(
                (begin - self.dilation[axis] * taps[0], end - self.dilation[axis] * (self.size[axis] - 1 - taps[-1]))
            )
        return pads


def split_large_kernels(model: ir.Model, plan: SharingPlan) -> tuple[SharingPlan, str]:
    """Depthwise Conv(x, W, b) with more than 25 taps → Σ_n Conv(x, W_n) of at most 25 taps each, and the plan for it.

    W_n holds every d-th tap of W along each axis and is read with a dilation d times the layer's; d is what costs
    least (`tiling`). Exact up to the order of summation. A shared kernel becomes tiles that its layers share: layer `l`
    of group `g` becomes the layers `l#tile0`, `l#tile1` … of the groups `g#tile0`, `g#tile1` …; b goes to the first.
    Kernels that are also read otherwise, and those with more outputs than inputs (which XNNPACK does not compute as a
    depthwise convolution at all), stay.
    """
    nodes: dict[ir.Value, list[ir.Node]] = {}
    for read in kernel_reads(model):
        if read.dequantize is None and read.node.inputs[1] is read.kernel:
            nodes.setdefault(read.kernel, []).append(read.node)
    tiles_of: dict[str, list[tuple[int, ...]]] = {}  # layer → shapes of its tiles
    kept: list[str] = []
    split = 0
    for kernel, layers in nodes.items():
        if not _is_large(kernel, layers):
            continue
        size = array(kernel).shape[2:]
        tiles = tiling(size)
        windows = [window for node in layers if (window := _window(node, size)) is not None]
        reason = _why_not(kernel, layers)
        if reason is None and (len(windows) < len(layers) or not all(map(_crops_fit, layers, windows, repeat(tiles)))):
            reason = "its map is smaller than what a tile leaves out, or of unknown size"
        if reason:
            kept.append(f"{layers[0].name} ({reason})")
            continue
        made = [_tile_kernel(model, kernel, number, tile) for number, tile in enumerate(tiles)]
        for node, window in zip(layers, windows, strict=True):
            _split(model, node, window, list(zip(tiles, made, strict=True)))
            tiles_of[str(node.name)] = [array(tile).shape for tile in made]
        split += 1
    drop_unused_initializers(model)
    note = (
        f"{counted(split, 'kernel')} of {counted(len(tiles_of), 'layer')} split into tiles of at most {MAX_TAPS} taps"
    )
    return _plan_of_tiles(plan, tiles_of), note + (f"; kept whole: {', '.join(kept)}" if kept else "")


def is_tile(name: str) -> bool:
    """Whether a layer, kernel or group is part of one that was split."""
    return TILE in name


def whole(name: str) -> str:
    """`stem#tile0` → `stem`; the name itself where it is no tile's."""
    return name.partition(TILE)[0]


def tiling(size: tuple[int, ...]) -> list[_Tile]:
    """Taps per axis → the tiles that cost XNNPACK least, together every tap once.

    With steps of up to half the kernel, no tile of a layer that keeps the size of its map needs a crop.
    """
    steps = min(itertools.product(*(range(1, taps // 2 + 2) for taps in size)), key=lambda steps: _cost(size, steps))
    return [_Tile(first, steps) for first in itertools.product(*map(range, steps))]


def _cost(size: tuple[int, ...], steps: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    """Taps that the microkernels compute, and what adding tiles costs; ties go to fewer tiles along the last axis."""
    phases = [
        Counter(len(range(first, taps, step)) for first in range(step)) for taps, step in zip(size, steps, strict=True)
    ]
    cost = -ADD_IN_TAPS
    for of_axes in itertools.product(*(phase.items() for phase in phases)):
        taps, count = math.prod(n for n, _ in of_axes), math.prod(c for _, c in of_axes)
        fitting = [fast for fast in MICROKERNEL_TAPS if fast >= taps]
        cost += count * ((fitting[0] if fitting else math.inf) + ADD_IN_TAPS)
    return cost, steps[::-1]


def _is_large(kernel: ir.Value, layers: list[ir.Node]) -> bool:
    """Depthwise, over a line or a map, with more taps than a microkernel takes."""
    shape = array(kernel).shape
    grouped = all(node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1 for node in layers)
    return grouped and len(shape) in (3, 4) and shape[1] == 1 and math.prod(shape[2:]) > MAX_TAPS


def _why_not(kernel: ir.Value, layers: list[ir.Node]) -> str | None:
    if any(node.attributes.get_int("group", 1) != array(kernel).shape[0] for node in layers):
        return "more outputs than inputs"
    if len(kernel.uses()) != len(layers) or kernel.is_graph_output():
        return "its kernel is also read by other ops"
    return None


def _tile_kernel(model: ir.Model, kernel: ir.Value, number: int, tile: _Tile) -> ir.Value:
    """`dw.weight` → `dw#tile3.weight`."""
    name = str(kernel.name).removesuffix(".weight")
    suffix = str(kernel.name)[len(name) :]
    content = np.ascontiguousarray(array(kernel)[(slice(None), slice(None), *tile.taps)])
    made = new_initializer(model, f"{name}{TILE}{number}{suffix}", content)
    carry_marks(kernel, made)
    return made


def _split(model: ir.Model, node: ir.Node, window: _Window, tiles: list[tuple[_Tile, ir.Value]]) -> None:
    """Put the tiles and their sum where `node` is."""
    source, result = required(node.inputs[0]), node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    made: list[ir.Node] = []
    total: ir.Value | None = None
    for number, (tile, kernel) in enumerate(tiles):
        name = f"{node.name}{TILE}{number}"
        pads = window.pads_of(tile)
        cropped = _crop(model, source, pads, name)
        made += cropped
        inputs: list[ir.Value | None] = [cropped[-1].outputs[0] if cropped else source, kernel]
        if number == 0 and bias is not None:
            inputs.append(bias)
        attributes: dict[str, ir.Attr] = {
            k: v for k, v in node.attributes.items() if k not in ("auto_pad", "kernel_shape")
        }
        dilations = [d * step for d, step in zip(window.dilation, tile.step, strict=True)]
        attributes["dilations"] = ir.AttrInt64s("dilations", dilations)
        attributes["pads"] = ir.AttrInt64s("pads", [max(p, 0) for p in (*(b for b, _ in pads), *(e for _, e in pads))])
        made.append(_node("Conv", inputs, name, result, attributes))
        if total is not None:
            made.append(_node("Add", [total, made[-1].outputs[0]], f"{node.name}#sum{number}", result))
        total = made[-1].outputs[0]
    replace_node(model, node, made)


def _node(
    op: str, inputs: list[ir.Value | None], name: str, like: ir.Value, attributes: dict[str, ir.Attr] | None = None
) -> ir.Node:
    made = ir.node(op, inputs, attributes=attributes, name=name)
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = f"{name}.out", like.shape, like.type
    return made


def _crops_fit(node: ir.Node, window: _Window, tiles: list[_Tile]) -> bool:
    """Whether something of the map is left where tiles crop it."""
    shape = required(node.inputs[0]).shape
    for axis, (begin, end) in itertools.chain.from_iterable(enumerate(window.pads_of(tile)) for tile in tiles):
        cropped = -min(begin, 0) - min(end, 0)
        length = None if shape is None else shape[axis + 2]
        if cropped and not (isinstance(length, int) and cropped < length):
            return False
    return True


def _crop(model: ir.Model, source: ir.Value, pads: list[tuple[int, int]], name: str) -> list[ir.Node]:
    """The Slice that leaves out what no tap of the tile reads; nothing where nothing is to be left out."""
    axes = [axis for axis, amounts in enumerate(pads) if min(amounts) < 0]
    if not axes:
        return []
    starts = np.array([max(-pads[axis][0], 0) for axis in axes])
    ends = np.array([min(pads[axis][1], 0) or np.iinfo(np.int64).max for axis in axes])
    constants = {"starts": starts, "ends": ends, "axes": np.array(axes) + 2}
    inputs = [new_initializer(model, f"{name}.{key}", value.astype(np.int64)) for key, value in constants.items()]
    crop = ir.node("Slice", [source, *inputs], name=f"{name}.crop")
    crop.outputs[0].name, crop.outputs[0].type = f"{name}.cropped", source.type
    sizes = list(source.shape or ())
    for axis in axes:
        sizes[axis + 2] += min(pads[axis][0], 0) + min(pads[axis][1], 0)
    crop.outputs[0].shape = ir.Shape(sizes)
    return [crop]


def _window(node: ir.Node, size: tuple[int, ...]) -> _Window | None:
    """Attributes of a Conv, defaults and auto_pad spelt out; None where auto_pad depends on an unknown size."""
    rank = len(size)
    dilation = tuple(node.attributes.get_ints("dilations", ()) or (1,) * rank)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    pads = tuple(node.attributes.get_ints("pads", ()) or (0,) * (2 * rank))
    if auto.startswith("SAME"):
        stride = node.attributes.get_ints("strides", ()) or (1,) * rank
        shape = required(node.inputs[0]).shape
        if shape is None or not shape.is_static():
            return None
        reach = [d * (taps - 1) + 1 for d, taps in zip(dilation, size, strict=True)]
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(shape.numpy()[2:], stride, reach, strict=True)]
        less = [t // 2 for t in total]
        more = [t - half for t, half in zip(total, less, strict=True)]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    return _Window(size, dilation, tuple(zip(pads[:rank], pads[rank:], strict=True)))


def _plan_of_tiles(plan: SharingPlan, tiles_of: dict[str, list[tuple[int, ...]]]) -> SharingPlan:
    """Every split group → one group per tile."""

    def of(groups: tuple[SharingGroup, ...]) -> tuple[SharingGroup, ...]:
        return tuple(tile for group in groups for tile in _groups_of_tiles(group, tiles_of.get(group.layers[0])))

    return replace(plan, groups=of(plan.groups), unshared=of(plan.unshared))


def _groups_of_tiles(group: SharingGroup, shapes: list[tuple[int, ...]] | None) -> list[SharingGroup]:
    if shapes is None:
        return [group]
    return [
        SharingGroup(
            f"{group.name}{TILE}{number}",
            tuple(f"{layer}{TILE}{number}" for layer in group.layers),
            tuple(shape),
            group.bias if number == 0 else "none",
        )
        for number, shape in enumerate(shapes)
    ]
