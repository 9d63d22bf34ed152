"""Which axis of a graph's Value each axis of its TFLite tensor is: the arithmetic of layouts.

An `order` is a permutation: axis i of the tensor is axis order[i] of the Value, as in numpy's `transpose`. A feature
map N×C×H×W that is held as N×H×W×C has the order (0, 2, 3, 1). A Transpose of the graph only changes the order; data
move where an operator needs an order that the tensor has not.
"""

from __future__ import annotations

from collections.abc import Sequence

Order = tuple[int, ...]

NHWC: Order = (0, 2, 3, 1)


def plain(rank: int) -> Order:
    """The Value's own order of axes."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """N×C×… held as N×…×C; the Value's own order below rank 3."""
    return (0, *range(2, rank), 1) if rank > 2 else plain(rank)


def inverse(order: Order) -> Order:
    """The permutation that undoes `order`."""
    return tuple(order.index(axis) for axis in range(len(order)))


def held_shape(shape: Sequence[int], order: Order) -> tuple[int, ...]:
    """Shape of the tensor that holds a Value of `shape`."""
    return tuple(shape[axis] for axis in order)


def after_transpose(order: Order, perm: Sequence[int]) -> Order:
    """Order of Transpose(x, perm) in the tensor that holds x with `order`."""
    where = {axis: index for index, axis in enumerate(perm)}
    return tuple(where[axis] for axis in order)


def same_memory(shape: Sequence[int], first: Order, second: Order) -> bool:
    """Whether a Value of `shape` lies in memory the same way in both orders: they differ in axes of size 1 only."""
    return [axis for axis in first if shape[axis] != 1] == [axis for axis in second if shape[axis] != 1]


def through_reshape(order: Order, before: Sequence[int], after: Sequence[int]) -> Order | None:
    """Order in which Reshape(x: before → after) lies in the memory of the tensor that holds x; None where it does not.

    The axes are matched in groups of equal size, (C, H·W) with (C, H, W). A group that lies together and in order in
    the tensor is reshaped in place, wherever it lies.
    """
    groups = _groups(before, after)
    if groups is None:
        return None
    significant = [axis for axis in order if before[axis] != 1]
    result: list[int] = []
    while significant:
        group = next(group for group in groups if significant[0] in group[0])
        old = [axis for axis in group[0] if before[axis] != 1]
        if significant[: len(old)] != old:
            return None
        significant = significant[len(old) :]
        result += [axis for axis in group[1] if after[axis] != 1]
    rank = len(after)
    for candidate in (channels_last(rank), plain(rank)):
        if [axis for axis in candidate if after[axis] != 1] == result:
            return candidate
    return _with_ones(result, after)


def reshapable(order: Order, before: Sequence[int], after: Sequence[int]) -> Order:
    """The order nearest to `order` from which Reshape(before → after) needs no data moved: each group together."""
    groups = _groups(before, after)
    if groups is None:
        return plain(len(before))
    result: list[int] = []
    for axis in order:
        if axis not in result:
            result += next(group for group, _ in groups if axis in group)
    return tuple(result)


def batch_free(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """A target shape whose first axis follows the batch, so that an interpreter may be resized to another one."""
    return [-1, *after[1:]] if before and after and before[0] == after[0] else list(after)


def _with_ones(significant: Sequence[int], shape: Sequence[int]) -> Order:
    """All axes: those of size 1 go where the Value has them, ahead of the next significant one.

    The first axis, which is the batch, goes first: an interpreter may be resized to another one.
    """
    result = list(significant)
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1 and axis == 0:
            result.insert(0, axis)
        elif shape[axis] == 1:
            result.insert(result.index(axis + 1) if axis + 1 in result else len(result), axis)
    return tuple(result)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Axes of both shapes in the smallest groups of equal product; None where a size is 0."""
    if 0 in before or 0 in after:
        return None
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right, size_left, size_right = list[int](), list[int](), 1, 1
        while not (left or right) or size_left != size_right:
            if (size_left <= size_right and i < len(before)) or j >= len(after):
                if i >= len(before):
                    return None
                left.append(i)
                size_left *= before[i]
                i += 1
            else:
                right.append(j)
                size_right *= after[j]
                j += 1
        groups.append((left, right))
    return groups
