"""SharingPlan: which layers of a model read one kernel. Plain data, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from edgeks.errors import PlanError

Bias = Literal["none", "own", "shared"]
FLOAT32_BYTES = 4
PLAN_VERSION = 1

# Name of a layer in the body of a loop → the layers that it stands for, one per trip, in order.
Rolled = Mapping[str, tuple[str, ...]]
UNROLLED: Rolled = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SharingGroup:
    """The layers that read one kernel (one layer: it owns its kernel).

    `kernel_shape` is OIHW for Conv2d, OIW for Conv1d, OI for Linear. `bias` says whether the layers have none, one
    each, or one in common. A module that is called several times counts once per call: `conv`, `conv#2`, `conv#3`.
    """

    name: str
    layers: tuple[str, ...]
    kernel_shape: tuple[int, ...]
    bias: Bias = "none"

    def __post_init__(self) -> None:
        if not self.layers:
            raise PlanError(f"sharing group {self.name!r} has no layers")
        if self.bias not in ("none", "own", "shared"):
            raise PlanError(f"sharing group {self.name!r}: bias {self.bias!r} is not one of none, own, shared")
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in self.kernel_shape):
            raise PlanError(
                f"sharing group {self.name!r}: kernel shape {self.kernel_shape}; legal: whole numbers of 1 or more"
            )
        if len(set(self.layers)) != len(self.layers):
            twice = next(layer for layer in self.layers if self.layers.count(layer) > 1)
            raise PlanError(f"sharing group {self.name!r} lists layer {twice!r} twice")

    @property
    def kernel_bytes(self) -> int:
        """Bytes of the kernel in fp32."""
        return math.prod(self.kernel_shape) * FLOAT32_BYTES

    @property
    def stored_bytes(self) -> int:
        """fp32 bytes stored for the group: the kernel once, and its bias once or per layer."""
        biases = {"none": 0, "own": len(self.layers), "shared": 1}[self.bias]
        return self.kernel_bytes + biases * self.kernel_shape[0] * FLOAT32_BYTES

    @property
    def saved_bytes(self) -> int:
        """fp32 bytes that the same layers would take more, each with a kernel (and bias) of its own."""
        bias_bytes = self.kernel_shape[0] * FLOAT32_BYTES if self.bias == "shared" else 0
        return (len(self.layers) - 1) * (self.kernel_bytes + bias_bytes)


@dataclass(frozen=True, slots=True)
class SoftGroup:
    """The layers whose kernels are mixed from one bank of `templates` templates (arXiv 1902.09701).

    `kernel_shape` is that of a template and of every kernel, OIHW. Each layer holds as many coefficients as there are
    templates, and its own bias if any.
    """

    name: str
    layers: tuple[str, ...]
    kernel_shape: tuple[int, ...]
    templates: int
    bias: Bias = "none"

    def __post_init__(self) -> None:
        SharingGroup(self.name, self.layers, self.kernel_shape, self.bias)  # the same is legal here
        count = self.templates
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(self.layers):
            raise PlanError(
                f"template bank {self.name!r}: {count!r} templates; legal: 1 to the number of its layers, "
                f"{len(self.layers)}"
            )

    @property
    def kernel_bytes(self) -> int:
        """Bytes of one template in fp32."""
        return math.prod(self.kernel_shape) * FLOAT32_BYTES

    @property
    def stored_bytes(self) -> int:
        """fp32 bytes that training stores: the templates once, and coefficients and biases."""
        biases = {"none": 0, "own": len(self.layers), "shared": 1}[self.bias]
        coefficients = self.templates * len(self.layers) * FLOAT32_BYTES
        return self.templates * self.kernel_bytes + coefficients + biases * self.kernel_shape[0] * FLOAT32_BYTES

    @property
    def saved_bytes(self) -> int:
        """fp32 bytes that the same layers would take more, each with a kernel of its own (below 0: less)."""
        coefficients = self.templates * len(self.layers) * FLOAT32_BYTES
        bias_bytes = (len(self.layers) - 1) * self.kernel_shape[0] * FLOAT32_BYTES if self.bias == "shared" else 0
        return (len(self.layers) - self.templates) * self.kernel_bytes - coefficients + bias_bytes


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """All sharing groups of a model, the layers that own their kernels, and those that read a template bank."""

    groups: tuple[SharingGroup, ...]
    unshared: tuple[SharingGroup, ...] = ()
    banks: tuple[SoftGroup, ...] = ()

    def __post_init__(self) -> None:
        group_of: dict[str, str] = {}
        every: list[SharingGroup | SoftGroup] = [*self.kernels, *self.banks]
        for group in every:
            for layer in group.layers:
                if layer in group_of:
                    where = " and ".join(sorted({group_of[layer], group.name}))
                    raise PlanError(f"layer {layer!r} is in two groups ({where}); a layer reads exactly one kernel")
                group_of[layer] = group.name

    @property
    def kernels(self) -> tuple[SharingGroup, ...]:
        """Every kernel to store: one per sharing group, one per unshared layer."""
        return (*self.groups, *self.unshared)

    @property
    def layer_count(self) -> int:
        """Number of layers that read a kernel."""
        return sum(len(kernel.layers) for kernel in self.kernels) + sum(len(bank.layers) for bank in self.banks)

    def to_json(self) -> str:
        """SharingPlan → JSON text; `from_json` is its inverse."""
        data = {"version": PLAN_VERSION, **asdict(self)}
        if not self.banks:
            del data["banks"]
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str) -> SharingPlan:
        """JSON text → SharingPlan.

        Raises:
            PlanError: the text is not JSON or not a plan.
        """
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise PlanError(f"sharing plan is not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("version") != PLAN_VERSION:
            raise PlanError(f'sharing plan must be a JSON object with "version": {PLAN_VERSION}')
        return cls(
            groups=_groups_from(data, "groups", minimum_layers=2),
            unshared=_groups_from(data, "unshared", minimum_layers=1),
            banks=tuple(
                soft_group(group, row.get("templates"))
                for group, row in zip(_groups_from(data, "banks", minimum_layers=2), data.get("banks", []), strict=True)
            ),
        )


def named_plan(kernels: Iterable[SharingGroup], banks: Iterable[SoftGroup] = ()) -> SharingPlan:
    """Groups of any size → plan: those of one layer become `unshared`; equal names are told apart."""
    groups: list[SharingGroup] = []
    unshared: list[SharingGroup] = []
    taken: set[str] = set()

    def free(wanted: str) -> str:
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted} ({number})", number + 1
        taken.add(name)
        return name

    for kernel in kernels:
        (groups if len(kernel.layers) > 1 else unshared).append(replace(kernel, name=free(kernel.name)))
    renamed = tuple(replace(bank, name=free(bank.name)) for bank in banks)
    return SharingPlan(tuple(groups), tuple(unshared), renamed)


def soft_group(group: SharingGroup, templates: int) -> SoftGroup:
    """The group's layers, with kernels mixed from a bank of `templates` templates instead of one kernel."""
    return SoftGroup(group.name, group.layers, group.kernel_shape, templates, group.bias)


def group_name(layers: Sequence[str]) -> str:
    """Layer names → one readable name: `blocks.0.pw`, `blocks.1.pw` → `blocks.0-1.pw`; other differences read `*`."""
    names = list(dict.fromkeys(layer.partition("#")[0] for layer in layers))  # `conv`, `conv#2`: one module, two calls
    parts = [name.split(".") for name in names]
    if len({len(p) for p in parts}) != 1:
        return f"{names[0]}…{names[-1]}"
    columns = []
    for column in zip(*parts, strict=True):
        distinct = list(dict.fromkeys(column))
        if len(distinct) == 1:
            columns.append(distinct[0])
        elif all(part.isdigit() for part in distinct):
            numbers = sorted(int(part) for part in distinct)
            contiguous = numbers == list(range(numbers[0], numbers[-1] + 1))
            columns.append(f"{numbers[0]}-{numbers[-1]}" if contiguous else ",".join(map(str, numbers)))
        else:
            columns.append("*")
    return ".".join(columns) if set(columns) != {"*"} else f"{names[0]}…{names[-1]}"


def _groups_from(data: Mapping[str, Any], key: str, minimum_layers: int) -> tuple[SharingGroup, ...]:
    rows = data.get(key, [])
    if not isinstance(rows, list):
        raise PlanError(f"sharing plan: {key!r} must be a list, not {type(rows).__name__}")
    groups = []
    for index, row in enumerate(rows):
        where = f"sharing plan: {key}[{index}]"
        try:
            name, layers, shape = row["name"], row["layers"], row["kernel_shape"]
            bias = row.get("bias", "none")
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(f"{where} needs the keys name, layers, kernel_shape (and bias)") from error
        if not isinstance(name, str) or not isinstance(layers, list) or not all(isinstance(n, str) for n in layers):
            raise PlanError(f"{where}: name must be text and layers a list of layer names")
        if not isinstance(shape, list) or not shape:
            raise PlanError(f"{where}: kernel_shape must be a list of sizes, found {shape!r}")
        if len(layers) < minimum_layers:
            raise PlanError(f"{where}: a sharing group needs at least {minimum_layers} layers, found {len(layers)}")
        groups.append(SharingGroup(name, tuple(layers), tuple(shape), bias))
    return tuple(groups)
