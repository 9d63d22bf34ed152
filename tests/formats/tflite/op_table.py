"""Operator of the lowering table → networks of it: random shapes, strides, paddings, dilations, axes."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from op_network import OpNetwork
from torch.nn import functional as F

Draw = st.DrawFn
POSITIVE = ((0.1, 4.0), (0.5, 3.0))
BEHIND = {
    "": lambda y: y,
    "Relu": torch.relu,
    "Relu6": F.relu6,
    "Relu1": lambda y: y.clamp(-1, 1),
}


def normal(draw: Draw, *shape: int) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 1000))).standard_normal(shape).astype(np.float32)


def sizes(draw: Draw, least: int, most: int, largest: int = 6) -> list[int]:
    return draw(st.lists(st.integers(1, largest), min_size=least, max_size=most))


def pick(draw: Draw, *choices):
    return draw(st.sampled_from(choices))


def an_axis(draw: Draw, rank: int) -> int:
    return draw(st.integers(-rank, rank - 1))


def order(draw: Draw, rank: int):
    """Of the axes in which the operand is held; None mostly."""
    return pick(draw, None, None, draw(st.permutations(range(rank))))


def with_activation(draw: Draw, line: str, constants: dict) -> tuple[str, object]:
    """`line` writes %s; what is behind it may be fused."""
    name = draw(st.sampled_from(sorted(BEHIND)))
    if name == "":
        return line % "y", BEHIND[name]
    if name == "Relu":
        return f"{line % 'made'}\n y = Relu(made)", BEHIND[name]
    low, high = (0, 6) if name == "Relu6" else (-1, 1)
    constants |= {"low": np.float32(low), "high": np.float32(high)}
    return f"{line % 'made'}\n y = Clip(made, low, high)", BEHIND[name]


# Elementwise


def unary(function, ranges=((-3.0, 4.0),), attributes=""):
    def build(draw: Draw) -> OpNetwork:
        shape = sizes(draw, 2, 5)
        line = f"y = OP{attributes}(a)"
        return OpNetwork(line, [shape], function, ranges=ranges, perm=order(draw, len(shape)))

    return build


def gelu(draw: Draw) -> OpNetwork:
    how = pick(draw, "none", "tanh")
    return unary(lambda a: F.gelu(a, approximate=how), attributes=f'<approximate="{how}">')(draw)


def leaky_relu(draw: Draw) -> OpNetwork:
    alpha = pick(draw, 0.01, 0.2, 1.5)
    return unary(lambda a: F.leaky_relu(a, alpha), attributes=f"<alpha={alpha}>")(draw)


def elu(draw: Draw) -> OpNetwork:
    alpha = pick(draw, 1.0, 0.5)
    return unary(lambda a: F.elu(a, alpha), attributes=f"<alpha={alpha}>")(draw)


def hard_sigmoid(draw: Draw) -> OpNetwork:
    alpha, beta = pick(draw, (1 / 6, 0.5), (0.2, 0.5), (0.3, 0.2))
    swish = draw(st.booleans())
    network = unary(None, attributes=f"<alpha={alpha:.9f}, beta={beta}>")(draw)
    network.by_torch = lambda a: (alpha * a + beta).clamp(0, 1) * (a if swish else 1)
    if swish:
        network.text = network.text.replace("y =", "gate =") + f"\n y = Mul({pick(draw, 'a, gate', 'gate, a')})"
    return network


def clip(draw: Draw) -> OpNetwork:
    low, high = pick(draw, (0, 6), (-1, 1), (0, 1), (0, None), (-0.5, 1.5), (None, 2), (0.5, None), (None, None))
    constants = {k: np.float32(v) for k, v in (("low", low), ("high", high)) if v is not None}
    bounds = ["low" if low is not None else "", "high" if high is not None else ""]
    shape = sizes(draw, 2, 5)
    if low is None and high is None:
        return OpNetwork("y = Clip(a)", [shape], lambda a: a)
    line = f"y = Clip(a, {', '.join(bounds)})" if high is not None else "y = Clip(a, low)"
    return OpNetwork(line, [shape], lambda a: a.clamp(low, high), constants, perm=order(draw, len(shape)))


def prelu(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4)
    slope = normal(draw, pick(draw, shape[1], 1), *[1] * (len(shape) - 2))
    by_torch = lambda a: torch.where(a < 0, a * torch.from_numpy(slope), a)  # noqa: E731
    return OpNetwork("y = PRelu(a, slope)", [shape], by_torch, {"slope": slope})


def over_axis(function):
    def build(draw: Draw) -> OpNetwork:
        shape = sizes(draw, 2, 4)
        axis = an_axis(draw, len(shape))
        by_torch = lambda a: function(a, axis)  # noqa: E731
        return OpNetwork(f"y = OP<axis={axis}>(a)", [shape], by_torch, perm=order(draw, len(shape)))

    return build


def binary(function, ranges=((-3.0, 4.0), (-2.0, 3.0)), fused=True):
    def build(draw: Draw) -> OpNetwork:
        wide = sizes(draw, 2, 5)
        if len(wide) == 5:
            narrow = list(wide)
        else:
            kept = draw(st.integers(1 if draw(st.booleans()) else len(wide), len(wide)))
            narrow = [pick(draw, size, 1) for size in wide[len(wide) - kept :]]
        constants = {}
        first, second = pick(draw, ("a", "b"), ("b", "a"), ("a", "constant"), ("a", "a"))
        shapes = [wide, narrow] if "b" in (first, second) else [wide]
        if second == "constant":
            low, high = ranges[1]
            constants["constant"] = (np.abs(normal(draw, *narrow)) % (high - low) + low).astype(np.float32)
        names = {"constant": constants.get("constant")}
        line = f"%s = OP({first}, {second})"
        line, behind = with_activation(draw, line, constants) if fused else (line % "y", BEHIND[""])

        def by_torch(a, b=None):
            values = {
                "a": a,
                "b": b,
                "constant": None if names["constant"] is None else torch.from_numpy(names["constant"]),
            }
            return behind(function(values[first], values[second]))

        swapped = ranges if (first, second) != ("b", "a") else tuple(reversed(ranges))
        if first == second == "a":
            swapped = (ranges[1],)
        return OpNetwork(line, shapes, by_torch, constants, swapped, perm=order(draw, len(wide)))

    return build


def batch_normalization(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 5)
    gamma, beta, mean = (normal(draw, shape[1]) for _ in range(3))
    variance = np.abs(normal(draw, shape[1])) + np.float32(0.1)
    constants = {"g": gamma, "b0": beta, "m": mean, "v": variance}
    line, behind = with_activation(draw, "%s = BatchNormalization<epsilon=0.001>(a, g, b0, m, v)", constants)
    vectors = [torch.from_numpy(v) for v in (mean, variance, gamma, beta)]
    by_torch = lambda a: behind(F.batch_norm(a, *vectors, eps=1e-3))  # noqa: E731
    return OpNetwork(line, [shape], by_torch, constants, perm=order(draw, len(shape)))


# Windows


def padding_of(draw: Draw, kernel, strides, dilations, map_size, most=None) -> tuple[str, list[int], list[int]]:
    """Attribute text, and the low and high paddings that it means."""
    kind = pick(draw, "none", "pads", "pads", "SAME_UPPER", "SAME_LOWER")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if kind.startswith("SAME") and all(r >= s for r, s in zip(reach, strides, strict=True)):  # else ONNX Runtime fails
        totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(map_size, strides, reach, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        if most is None or all(m <= k for m, k in zip(more, most, strict=True)):
            return f'auto_pad="{kind}"', *((less, more) if kind == "SAME_UPPER" else (more, less))
    if kind == "pads":
        limits = most or [3] * len(kernel)
        low, high = ([draw(st.integers(0, limit)) for limit in limits] for _ in range(2))
        if draw(st.booleans()):
            high = low
        return f"pads={[*low, *high]}", low, high
    return f"pads={[0] * (2 * len(kernel))}", [0] * len(kernel), [0] * len(kernel)


def flat(low, high) -> list[int]:
    """What torch's pad takes: the last axis first."""
    return [n for pair in reversed(list(zip(low, high, strict=True))) for n in pair]


def conv(draw: Draw) -> OpNetwork:
    spatial = pick(draw, 1, 2, 2)
    groups = pick(draw, 1, 1, 2, 3, 4)
    width = groups * pick(draw, 1, 1, 2)
    out = groups * pick(draw, 1, 2, 3)
    kernel, strides, dilations = (sizes(draw, spatial, spatial, most) for most in (4, 3, 3))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    map_size = [r + draw(st.integers(0, 5)) for r in reach]
    padding, low, high = padding_of(draw, kernel, strides, dilations, map_size)
    if max(dilations) > 1 and "auto" in padding:  # ONNX Runtime does not take both
        padding = f"pads={[*low, *high]}"
    constants = {"W": normal(draw, out, width // groups, *kernel)}
    bias = draw(st.booleans())
    if bias:
        constants["bias"] = normal(draw, out)
    attributes = f"<group={groups}, strides={strides}, dilations={dilations}, {padding}>"
    line, behind = with_activation(draw, f"[layer] %s = Conv{attributes}(a, W{', bias' * bias})", constants)
    weight, b = torch.from_numpy(constants["W"]), torch.from_numpy(constants["bias"]) if bias else None
    function = F.conv1d if spatial == 1 else F.conv2d

    def by_torch(a):
        return behind(function(F.pad(a, flat(low, high)), weight, b, strides, 0, dilations, groups))

    batch = pick(draw, 1, 2)
    return OpNetwork(line, [[batch, width, *map_size]], by_torch, constants, perm=order(draw, spatial + 2))


def conv_transpose(draw: Draw) -> OpNetwork:
    width, out = sizes(draw, 2, 2, 4)
    kernel, strides, map_size = (sizes(draw, 2, 2, most) for most in (4, 3, 4))
    low, high = ([draw(st.integers(0, min(k - 1, 2))) for k in kernel] for _ in range(2))
    whole = [(n - 1) * s + k for n, s, k in zip(map_size, strides, kernel, strict=True)]
    low, high = ([p if w - 4 > 0 else 0 for p, w in zip(ps, whole, strict=True)] for ps in (low, high))
    more = [draw(st.integers(0, min(h, s - 1))) for h, s in zip(high, strides, strict=True)]
    constants = {"W": normal(draw, width, out, *kernel)}
    bias = draw(st.booleans())
    if bias:
        constants["bias"] = normal(draw, out)
    attributes = f"<strides={strides}, pads={[*low, *high]}, output_padding={more}>"
    line = f"[layer] y = ConvTranspose{attributes}(a, W{', bias' * bias})"
    weight, b = torch.from_numpy(constants["W"]), torch.from_numpy(constants["bias"]) if bias else None

    def by_torch(a):
        made = F.conv_transpose2d(a, weight, b, strides)
        ends = [w - h + m for w, h, m in zip(whole, high, more, strict=True)]
        return made[:, :, low[0] : ends[0], low[1] : ends[1]]

    return OpNetwork(line, [[pick(draw, 1, 2), width, *map_size]], by_torch, constants, perm=order(draw, 4))


def pool(draw: Draw, op: str) -> OpNetwork:
    spatial = pick(draw, 1, 2, 2)
    kernel, strides = (sizes(draw, spatial, spatial, most) for most in (4, 3))
    map_size = [k + draw(st.integers(0, 5)) for k in kernel]
    padding, low, high = padding_of(draw, kernel, strides, [1] * spatial, map_size, [k // 2 for k in kernel])
    ceil = low == high and "auto" not in padding and draw(st.booleans())
    counted = op == "AveragePool" and draw(st.booleans())
    attributes = f"<kernel_shape={kernel}, strides={strides}, {padding}, ceil_mode={int(ceil)}"
    attributes += f", count_include_pad={int(counted)}>" if op == "AveragePool" else ">"
    average = F.avg_pool1d if spatial == 1 else F.avg_pool2d
    largest = F.max_pool1d if spatial == 1 else F.max_pool2d

    def by_torch(a):
        if op == "MaxPool":
            if low == high:
                return largest(a, kernel, strides, low, ceil_mode=ceil)
            return largest(F.pad(a, flat(low, high), value=-torch.inf), kernel, strides)
        if low == high:
            return average(a, kernel, strides, low, ceil, counted)
        total = average(F.pad(a, flat(low, high)), kernel, strides)
        ones = average(F.pad(torch.ones_like(a), flat(low, high)), kernel, strides)
        return total if counted else total / ones

    shape = [pick(draw, 1, 2), draw(st.integers(1, 4)), *map_size]
    return OpNetwork(f"y = OP{attributes}(a)", [shape], by_torch, perm=order(draw, spatial + 2))


def global_pool(function):
    def build(draw: Draw) -> OpNetwork:
        shape = sizes(draw, 3, 4)
        axes = tuple(range(2, len(shape)))
        by_torch = lambda a: function(a, axes, True)  # noqa: E731
        return OpNetwork("y = OP(a)", [shape], by_torch, perm=order(draw, len(shape)))

    return build


def reduction(function):
    def build(draw: Draw) -> OpNetwork:
        shape = sizes(draw, 2, 5)
        rank = len(shape)
        axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
        spelt = [axis - rank if draw(st.booleans()) else axis for axis in axes]
        keep = draw(st.booleans()) or len(axes) == rank
        absent = len(axes) == rank and draw(st.booleans())
        line = f"y = OP<keepdims={int(keep)}>(a{'' if absent else ', axes'})"
        constants = {} if absent else {"axes": np.array(spelt, np.int64)}
        by_torch = lambda a: function(a, tuple(axes), keep)  # noqa: E731
        return OpNetwork(line, [shape], by_torch, constants, perm=order(draw, rank))

    return build


# Matrices


def gemm(draw: Draw) -> OpNetwork:
    rows, width, out = sizes(draw, 3, 3)
    transposed, bias = draw(st.booleans()), draw(st.booleans())
    constants = {"W": normal(draw, *((out, width) if transposed else (width, out)))}
    if bias:
        constants["bias"] = normal(draw, out)
    attributes = f"<transB={int(transposed)}>"
    line, behind = with_activation(draw, f"[layer] %s = Gemm{attributes}(a, W{', bias' * bias})", constants)
    weight = torch.from_numpy(constants["W"] if transposed else constants["W"].T.copy())
    b = torch.from_numpy(constants["bias"]) if bias else None
    by_torch = lambda a: behind(F.linear(a, weight, b))  # noqa: E731
    return OpNetwork(line, [[rows, width]], by_torch, constants, perm=order(draw, 2))


def matmul(draw: Draw) -> OpNetwork:
    shape = sizes(draw, 2, 4)
    out = draw(st.integers(1, 5))
    if draw(st.booleans()):
        constants = {"W": normal(draw, shape[-1], out)}
        line, behind = with_activation(draw, "[layer] %s = MatMul(a, W)", constants)
        weight = torch.from_numpy(constants["W"])
        return OpNetwork(line, [shape], lambda a: behind(a @ weight), constants, perm=order(draw, len(shape)))
    other = [*shape[:-2], shape[-1], out]
    return OpNetwork("y = MatMul(a, b)", [shape, other], torch.matmul, perm=order(draw, len(shape)))


# Moving


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


NETWORKS = {
    "Abs": unary(torch.abs),
    "Add": binary(torch.add),
    "AveragePool": lambda draw: pool(draw, "AveragePool"),
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": binary(torch.div, ((-3.0, 4.0), (0.5, 3.0))),
    "Elu": elu,
    "Exp": unary(torch.exp),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(torch.mean),
    "GlobalMaxPool": global_pool(torch.amax),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary(F.hardswish),
    "Identity": unary(lambda a: a),
    "LeakyRelu": leaky_relu,
    "Log": unary(torch.log, POSITIVE),
    "LogSoftmax": over_axis(torch.log_softmax),
    "MatMul": matmul,
    "Max": binary(torch.maximum, fused=False),
    "MaxPool": lambda draw: pool(draw, "MaxPool"),
    "Min": binary(torch.minimum, fused=False),
    "Mul": binary(torch.mul),
    "Neg": unary(torch.neg),
    "PRelu": prelu,
    "Pad": pad,
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "Relu": unary(torch.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Sigmoid": unary(torch.sigmoid),
    "Slice": slice_,
    "Softmax": over_axis(torch.softmax),
    "Split": split,
    "Sqrt": unary(torch.sqrt, POSITIVE),
    "Squeeze": squeeze,
    "Sub": binary(torch.sub),
    "Tanh": unary(torch.tanh),
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}


@st.composite
def networks(draw: Draw, op: str) -> OpNetwork:
    """Any network of `op`."""
    network = NETWORKS[op](draw)
    network.text = network.text.replace("OP", op)
    network.seed = draw(st.integers(0, 1000))
    if network.perm is not None and list(network.perm) == sorted(network.perm):
        network.perm = None
    return network
