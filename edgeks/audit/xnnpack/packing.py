"""What XNNPACK allocates for one operator: the kernel laid out anew, and tables of pointers into its input.

Sizes are those of XNNPACK's source (convolution-nhwc.c, fully-connected-nc.c, deconvolution-nhwc.c and the poolings)
with the tiles that its configuration chooses on the machine. x86-64: a processor with AVX-512 VNNI, as measured; one
with AVX2 only has narrower tiles, which changes the bytes of kernels with few output channels. arm64: as the source
has it for cores without the matrix instructions, not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.alignment import rounded_up
from edgeks.audit.ram import Machine
from edgeks.audit.xnnpack.graph import FLOAT32, INT2, INT4, INT8, UINT8, Graph, Node

POINTER_BYTES = 8
ALIGNMENT = 64
EXTRA_BYTES = 16  # that kernels may read past an end
MAX_DEPTHWISE_TAPS = 25  # larger depthwise kernels are grouped convolutions of one channel per group
Arithmetic = Literal["f32", "qs8", "qd8"]  # float32; int8 by int8; float32, quantised on the fly, by int8


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """A matrix kernel computes `rows` × `columns` at once, from `depth` products at a time."""

    columns: int
    depth: int
    rows: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """`dense`: matrix products; `spatial`: convolutions; `narrow`: convolutions to few channels.

    `depthwise`: channels at once, and the numbers of taps that there are kernels for.
    """

    dense: dict[Arithmetic, MatrixTile]
    spatial: dict[Arithmetic, MatrixTile]
    narrow: MatrixTile
    depthwise: dict[Arithmetic, tuple[int, tuple[int, ...]]]


_X86_INT8 = MatrixTile(16, 8, 7)
_ARM_FLOAT, _ARM_INT8 = MatrixTile(8, 1, 6), MatrixTile(16, 4, 4)
TILES: dict[Machine, Tiles] = {
    "x86-64": Tiles(
        dense={"f32": MatrixTile(16, 1, 7), "qs8": _X86_INT8, "qd8": MatrixTile(64, 4, 5)},
        spatial={"f32": MatrixTile(32, 1, 7), "qs8": _X86_INT8, "qd8": MatrixTile(16, 8, 10)},
        narrow=MatrixTile(16, 1, 7),
        depthwise={"f32": (16, (3, 4, 9, 25)), "qs8": (32, (3, 9, 25))},
    ),
    "arm64": Tiles(
        dense={"f32": _ARM_FLOAT, "qs8": _ARM_INT8, "qd8": _ARM_INT8},
        spatial={"f32": _ARM_FLOAT, "qs8": _ARM_INT8, "qd8": _ARM_INT8},
        narrow=MatrixTile(2, 1, 4),
        depthwise={"f32": (8, (3, 4, 9, 25)), "qs8": (16, (3, 9, 25))},
    ),
}
ELEMENT_BYTES: dict[Arithmetic, int] = {"f32": 4, "qs8": 1, "qd8": 1}
# Per output channel: the bias; with int8 its scale; with inputs quantised on the fly the sum of the kernel as well.
CHANNEL_BYTES: dict[Arithmetic, int] = {"f32": 4, "qs8": 8, "qd8": 12}


@dataclass(frozen=True, slots=True)
class Allocation:
    """`packed_bytes`: the kernel; `heap_bytes`: tables and paddings; `scratch_bytes`: of the delegate's workspace."""

    packed_bytes: int = 0
    heap_bytes: int = 0
    scratch_bytes: int = 0


def rounded(size: int, step: int = ALIGNMENT) -> int:
    """Up to a multiple; as XNNPACK aligns its blocks, where no step is given."""
    return rounded_up(size, step)


def arithmetic(graph: Graph, node: Node) -> Arithmetic:
    """Of an operator with a kernel."""
    x = graph.tensors[node.inputs[2 if node.name == "TRANSPOSE_CONV" else 0]]
    kernel = graph.tensors[node.inputs[1]]
    if x.type in (INT8, UINT8):
        return "qs8"
    return "qd8" if kernel.type in (INT8, INT4, INT2) else "f32"


def is_dense(graph: Graph, node: Node) -> bool:
    """Whether an operator is a matrix product of its input as it lies there: no table of pointers."""
    if node.name in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return True
    x, kernel = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]]
    steps = node.option("strideW", 1), node.option("strideH", 1)
    whole = node.name == "CONV_2D" and kernel.shape[1:3] == (1, 1) and steps == (1, 1)
    return whole and (kernel.shape[3] == x.shape[3] or arithmetic(graph, node) != "qd8")


def allocation(graph: Graph, node: Node, machine: Machine) -> Allocation:
    """What the operator object of a delegated node allocates beside itself."""
    tiles = TILES[machine]
    match node.name:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            return _convolution(graph, node, tiles)
        case "TRANSPOSE_CONV":
            return _transposed(graph, node, tiles)
        case "FULLY_CONNECTED" | "BATCH_MATMUL":
            return _matrix(graph, node, tiles)
        case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
            return _pooling(graph, node)
        case "RESIZE_BILINEAR":
            pixels = math.prod(graph.tensors[node.outputs[0]].shape[1:3])
            return Allocation(heap_bytes=pixels * (4 * POINTER_BYTES + 2 * 4))
        case "LOGISTIC" | "TANH" | "ELU" if graph.tensors[node.inputs[0]].type in (INT8, UINT8):
            return Allocation(heap_bytes=256)
    return Allocation()


def _packed(kind: Arithmetic, tile: MatrixTile, groups: int, columns: int, depth: int, taps: int = 1) -> int:
    """Kernel of `columns` outputs from `taps` × `depth` inputs each, per group."""
    per_column = taps * rounded(depth, tile.depth) * ELEMENT_BYTES[kind] + CHANNEL_BYTES[kind]
    return rounded(groups * rounded(columns, tile.columns) * per_column)


def _spatial_tile(graph: Graph, tiles: Tiles, kind: Arithmetic, columns: int) -> MatrixTile:
    """tflite-runtime 2.14 has one tile for float32; LiteRT a wider one, where the layer has enough channels for it."""
    if kind != "f32":
        return tiles.spatial[kind]
    if graph.version == "tflite-runtime":
        return tiles.dense[kind]
    return tiles.narrow if columns < tiles.spatial[kind].columns else tiles.spatial[kind]


def _convolution(graph: Graph, node: Node, tiles: Tiles) -> Allocation:
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    shape = graph.tensors[node.inputs[1]].shape
    depthwise = node.name == "DEPTHWISE_CONV_2D"
    kind, taps, pixels = arithmetic(graph, node), shape[1] * shape[2], y.shape[1] * y.shape[2]
    depth = 1 if depthwise else shape[3]
    groups = x.shape[3] // depth
    columns = (shape[3] if depthwise else shape[0]) // max(groups, 1)
    if depth == columns == 1 and groups > 1 and taps <= MAX_DEPTHWISE_TAPS and kind != "qd8":
        channels, sizes = tiles.depthwise[kind]
        held = next(size for size in sizes if size >= taps)
        packed = rounded(groups, channels) * (held * ELEMENT_BYTES[kind] + CHANNEL_BYTES[kind])
        table = _table(shape[1:3], y.shape[1:3], node.option("strideW", 1), node.option("dilationWFactor", 1))
        return Allocation(rounded(packed), (held - taps + table) * POINTER_BYTES)
    if is_dense(graph, node):
        tile = tiles.dense[kind]
        return Allocation(_packed(kind, tile, groups, columns, depth), 0, _quantised_rows(kind, tile, pixels, depth))
    matrix = _spatial_tile(graph, tiles, kind, columns)
    padding = 0
    if node.option("padding") == schema.Padding.SAME and taps > 1:
        batch = x.shape[0] if kind == "qd8" else 1
        padding = batch * (EXTRA_BYTES + rounded(depth, matrix.depth) * ELEMENT_BYTES[kind])
    packed = _packed(kind, matrix, groups, columns, depth, taps)
    return Allocation(packed, taps * rounded(pixels, matrix.rows) * POINTER_BYTES + padding)


def _table(kernel: tuple[int, ...], pixels: tuple[int, ...], stride: int, dilation: int = 1) -> int:
    """Pointers of a table in which neighbouring pixels of a row share the columns of taps that they have in common."""
    height, width = kernel
    step = min(stride, width) if dilation == 1 else width
    return pixels[0] * (height * width + (pixels[1] - 1) * step * height)


def _quantised_rows(kind: Arithmetic, tile: MatrixTile, rows: int, depth: int) -> int:
    """A matrix product quantises a tile of rows of its float input at a time."""
    if kind != "qd8":
        return 0
    return (1 if rows == 1 else tile.rows) * (rounded(depth, tile.depth) + 8)


def _transposed(graph: Graph, node: Node, tiles: Tiles) -> Allocation:
    """A step above 1 makes one convolution of every phase, each with its own bias."""
    y, shape = graph.tensors[node.outputs[0]], graph.tensors[node.inputs[1]].shape
    kind, taps, pixels = arithmetic(graph, node), shape[1] * shape[2], y.shape[1] * y.shape[2]
    tile = _spatial_tile(graph, tiles, kind, shape[0])
    steps = node.option("strideH", 1), node.option("strideW", 1)
    phases = math.prod(steps)
    if phases == 1 or shape[1] < steps[0] or shape[2] < steps[1]:
        table = taps * rounded(pixels, tile.rows)
        return Allocation(_packed(kind, tile, 1, shape[0], shape[3], taps), table * POINTER_BYTES)
    per_column = taps * rounded(shape[3], tile.depth) * ELEMENT_BYTES[kind] + phases * CHANNEL_BYTES[kind]
    apart = graph.version == "tflite-runtime" and shape[1:3] == steps  # no two pixels read one input: no table there
    table = 0 if apart else taps * pixels
    return Allocation(rounded(rounded(shape[0], tile.columns) * per_column), table * POINTER_BYTES)


def _matrix(graph: Graph, node: Node, tiles: Tiles) -> Allocation:
    """A second operand that is computed is packed at every inference, into the workspace."""
    x, kernel = graph.tensors[node.inputs[0]], graph.tensors[node.inputs[1]]
    kind = arithmetic(graph, node)
    if node.name == "FULLY_CONNECTED":
        tile, (columns, depth) = tiles.dense[kind], kernel.shape
        rows = x.elements // max(depth, 1)
        scratch = _quantised_rows(kind, tile, rows, depth)
        packed = _packed(kind, tile, 1, columns, depth)
        bits = {INT4: 4, INT2: 2}.get(kernel.type, 8)
        if bits < 8:
            stored = rounded(columns, tile.columns) * rounded(depth, tile.depth)
            packed -= stored - stored * bits // 8
        return Allocation(packed, 0, scratch)
    tile = tiles.spatial[kind] if kind == "f32" else tiles.dense[kind]
    depth, columns = kernel.shape[-2:] if not node.option("adjY") else kernel.shape[:-3:-1]
    packed = _packed(kind, tile, math.prod(kernel.shape[:-2]), columns, depth)
    return Allocation(packed) if graph.known(node.inputs[1]) else Allocation(scratch_bytes=packed)


def _pooling(graph: Graph, node: Node) -> Allocation:
    x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    kernel, steps = (node.option("filterHeight"), node.option("filterWidth")), node.option("strideW")
    if kernel == (1, 1) or x.type not in (FLOAT32, INT8, UINT8):
        return Allocation()
    table = _table(kernel, y.shape[1:3], steps) + kernel[0] * kernel[1] - 1
    if node.name == "MAX_POOL_2D":
        return Allocation(heap_bytes=table * POINTER_BYTES)
    padded = node.option("padding") == schema.Padding.SAME
    return Allocation(heap_bytes=table * POINTER_BYTES + (y.shape[1] * y.shape[2] * 4 if padded else 0))
