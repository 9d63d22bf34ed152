"""Networks of operators that work element by element."""

import numpy as np
import torch
from hypothesis import strategies as st
from op_draws import BEHIND, Draw, an_axis, normal, order, pick, sizes, with_activation
from op_network import OpNetwork
from torch.nn import functional as F


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
