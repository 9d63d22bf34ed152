"""Networks of convolutions, poolings, reductions and matrix products."""

import numpy as np
import torch
from hypothesis import strategies as st
from op_draws import Draw, normal, order, pick, sizes, with_activation
from op_network import OpNetwork
from torch.nn import functional as F


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
