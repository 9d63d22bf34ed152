"""Padding and strides of windows: what TFLite's SAME and VALID can say, and a PAD for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from edgeks.formats.tflite.lowering import Lowering
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.values import Unsupported

SAME: int = schema.Padding.SAME
VALID: int = schema.Padding.VALID


@dataclass(frozen=True, slots=True)
class Window:
    """A window over H and W. `pads`: (low, high) of each. A 1-D window lies along W."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def window(node: ir.Node, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """Attributes of a Conv or a pooling over a feature map of `sizes` (H, W, or L alone).

    Raises:
        Unsupported: it has more than two axes, or negative padding.
    """
    spatial = len(kernel)
    if spatial > 2:
        raise Unsupported(f"a {spatial}-D window; TFLite's have 1 or 2 dimensions")
    strides = _pair(node.attributes.get_ints("strides", (1,) * spatial), 1)
    dilations = _pair(node.attributes.get_ints("dilations", (1,) * spatial), 1)
    pads = node.attributes.get_ints("pads", (0,) * (2 * spatial))
    lows, highs = _pair(pads[:spatial], 0), _pair(pads[spatial:], 0)
    square, sizes = _pair(kernel, 1), _pair(sizes, 1)
    automatic = node.attributes.get_string("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same_total(*all_) for all_ in zip(sizes, square, strides, dilations, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        lows, highs = (
            (_pair(less, 0), _pair(more, 0)) if automatic == "SAME_UPPER" else (_pair(more, 0), _pair(less, 0))
        )
    if min(*lows, *highs) < 0:
        raise Unsupported("negative padding")
    return Window(square, strides, dilations, ((lows[0], highs[0]), (lows[1], highs[1])))


def padded_for(
    ctx: Lowering, tensor: Tensor, over: Window, *, explicit: bool = False, fill: Tensor | None = None
) -> tuple[Tensor, int]:
    """The N×H×W×C tensor that the operator reads, and its `padding`.

    SAME where it puts exactly the window's padding, else a PAD (with `fill`, or zeros). `explicit`: never SAME.
    """
    if not any(sum(over.pads, ())):
        return tensor, VALID
    if not explicit and is_same(over, tensor.shape[1:3]):
        return tensor, SAME
    return ctx.padded(tensor, ((0, 0), *over.pads, (0, 0)), fill), VALID


def is_same(over: Window, sizes: Sequence[int]) -> bool:
    """Whether TFLite's SAME, over a map of `sizes`, is the window's own padding."""
    for size, (low, high), k, s, d in zip(sizes, over.pads, over.kernel, over.strides, over.dilations, strict=True):
        total = _same_total(size, k, s, d)
        touched = min(high, max(total - low, 0))  # the end of the padding that no window reaches does not matter
        whole = (size + low + high - (k - 1) * d - 1) // s + 1 == -(-size // s)
        if not whole or (low, touched) != (total // 2, total - total // 2):
            return False
    return True


def _same_total(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Rows that SAME adds in all (half of them, rounded down, before)."""
    return max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def _pair(numbers: Sequence[int], other: int) -> tuple[int, int]:
    """(H, W) of one or two numbers; a 1-D window has `other` for H."""
    return (other, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))
