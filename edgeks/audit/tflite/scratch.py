"""Scratch tensors that TFLite's kernels ask for ahead of the first inference: one rule per operator.

They are what the `Prepare` of a kernel of LiteRT 2.3 (tflite/kernels/*.cc) adds to its operator. "reference" and
"builtin" kernels of one operator may differ; a rule's docstring says what for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgeks.audit.tflite.tensors import BITS, Operator, Tensor

Kernels = Literal["builtin", "reference"]
# arena: free again after the operator; persistent: in an arena of its own, as long as the model is open; heap: a block
# of its own, which stays.
Place = Literal["arena", "persistent", "heap"]


@dataclass(frozen=True, slots=True)
class Temporary:
    """A scratch tensor. Where it is not `used`, its pages are reserved but never touched."""

    name: str
    size_bytes: int
    place: Place
    used: bool = True


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operator with its tensors, and what decides its scratch; `inputs` and `outputs` have None where one is left
    out."""

    operator: Operator
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    kernels: Kernels
    threads: int

    def input(self, index: int) -> Tensor:
        """Raises LookupError where it is left out: then the operator is not one that TFLite runs."""
        tensor = self.inputs[index]
        if tensor is None:
            raise LookupError(f"input {index} of {self.operator.op_type} is left out")
        return tensor

    def output(self, index: int = 0) -> Tensor:
        """Raises LookupError as `input`."""
        tensor = self.outputs[index]
        if tensor is None:
            raise LookupError(f"output {index} of {self.operator.op_type} is left out")
        return tensor

    def option(self, name: str, default: int) -> int:
        """A field of the options table."""
        return int(getattr(self.operator.options, name, default))


def temporaries(prepared: Prepared) -> tuple[Temporary, ...]:
    """Scratch of one operator, in the order in which its kernel asks for it; none for one without a rule."""
    rule = RULES.get(prepared.operator.op_type)
    if rule is None:
        return ()
    try:
        return tuple(rule(prepared))
    except (
        LookupError,
        ValueError,
        ZeroDivisionError,
    ):  # no runtime opens it: it lacks an input, or has a strange shape
        return ()


def _conv(op: Prepared) -> list[Temporary]:
    """im2col, unless the kernel is 1×1 with stride 1: built-in kernels always, reference ones for hybrid only.

    With several threads a float convolution without dilation runs in Eigen: no im2col, but its kernel transposed.
    """
    x, kernel, y = op.input(0), op.input(1), op.output()
    batches, in_height, in_width, in_channels = x.shape
    out_channels, height, width, depth = kernel.shape
    dilated = (op.option("dilationHFactor", 1), op.option("dilationWFactor", 1)) != (1, 1)
    strided = (op.option("strideH", 1), op.option("strideW", 1)) != (1, 1)
    windowed = dilated or strided or (height, width) != (1, 1)
    hybrid = is_hybrid(x, kernel)
    in_eigen = op.kernels == "builtin" and op.threads > 1 and not hybrid and not dilated and kernel.constant
    per_channel = hybrid and len(set(kernel.scales)) > 1 and kernel.kind != "UINT8"
    in_place = op.kernels == "reference" and per_channel
    positions = y.elements // out_channels
    found = []
    if windowed and (hybrid if op.kernels == "reference" else not (in_eigen and x.kind == "FLOAT32")):
        item_bytes = 1 if hybrid else BITS[x.kind] // 8
        found.append(Temporary("im2col", positions * height * width * depth * item_bytes, "arena", not in_place))
    if in_eigen and x.kind == "FLOAT32":
        found.append(Temporary("transposed kernel", kernel.size_bytes, "persistent"))
    if hybrid:
        rows = batches * in_height * in_width * (in_channels // depth)
        found += _hybrid(x.elements, rows, y.elements, not in_place)
        if per_channel:
            found.append(Temporary("input offsets", 4 * rows, "arena"))
            found.append(Temporary("row sums", 4 * out_channels, "persistent"))
    return found


def _depthwise(op: Prepared) -> list[Temporary]:
    """Hybrid only."""
    x = op.input(0)
    if not is_hybrid(x, op.input(1)):
        return []
    return [
        Temporary("quantised input", x.elements, "arena"),
        Temporary("scaling factors", 4 * x.shape[0], "arena"),
        Temporary("input offsets", 4 * x.shape[0], "arena"),
    ]


def _fully_connected(op: Prepared) -> list[Temporary]:
    """Hybrid only."""
    x, kernel = op.input(0), op.input(1)
    if not is_hybrid(x, kernel):
        return []
    units, depth = kernel.shape
    rows = x.elements // depth
    return [
        *_hybrid(x.elements, rows, units * rows),
        Temporary("input offsets", 4 * rows, "arena"),
        Temporary("row sums", 4 * units, "persistent"),
    ]


def _transpose_conv(op: Prepared) -> list[Temporary]:
    """Built-in kernels hold the columns and the transposed kernel; integer ones of both kinds an accumulator."""
    kernel, x, y = op.input(1), op.input(2), op.output()
    found = []
    if op.kernels == "builtin":
        columns = math.prod(x.shape[1:3]) * math.prod(kernel.shape[:3])
        found.append(Temporary("columns", 4 * columns, "heap"))
        found.append(Temporary("transposed kernel", kernel.size_bytes, "heap"))
    if x.kind in ("INT8", "UINT8", "INT16"):
        found.append(Temporary("accumulator", (8 if x.kind == "INT16" else 4) * y.elements, "heap"))
    if x.kind == "FLOAT32" and kernel.kind == "INT8":
        rows = x.elements // kernel.shape[3]
        found.append(Temporary("quantised input", x.elements, "arena"))
        found.append(Temporary("scaling factors", 4 * rows, "arena"))
        found.append(Temporary("input offsets", 4 * rows, "arena"))
    return found


def _batch_matmul(op: Prepared) -> list[Temporary]:
    """Room for both operands transposed, whether they are or not; of a constant one it stays."""
    left, right = op.input(0), op.input(1)
    found = [
        Temporary("transposed left", left.size_bytes, "arena", bool(op.option("adjX", 0))),
        Temporary(
            "transposed right",
            right.size_bytes,
            "persistent" if right.constant else "arena",
            not op.option("adjY", 0),
        ),
    ]
    if left.kind == "FLOAT32" and right.kind == "INT8":
        rows = left.shape[-1 if op.option("adjX", 0) else -2]
        units = right.shape[-2 if op.option("adjY", 0) else -1]
        all_rows = rows * math.prod(left.shape[:-2])
        found += _hybrid(left.elements, all_rows, units * rows)
        found.append(Temporary("input offsets", 4 * all_rows, "arena"))
        found.append(Temporary("row sums", 4 * units * math.prod(right.shape[:-2]), "persistent"))
    return found


def _reduce(op: Prepared) -> list[Temporary]:
    """An index, the axes and, for a constant input, the shape in its normal form."""
    return _reduction(op, 0)


def _reduce_with_sums(op: Prepared) -> list[Temporary]:
    """The same, and an accumulator for every output."""
    item_bytes = {"FLOAT32": 4, "INT32": 8, "INT64": 8, "BOOL": 1}.get(op.input(0).kind, 4)
    return _reduction(op, item_bytes * op.output().elements if op.input(1).constant else 0)


def _reduction(op: Prepared, accumulator_bytes: int) -> list[Temporary]:
    x, axes = op.input(0), op.input(1)
    return [
        Temporary("index", 4 * len(x.shape), "arena"),
        Temporary("axes", 4 * axes.elements if axes.constant else 0, "arena"),
        Temporary("accumulators", accumulator_bytes, "arena"),
        Temporary("shape", 4 * len(x.shape) if x.constant else 0, "arena"),
    ]


def is_hybrid(x: Tensor, kernel: Tensor) -> bool:
    """Whether a kernel quantises its float input on the fly (dynamic range)."""
    return x.kind == "FLOAT32" and kernel.kind in ("INT8", "UINT8", "INT4", "INT2")


def _hybrid(elements: int, rows: int, accumulators: int, accumulated: bool = True) -> list[Temporary]:
    return [
        Temporary("quantised input", elements, "arena"),
        Temporary("scaling factors", 4 * rows, "arena"),
        Temporary("accumulators", 4 * accumulators, "arena", accumulated),
    ]


RULES: dict[str, Callable[[Prepared], list[Temporary]]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _batch_matmul,
    "MEAN": _reduce_with_sums,
    "SUM": _reduce_with_sums,
    "REDUCE_PROD": _reduce_with_sums,
    "REDUCE_MAX": _reduce,
    "REDUCE_MIN": _reduce,
    "REDUCE_ANY": _reduce,
    "REDUCE_ALL": _reduce,
}
# Tensors that a kernel numbers ahead, whether it uses them or not.
RESERVED = {"FULLY_CONNECTED": 6, "BATCH_MATMUL": 7}
# Operators whose kernels ask for scratch, too, and which have no rule.
WITHOUT_RULE = frozenset(
    {
        "ADD_N", "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CONV_3D", "CONV_3D_TRANSPOSE",
        "CUSTOM", "LSTM", "RFFT2D", "RNN", "STABLEHLO_REDUCE_WINDOW", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
    }
)  # fmt: skip
