"""Scratch of the matrix products behind TFLite's built-in kernels: what ruy and Eigen pack, outside of every arena.

ruy packs both operands of a product into one block that grows to the largest product and stays as long as the model is
open. Eigen allocates its blocks for one product and frees them. On x86-64 integer (and dynamic-range) products run in
ruy and float ones in Eigen; in LiteRT on arm64 all run in ruy. tflite-runtime on arm64 is built without ruy as the
default: float products run in Eigen, int8 ones in gemmlowp (`edgeks.audit.tflite.gemmlowp`), and what neither knows
(16 bits, sums that are taken as they are) in ruy. Reference kernels have no products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from edgeks.audit.alignment import rounded_up
from edgeks.audit.ram import Machine
from edgeks.audit.tflite import gemmlowp
from edgeks.audit.tflite.scratch import is_hybrid
from edgeks.audit.tflite.tensors import Graph, Operator, Tensor
from edgeks.audit.xnnpack.graph import DelegateVersion

ALIGNMENT = 64  # of every block that ruy's allocator hands out
AGAINST_ALIASING = 1024  # ruy adds this to every packed matrix, to move it within its block
BOOKKEEPING = 1024  # of one product: its tasks
# Sizes to which ruy rounds depth and columns: its AVX-512 kernels, and on arm64 those with dot product (Cortex-A76);
# other kernels of the same machines differ by less than a per cent on matrices of some size.
INTEGER_TILE = {"x86-64": (4, 16), "arm64": (4, 8)}
FLOAT_TILE = {"x86-64": (1, 16), "arm64": (1, 8)}
# Eigen's blocking, for 32 KiB of first-level cache and SSE kernels, with which the wheels are built.
LEVEL_1, LEVEL_2 = 32768, 1572864
TILE_ROWS, TILE_COLUMNS, DEPTH_STEP = 8, 4, 8
SMALL = 48  # products with no side longer are not blocked


@dataclass(frozen=True, slots=True)
class Product:
    """rows × depth (the kernel) by depth × columns (the activations); bytes of one number of each."""

    rows: int
    depth: int
    columns: int
    left_bytes: int
    right_bytes: int
    is_float: bool
    takes_sums: bool  # as they are, in int32: dynamic-range operators, and TRANSPOSE_CONV
    is_hybrid: bool


def products(graph: Graph, taken: Iterable[int] = ()) -> list[Product]:
    """The products of a graph's operators on built-in kernels, without operators that a delegate has `taken`."""
    skipped = set(taken)
    found = []
    for index, operator in enumerate(graph.operators):
        if index not in skipped:
            try:
                product = _product(graph, operator)
            except (LookupError, ValueError, ZeroDivisionError):  # shapes that make no sense: no runtime opens it
                continue
            if product is not None:
                found.append(product)
    return found


def _product(graph: Graph, operator: Operator) -> Product | None:
    def tensor(index: int) -> Tensor:
        if operator.inputs[index] < 0:
            raise LookupError("left out")
        return graph.tensors[operator.inputs[index]]

    if operator.op_type == "CONV_2D":
        kernel, y = tensor(1), graph.tensors[operator.outputs[0]]
        channels, height, width, depth = kernel.shape
        if tensor(0).shape[3] != depth:  # grouped convolutions run on reference kernels
            return None
        return _of(tensor(0), kernel, channels, height * width * depth, y.elements // channels)
    if operator.op_type == "FULLY_CONNECTED":
        units, depth = tensor(1).shape
        return _of(tensor(0), tensor(1), units, depth, tensor(0).elements // depth)
    if operator.op_type == "TRANSPOSE_CONV":
        kernel, x = tensor(1), tensor(2)
        product = _of(x, kernel, math.prod(kernel.shape[:3]), kernel.shape[3], math.prod(x.shape[1:3]))
        return replace(product, takes_sums=not product.is_float)
    if operator.op_type == "BATCH_MATMUL":
        left, right = tensor(0), tensor(1)
        depth = left.shape[-2 if getattr(operator.options, "adjX", False) else -1]
        rows = math.prod(right.shape[-2:]) // depth
        return _of(left, right, rows, depth, math.prod(left.shape[-2:]) // depth)
    return None


def _of(x: Tensor, kernel: Tensor, rows: int, depth: int, columns: int) -> Product:
    hybrid = is_hybrid(x, kernel)
    is_float = x.kind == "FLOAT32" and not hybrid
    item_bytes = 4 if is_float else 2 if x.kind == "INT16" else 1
    return Product(rows, depth, columns, 4 if is_float else 1, item_bytes, is_float, hybrid, hybrid)


@dataclass(frozen=True, slots=True)
class RuyBlock:
    """ruy's block. `used_bytes`: what the largest product needs. `peak_bytes`: the most at a time while it grows, which
    it does in the first inference: the old block, beside new ones."""

    used_bytes: int
    peak_bytes: int


def ruy_block(found: Iterable[Product], machine: Machine, version: DelegateVersion) -> RuyBlock:
    """ruy's allocator over the products in the order in which they run.

    A product takes what fits from the block and new blocks for the rest; after it, one block of the size of all
    replaces them.
    """
    size = used = peak = touched = 0
    for product in found:
        if _library(product, machine, version) != "ruy" or _by_vector(product, machine, version):
            continue
        taken = new = 0
        for block in _packed(product, machine):
            if taken + block <= size:
                taken += block
            else:
                new += block
        touched = max(touched, taken)
        used, peak = max(used, taken + new), max(peak, touched + new)
        if new:
            size += new
            touched = 0
    return RuyBlock(used, peak)


def eigen_bytes(found: Iterable[Product], machine: Machine, version: DelegateVersion) -> int:
    """The largest blocks that Eigen allocates for one product, and frees."""
    in_eigen = (product for product in found if _library(product, machine, version) == "eigen")
    return max((_blocks(product) for product in in_eigen), default=0)


def gemmlowp_bytes(found: Iterable[Product], machine: Machine, version: DelegateVersion) -> int:
    """The block of gemmlowp: what the largest product writes of it."""
    in_gemmlowp = (
        product
        for product in found
        if _library(product, machine, version) == "gemmlowp" and not _by_vector(product, machine, version)
    )
    return max((gemmlowp.block_bytes(each.rows, each.depth, each.columns) for each in in_gemmlowp), default=0)


def _by_vector(product: Product, machine: Machine, version: DelegateVersion) -> bool:
    """A matrix by a vector packs nothing: LiteRT has kernels for it, on arm64 both; for dynamic-range ones both."""
    has_kernels = version == "litert" or machine == "arm64" or product.is_hybrid
    return product.columns == 1 and has_kernels and product.rows >= 4


def _library(product: Product, machine: Machine, version: DelegateVersion) -> Literal["ruy", "eigen", "gemmlowp"]:
    if machine == "arm64" and version == "litert":
        return "ruy"
    if product.is_float:
        return "eigen"
    return "gemmlowp" if machine == "arm64" and product.right_bytes == 1 and not product.takes_sums else "ruy"


def _packed(product: Product, machine: Machine) -> list[int]:
    """What ruy asks for to pack both operands: for each its numbers, and a sum per column."""
    depth_step, column_step = (FLOAT_TILE if product.is_float else INTEGER_TILE)[machine]
    depth = rounded_up(product.depth, depth_step)
    asked = []
    for columns, item_bytes in ((product.rows, product.left_bytes), (product.columns, product.right_bytes)):
        columns = rounded_up(columns, column_step)
        asked += [
            rounded_up(depth * columns * item_bytes + AGAINST_ALIASING, ALIGNMENT),
            rounded_up(4 * columns, ALIGNMENT),
        ]
    return [*asked, BOOKKEEPING]


def _blocks(product: Product) -> int:
    """Eigen's evaluateProductBlockingSizesHeuristic for one thread → bytes of the blocks of both operands."""
    rows, depth, columns = product.rows, product.depth, product.columns
    if min(rows, columns) <= 1 or not depth:  # a matrix by a vector needs no block
        return 0
    if max(rows, depth, columns) >= SMALL:
        kept = TILE_ROWS * TILE_COLUMNS * 4
        most = max((LEVEL_1 - kept) // (4 * (TILE_ROWS + TILE_COLUMNS)) // DEPTH_STEP * DEPTH_STEP, 1)
        whole = depth
        depth = _even(depth, most, DEPTH_STEP)
        left = LEVEL_1 - kept - rows * depth * 4
        wide = left // (4 * depth) if left >= TILE_COLUMNS * 4 * depth else 3 * LEVEL_2 // (4 * most * 4)
        fitting = min(LEVEL_2 // (2 * depth * 4), wide) // TILE_COLUMNS * TILE_COLUMNS
        if columns > fitting > 0:
            columns = _even(columns, fitting, TILE_COLUMNS)
        elif depth == whole:
            cache = LEVEL_1 if depth * columns * 4 <= 1024 else LEVEL_2
            fitting = min(cache // (3 * depth * 4), rows)
            fitting -= fitting % TILE_ROWS if fitting > TILE_ROWS else 0
            rows = _even(rows, fitting, TILE_ROWS) if fitting else rows
    return 4 * depth * (rows + columns)


def _even(length: int, most: int, step: int) -> int:
    """Parts of at most `most`, in multiples of `step`, of about one size."""
    if length <= most:
        return length
    rest = length % most
    return most if rest == 0 else most - step * ((most - 1 - rest) // (step * (length // most + 1)))
