"""Networks of operators that move, pick, pad or repeat values."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from op_draws import Draw, an_axis, normal, order, pick, sizes
from op_network import OpNetwork
from torch.nn import functional as F


def splits(draw: Draw, count: int) -> list[int]:
    """A shape of `count` elements in all."""
    shape = []
    while count > 1 and len(shape) < 4:
        factor = draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0]))
        shape.append(factor)
        count //= factor
    return [*shape, count]


def reshape(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5, 6)
    after = [shape[0], *splits(draw, math.prod(shape[1:]))] if draw(st.booleans()) else splits(draw, math.prod(shape))
    written = list(after)
    if draw(st.booleans()):
        written[draw(st.integers(0, len(written) - 1))] = -1
    constants = {"shape": np.array(written, np.int64)}
    return OpNetwork(
        "y = Reshape(a, shape)", [shape], lambda a: a.reshape(after), constants, perm=order(draw, len(shape))
    )


def flatten(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    if draw(st.booleans()):  # ahead of a Linear layer, whose columns are permuted instead of the map
        width, out = math.prod(shape[1:]), draw(st.integers(1, 4))
        constants = {"W": normal(draw, out, width), "bias": normal(draw, out)}
        behind = pick(draw, "", "Relu")
        line = (
            f"flat = {'Relu' if behind else 'Identity'}(a)\n f = Flatten(flat)\n [layer] y = Gemm<transB=1>(f, W, bias)"
        )
        weight, bias = torch.from_numpy(constants["W"]), torch.from_numpy(constants["bias"])
        by_torch = lambda a: F.linear((torch.relu(a) if behind else a).flatten(1), weight, bias)  # noqa: E731
        return OpNetwork(line, [shape], by_torch, constants, perm=order(draw, len(shape)))
    axis = an_axis(draw, len(shape))
    rows = math.prod(shape[: axis % len(shape)])
    return OpNetwork(
        f"y = Flatten<axis={axis}>(a)", [shape], lambda a: a.reshape(rows, -1), perm=order(draw, len(shape))
    )


def squeeze(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = 1
    constants = {"axes": np.array([axis - len(shape) if draw(st.booleans()) else axis], np.int64)}
    return OpNetwork(
        "y = Squeeze(a, axes)", [shape], lambda a: a.squeeze(axis), constants, perm=order(draw, len(shape))
    )


def unsqueeze(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4)
    axis = draw(st.integers(0, len(shape)))
    constants = {"axes": np.array([axis - len(shape) - 1 if draw(st.booleans()) else axis], np.int64)}
    return OpNetwork(
        "y = Unsqueeze(a, axes)", [shape], lambda a: a.unsqueeze(axis), constants, perm=order(draw, len(shape))
    )


def transpose(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    perm = draw(st.permutations(range(len(shape))))
    if draw(st.booleans()):
        return OpNetwork(f"y = Transpose<perm={perm}>(a)", [shape], lambda a: a.permute(perm))
    return OpNetwork("y = Transpose(a)", [shape], lambda a: a.permute(*reversed(range(a.dim()))))


def concat(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    axis = an_axis(draw, len(shape))
    other = list(shape)
    other[axis] = draw(st.integers(1, 4))
    constants = {}
    parts = pick(draw, ("a", "b"), ("b", "a", "a"), ("a", "constant"))
    if "constant" in parts:
        constants["constant"] = normal(draw, *other)

    def by_torch(a, b=None):
        values = {"a": a, "b": b}
        return torch.cat([values[p] if p in values else torch.from_numpy(constants[p]) for p in parts], axis)

    shapes = [shape, other] if "b" in parts else [shape]
    return OpNetwork(
        f"y = Concat<axis={axis}>({', '.join(parts)})", shapes, by_torch, constants, perm=order(draw, len(shape))
    )


def slice_(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4, 6)
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=3, unique=True))
    starts, ends, steps, cuts = [], [], [], [slice(None)] * len(shape)
    for axis in axes:
        size = shape[axis]
        step = pick(draw, 1, 1, 2, 3, -1, -2)
        cut = range(draw(st.integers(-size, size - 1)), size)
        start = cut.start % size
        reach = pick(draw, 2**31, -(2**31)) if draw(st.booleans()) else draw(st.integers(-size, size))
        end = (2**40 if step > 0 else -(2**40)) if abs(reach) >= 2**31 else reach
        if len(np.arange(size)[start : None if end < -size else end : step]) == 0:
            end = 2**40 if step > 0 else -(2**40)
        starts, ends, steps = [*starts, cut.start], [*ends, end], [*steps, step]
        cuts[axis] = slice(start, None if end < -size else end, step)
    spelt = [axis - len(shape) if draw(st.booleans()) else axis for axis in axes]
    constants = {"starts": starts, "ends": ends, "axes": spelt, "steps": steps}
    constants = {name: np.array(numbers, np.int64) for name, numbers in constants.items()}
    by_torch = lambda a: torch.from_numpy(a.numpy()[tuple(cuts)].copy())  # noqa: E731  # torch has no negative steps
    return OpNetwork(
        "y = Slice(a, starts, ends, axes, steps)", [shape], by_torch, constants, perm=order(draw, len(shape))
    )


def split(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4)
    axis = an_axis(draw, len(shape))
    parts = sizes(draw, 2, 3, 3)
    shape[axis] = sum(parts)
    names = ", ".join(f"y{index}" for index in range(len(parts)))
    constants = {"parts": np.array(parts, np.int64)}
    text = f"{names} = Split<axis={axis}>(a, parts)"
    by_torch = lambda a: torch.split(a, parts, axis)  # noqa: E731
    return OpNetwork(text, [shape], by_torch, constants, perm=order(draw, len(shape)), outputs=len(parts))


def gather(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    axis = an_axis(draw, len(shape))
    size = shape[axis]
    picked = np.array(draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=4)), np.int64)
    if draw(st.booleans()):
        picked = picked[0]
    by_torch = lambda a: torch.from_numpy(np.take(a.numpy(), picked, axis))  # noqa: E731
    return OpNetwork(
        f"y = Gather<axis={axis}>(a, i)", [shape], by_torch, {"i": np.array(picked)}, perm=order(draw, len(shape))
    )


def pad(draw: Draw) -> OpNetwork:
    mode = pick(draw, "constant", "constant", "reflect", "edge")
    shape = sizes(draw, 2, 4)
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=3, unique=True))
    most = [min(shape[axis] - 1, 3) if mode == "reflect" else 3 for axis in axes]
    low, high = ([draw(st.integers(0, m)) for m in most] for _ in range(2))
    pairs = [(0, 0)] * len(shape)
    for axis, *pair in zip(axes, low, high, strict=True):
        pairs[axis] = tuple(pair)
    value = pick(draw, 0.0, 0.5, -2.0) if mode == "constant" else 0.0
    constants = {
        "amounts": np.array([*low, *high], np.int64),
        "value": np.float32(value),
        "axes": np.array([axis - len(shape) if draw(st.booleans()) else axis for axis in axes], np.int64),
    }
    more = {"constant_values": value} if mode == "constant" else {}
    by_torch = lambda a: torch.from_numpy(np.pad(a.numpy(), pairs, mode, **more))  # noqa: E731
    line = f'y = Pad<mode="{mode}">(a, amounts, value, axes)'
    return OpNetwork(line, [shape], by_torch, constants, perm=order(draw, len(shape)))


def resize(draw: Draw) -> OpNetwork:
    shape = [pick(draw, 1, 2), *sizes(draw, 3, 3, 4)]
    kind = pick(draw, "nearest", "nearest, half-pixel", "half-pixel", "torch's half-pixel", "aligned")
    size = [draw(st.integers(2, 9)) for _ in range(2)]
    if kind == "nearest, half-pixel":
        size = [n * draw(st.integers(1, 3)) for n in shape[2:]]
    attributes, how = {
        "nearest": ('mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
                    {"mode": "nearest"}),
        "nearest, half-pixel": ('mode="nearest", coordinate_transformation_mode="half_pixel"',
                                {"mode": "nearest-exact"}),
        "half-pixel": ('mode="linear", coordinate_transformation_mode="half_pixel"', {"mode": "bilinear"}),
        "torch's half-pixel": ('mode="linear", coordinate_transformation_mode="pytorch_half_pixel"',
                               {"mode": "bilinear"}),
        "aligned": ('mode="linear", coordinate_transformation_mode="align_corners"',
                    {"mode": "bilinear", "align_corners": True}),
    }[kind]  # fmt: skip
    constants = {"sizes": np.array([*shape[:2], *size], np.int64)}
    by_torch = lambda a: F.interpolate(a, size, **how)  # noqa: E731
    return OpNetwork(f"y = Resize<{attributes}>(a, , , sizes)", [shape], by_torch, constants, perm=order(draw, 4))


def depth_to_space(draw: Draw) -> OpNetwork:
    block, mode = pick(draw, 1, 2, 3), pick(draw, "DCR", "CRD")
    n, c, h, w = sizes(draw, 4, 4, 3)
    shape = [n, c * block * block, h, w]

    def by_torch(a):
        if mode == "CRD":
            return F.pixel_shuffle(a, block)
        parts = a.reshape(n, block, block, c, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c, h * block, w * block)

    line = f'y = DepthToSpace<blocksize={block}, mode="{mode}">(a)'
    return OpNetwork(line, [shape], by_torch, perm=order(draw, 4))


def tile(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4)
    repeats = [draw(st.integers(1, 3)) for _ in shape]
    constants = {"repeats": np.array(repeats, np.int64)}
    return OpNetwork(
        "y = Tile(a, repeats)", [shape], lambda a: a.repeat(repeats), constants, perm=order(draw, len(shape))
    )


def expand(draw: Draw) -> OpNetwork:
    after = sizes(draw, 2, 4)
    before = [pick(draw, size, 1) for size in after[draw(st.integers(0, len(after) - 1)) :]]
    constants = {"shape": np.array(after, np.int64)}
    perm = order(draw, len(before))
    return OpNetwork("y = Expand(a, shape)", [before], lambda a: a.expand(after).contiguous(), constants, perm=perm)
