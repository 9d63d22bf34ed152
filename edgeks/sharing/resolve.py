"""Soft sharing as an export stores it: template banks → ordinary kernels, exact, in the cheapest form.

A kernel Σ_k α_k·T_k is resolved to Σ_j c_j·B_j over a few stored kernels B_j, and a layer to Σ_j c_j·conv(x, B_j): one
convolution where its kernel is a multiple of a stored one. Every B_j is a kernel like any other then, stored once and
quantised once; the c_j are per-channel gains (docs/adr/0021).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeks.errors import ConfigError
from edgeks.sharing.gain import Gain
from edgeks.sharing.plan import FLOAT32_BYTES, SoftGroup
from edgeks.sharing.template_bank import bank_of, coefficients_of
from edgeks.sharing.torch import discover
from edgeks.wording import counted

BankForm = Literal["smallest", "fastest"]
BANK_FORMS: tuple[BankForm, ...] = ("smallest", "fastest")
SAME = 1e-6  # kernels whose directions differ by less than this angle are one: about what float32 resolves
GAIN_VECTORS = 2  # of a term: gain and shift in float, scale and bias in int8; 4 bytes a channel each


@dataclass(frozen=True, slots=True)
class ResolvedBank:
    """How one bank is stored: `kernels` kernels, and `convolutions` of them for all its `layers` together."""

    name: str
    templates: int
    layers: int
    kernels: int
    convolutions: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {counted(self.templates, 'template')} for {counted(self.layers, 'layer')} → "
            f"{counted(self.kernels, 'kernel')}, {counted(self.convolutions, 'convolution')}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ledgers."""
        return asdict(self)


def resolve_soft_sharing(
    model: nn.Module, form: BankForm = "smallest", *, weight_bytes: int = FLOAT32_BYTES
) -> tuple[nn.Module, tuple[ResolvedBank, ...]]:
    """Network with template banks → a copy without: ordinary convolutions, the same function; and how each is stored.

    `smallest`: the fewest bytes, at equal bytes the fewest convolutions. `fastest`: one convolution per layer, so as
    many kernels as the layers' kernels have directions. `weight_bytes`: of one weight of a stored kernel. A model
    without banks is returned as it is.

    Raises:
        ConfigError: another `form`.
    """
    if form not in BANK_FORMS:
        raise ConfigError(f"form {form!r} of template banks; legal: {', '.join(BANK_FORMS)}")
    groups = discover(model).banks
    if not groups:
        return model, ()
    plain = copy.deepcopy(model)
    return plain, tuple(_resolve(plain, group, form, weight_bytes) for group in groups)


@torch.no_grad()
def _resolve(model: nn.Module, group: SoftGroup, form: BankForm, weight_bytes: int) -> ResolvedBank:
    layers: list[nn.Conv2d] = []
    for name in group.layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)  # noqa: S101  # what a bank is read by
        layers.append(layer)
    bank = bank_of(layers[0])
    assert bank is not None  # noqa: S101  # discover found it
    templates = bank.templates.detach().double().flatten(1)
    alpha = torch.stack([coefficients_of(layer).detach().double() for layer in layers]).cpu().numpy()
    gram = (templates @ templates.T).cpu().numpy()
    kernel_bytes = weight_bytes * templates.shape[1] if form == "smallest" else 0
    term_bytes = GAIN_VECTORS * FLOAT32_BYTES * group.kernel_shape[0]
    basis, terms = stored_kernels(alpha, gram, kernel_bytes, term_bytes)
    stored = torch.from_numpy(basis).to(templates) @ templates
    kernels = [nn.Parameter(kernel.reshape(group.kernel_shape).to(bank.stacked)) for kernel in stored]
    convolutions = _replace(model, layers, kernels, terms)
    return ResolvedBank(group.name, len(templates), len(layers), len(kernels), convolutions)


def stored_kernels(
    alpha: NDArray[np.float64], gram: NDArray[np.float64], kernel_bytes: int, term_bytes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mixing vectors (layers × K), inner products of the templates (K × K) → mixes of the kernels to store, and terms.

    Both are by rows: kernel j is Σ_k basis[j, k]·T_k, and layer l's kernel Σ_j terms[l, j]·B_j. A basis of the layers'
    kernels is stored, taken from among them: such a layer is one convolution. Of the others a kernel is stored too
    where its `kernel_bytes` are not more than the `term_bytes` of the terms that its layers then need not.
    """
    values, vectors = np.linalg.eigh(gram)
    # A mix times this is its kernel in orthonormal coordinates, where angles and lengths are those of kernels.
    root = vectors * np.sqrt(np.clip(values, 0, None))
    kernels = alpha @ root
    lengths = np.linalg.norm(kernels, axis=1)
    nothing = lengths <= SAME * max(lengths.max(), np.finfo(np.float64).tiny)
    directions = kernels / np.where(nothing, 1, lengths)[:, None]
    first = _classes(directions, nothing)  # layer → the first layer of its direction
    readers = {leader: first.count(leader) for leader in first if leader >= 0}

    chosen: list[int] = []
    left = directions.copy()
    while len(chosen) < len(readers):
        # The direction that is furthest from all that is stored keeps every c_j small; of equals, the most read.
        far = max(readers, key=lambda i: (round(float(np.linalg.norm(left[i])), 6), readers[i], -i))
        residual = float(np.linalg.norm(left[far]))
        if residual <= SAME:
            break
        chosen.append(far)
        axis = left[far] / residual
        left -= np.outer(left @ axis, axis)
    spanning = sorted(chosen)
    avoided = (len(spanning) - 1) * term_bytes
    chosen = sorted(spanning + [i for i in readers if i not in spanning and kernel_bytes <= readers[i] * avoided]) or [
        0
    ]

    terms = np.zeros((len(alpha), len(chosen)))
    solve = np.linalg.pinv(kernels[spanning])
    for layer, leader in enumerate(first):
        if leader in chosen:
            terms[layer, chosen.index(leader)] = kernels[layer] @ kernels[leader] / lengths[leader] ** 2
        elif leader >= 0:
            terms[layer, [chosen.index(i) for i in spanning]] = kernels[layer] @ solve
    terms[np.abs(terms) * lengths[chosen] <= SAME * lengths[:, None]] = 0
    terms = np.where(np.abs(np.abs(terms) - 1) < SAME / 10, np.sign(terms), terms)
    signs = np.where((terms > 0).sum(0) < (terms < 0).sum(0), -1.0, 1.0)  # a negative gain makes a negative scale
    return alpha[chosen] * signs[:, None], terms * signs


def _classes(directions: NDArray[np.float64], nothing: NDArray[np.bool_]) -> list[int]:
    """For each row the first row of the same or the opposite direction; -1: a kernel of zeros."""
    first: list[int] = []
    for row, direction in enumerate(directions):
        leader = -1 if nothing[row] else row
        for earlier in sorted(set(first) - {-1}) if leader == row else []:
            other = directions[earlier]
            if np.linalg.norm(direction - (direction @ other) * other) <= SAME:
                leader = earlier
                break
        first.append(leader)
    return first


def _replace(
    model: nn.Module, layers: Sequence[nn.Conv2d], kernels: Sequence[nn.Parameter], terms: NDArray[np.float64]
) -> int:
    """Every layer → its terms; how many convolutions these are.

    Layers that are one convolution each, of one kernel, are written alike, so that blocks of them can be rolled.
    """
    used = [[int(j) for j in np.flatnonzero(row)] or [0] for row in terms]
    plain = {
        j for j in range(len(kernels))
        if all(row[j] == 1 for row, numbers in zip(terms, used, strict=True) if numbers == [j])
    }  # fmt: skip
    new: dict[nn.Module, nn.Module] = {}
    for layer, row, numbers in zip(layers, terms, used, strict=True):
        if len(numbers) == 1 and numbers[0] in plain:
            new[layer] = _convolution(layer, kernels[numbers[0]], layer.bias)
        else:
            new[layer] = KernelSum(layer, [(j, kernels[j], float(row[j])) for j in numbers])
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in new:
            model.set_submodule(name, new[module])
    return sum(map(len, used))


class KernelSum(nn.Module):
    """x N×I×H×W → Σ c_j·conv(x, B_j) + bias: convolutions `kernel1`, `kernel2` … with a `gain1` … behind each."""

    def __init__(self, like: nn.Conv2d, terms: Sequence[tuple[int, nn.Parameter, float]]) -> None:
        super().__init__()
        self.numbers = [number + 1 for number, _, _ in terms]
        for number, kernel, factor in terms:
            bias = like.bias if number == terms[-1][0] else None
            self.add_module(f"kernel{number + 1}", _convolution(like, kernel, None))
            self.add_module(f"gain{number + 1}", Gain(like.out_channels, factor, bias))

    def forward(self, x: Tensor) -> Tensor:
        """N×I×H×W → N×O×H'×W'."""
        parts = [getattr(self, f"gain{n}")(getattr(self, f"kernel{n}")(x)) for n in self.numbers]
        y: Tensor = parts[0]
        for part in parts[1:]:
            y = y + part
        return y


def _convolution(like: nn.Conv2d, kernel: nn.Parameter, bias: Tensor | None) -> nn.Conv2d:
    """A plain Conv2d with the settings of `like` that reads `kernel`."""
    conv = nn.Conv2d(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        stride=like.stride,  # type: ignore[arg-type]
        padding=like.padding,  # type: ignore[arg-type]
        dilation=like.dilation,  # type: ignore[arg-type]
        groups=like.groups,
        bias=False,
        padding_mode=like.padding_mode,
        device="meta",
    )
    conv.weight, conv.bias = kernel, bias
    return conv.train(like.training)
