"""What networks of one operator are drawn from: sizes, axes, orders, weights, an activation behind."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

Draw = st.DrawFn
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
