"""The order in which libstdc++ hands out elements that its caller calls equal.

TFLite's memory plan depends on it: tensors of one size that are made by one operator are placed in the order in which
`std::unordered_set<int>` lists them and `std::sort` leaves them. LiteRT's and tflite-runtime's wheels for Linux are
built with libstdc++.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cmp_to_key, partial

# Bucket counts of a growing std::unordered_set; more than 541 temporaries of one operator keep the last.
BUCKETS = (13, 29, 59, 127, 257, 541)
# Up to this many elements std::sort is an insertion sort, which keeps the order of equals.
THRESHOLD = 16

Less = Callable[[int, int], bool]


def unordered_set_order(numbers: Iterable[int]) -> list[int]:
    """Numbers in order of their insertion, none negative → the order in which std::unordered_set<int> lists them."""
    grown = 0
    listed: list[int] = []
    for number in dict.fromkeys(numbers):
        if len(listed) == BUCKETS[grown] and grown + 1 < len(BUCKETS):
            grown += 1
            listed = _chained(listed, BUCKETS[grown])
        _chain(listed, number, BUCKETS[grown])
    return listed


def _chained(numbers: list[int], buckets: int) -> list[int]:
    listed: list[int] = []
    for number in numbers:
        _chain(listed, number, buckets)
    return listed


def _chain(listed: list[int], number: int, buckets: int) -> None:
    """A number goes to the front of its bucket, and that of a new bucket to the front of all."""
    place = next((at for at, other in enumerate(listed) if other % buckets == number % buckets), 0)
    listed.insert(place, number)


def std_sort(items: list[int], less: Less) -> None:
    """Sort in place, leaving equals in the order in which std::sort leaves them."""
    if len(items) > THRESHOLD:
        _introsort(items, 0, len(items), 2 * (len(items).bit_length() - 1), less)
        _insertion_sort(items, 0, THRESHOLD, less)
        for at in range(THRESHOLD, len(items)):
            _sink(items, at, 0, less)
    else:
        _insertion_sort(items, 0, len(items), less)


def _introsort(items: list[int], first: int, last: int, depth: int, less: Less) -> None:
    while last - first > THRESHOLD:
        if depth == 0:  # libstdc++ goes on by heap sort; only an adversary's file comes here
            key = cmp_to_key(partial(_compare, less))
            items[first:last] = sorted(items[first:last], key=key)
            return
        depth -= 1
        cut = _partition(items, first, last, less)
        _introsort(items, cut, last, depth, less)
        last = cut


def _compare(less: Less, a: int, b: int) -> int:
    return less(b, a) - less(a, b)


def _partition(items: list[int], first: int, last: int, less: Less) -> int:
    _median_to_first(items, first, first + 1, first + (last - first) // 2, last - 1, less)
    pivot = items[first]
    low, high = first + 1, last
    while True:
        while less(items[low], pivot):
            low += 1
        high -= 1
        while less(pivot, items[high]):
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


def _median_to_first(items: list[int], first: int, a: int, b: int, c: int, less: Less) -> None:
    if less(items[a], items[b]):
        median = b if less(items[b], items[c]) else c if less(items[a], items[c]) else a
    else:
        median = a if less(items[a], items[c]) else c if less(items[b], items[c]) else b
    items[first], items[median] = items[median], items[first]


def _insertion_sort(items: list[int], first: int, last: int, less: Less) -> None:
    for at in range(first + 1, last):
        _sink(items, at, first, less)


def _sink(items: list[int], at: int, first: int, less: Less) -> None:
    item = items[at]
    while at > first and less(item, items[at - 1]):
        items[at] = items[at - 1]
        at -= 1
    items[at] = item
