"""Soft sharing: the kernel of a layer is a mix Σ α_k·T_k of its bank's templates (arXiv 1902.09701).

The mix is a torch parametrisation of `weight`, so any Conv2d can read a bank, and the rest of a network need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeks.errors import PlanError

BankInit = Literal["orthogonal", "svd"]


class TemplateBank(nn.Module):
    """K templates of one kernel shape, each He-initialised by its fan-in.

    Parameter `stacked` is K·O×I×kh×kw, one template above the other: of the rank that channels-last training takes.
    """

    def __init__(self, templates: int, kernel_shape: Sequence[int]) -> None:
        super().__init__()
        self.count = templates
        self.stacked = nn.Parameter(torch.empty(templates * kernel_shape[0], *kernel_shape[1:]))
        for template in self.templates.detach() if not self.stacked.is_meta else ():
            nn.init.kaiming_normal_(template)

    @property
    def templates(self) -> Tensor:
        """K×O×I×kh×kw: `stacked` as K kernels, the same memory."""
        return self.stacked.view(self.count, -1, *self.stacked.shape[1:])


class Mix(nn.Module):
    """Parametrisation: α (K) → kernel Σ α_k·T_k (O×I×kh×kw). α is what the layer holds and trains."""

    def __init__(self, bank: TemplateBank) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, coefficients: Tensor) -> Tensor:
        """K → O×I×kh×kw. A sum of products, not a matrix product: autocast leaves it in float32."""
        return (coefficients.reshape(-1, 1, 1, 1, 1) * self.bank.templates).sum(0)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """O×I×kh×kw → K: the mix that is nearest to the kernel, by least squares."""
        templates = self.bank.templates.detach().flatten(1)
        if templates.is_meta:
            return templates.new_empty(len(templates))
        products = templates @ kernel.detach().flatten()
        nearest: Tensor = torch.linalg.pinv(templates @ templates.T, hermitian=True) @ products
        return nearest


def bank_of(layer: nn.Module) -> TemplateBank | None:
    """The bank that the layer's kernel is mixed from; None: it has a kernel of another kind."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    functions = list(layer.get_submodule("parametrizations.weight").children())
    return functions[0].bank if len(functions) == 1 and isinstance(functions[0], Mix) else None


def coefficients_of(layer: nn.Module) -> nn.Parameter:
    """α of a layer that reads a bank: a Parameter of K numbers."""
    return layer.get_parameter("parametrizations.weight.original")


def share_bank(layers: Sequence[nn.Conv2d], templates: int, init: BankInit = "orthogonal") -> TemplateBank:
    """Isomorphic convolutions → the same modules, now reading one new bank of `templates` templates; in place.

    `orthogonal`: new templates, and mixing vectors that are the rows of a random matrix with orthonormal columns, as in
    the paper. `svd`: the bank that is nearest to the layers' present kernels (the least sum of squares that so many
    templates allow), again with orthonormal columns.

    Raises:
        PlanError: too few layers or templates, layers of several shapes, or a kernel that is computed already.
    """
    _check(layers, templates, init)
    kernels = torch.stack([layer.weight.detach() for layer in layers]) if init == "svd" else None
    shape, device = tuple(layers[0].weight.shape), layers[0].weight.device
    bank = TemplateBank(templates, shape).to(device)
    if device.type == "meta":
        mixes = torch.empty(len(layers), templates, device=device)
    elif kernels is None:
        mixes = nn.init.orthogonal_(torch.empty(len(layers), templates, device=device))
    else:
        u, s, v = torch.linalg.svd(kernels.flatten(1), full_matrices=False)
        mixes = u[:, :templates]
        with torch.no_grad():
            bank.templates.copy_((s[:templates, None] * v[:templates]).reshape(templates, *shape))
    for layer, mix in zip(layers, mixes, strict=True):
        frozen = not layer.weight.requires_grad
        _read_bank(layer, bank, mix, frozen=frozen)
    return bank


def own_kernel(layer: nn.Conv2d) -> None:
    """A layer that reads a bank → one with a plain kernel of its own, of the same value; in place.

    torch's `remove_parametrizations` edits the class, which deep copies have in common.
    """
    value, trainable = layer.weight.detach().clone(), coefficients_of(layer).requires_grad
    bias = layer._parameters.pop("bias")
    del layer._modules["parametrizations"]
    layer.__class__ = type(layer).__bases__[0]  # the class that parametrize derived from
    layer.register_parameter("weight", nn.Parameter(value, trainable))
    layer.register_parameter("bias", bias)  # behind the weight again, as in any state dict


def _read_bank(layer: nn.Conv2d, bank: TemplateBank, mix: Tensor, *, frozen: bool) -> None:
    parametrize.register_parametrization(layer, "weight", Mix(bank), unsafe=True)
    coefficients_of(layer).data = mix.detach().clone()
    coefficients_of(layer).requires_grad_(not frozen)


def _check(layers: Sequence[nn.Conv2d], templates: int, init: str) -> None:
    if init not in ("orthogonal", "svd"):
        raise PlanError(f"unknown initialisation {init!r} of a template bank; legal: orthogonal, svd")
    if len(layers) < 2:
        raise PlanError(f"a template bank needs at least 2 layers, found {len(layers)}")
    if not isinstance(templates, int) or isinstance(templates, bool) or not 1 <= templates <= len(layers):
        raise PlanError(
            f"templates of a bank: {templates!r}; legal: 1 to the number of its layers, {len(layers)}; more than that "
            "store more than the kernels themselves"
        )
    for layer in layers:
        if not isinstance(layer, nn.Conv2d) or isinstance(layer, nn.ConvTranspose2d):
            raise PlanError(f"a template bank is read by Conv2d layers; found {type(layer).__name__}")
        if parametrize.is_parametrized(layer, "weight"):
            raise PlanError(
                "the weight of a layer is computed already (by a template bank, or as weight_norm does) and cannot "
                "read a bank too; remove that first, with torch.nn.utils.parametrize.remove_parametrizations"
            )
        if (layer.weight.shape, layer.groups) != (layers[0].weight.shape, layers[0].groups):
            raise PlanError(
                f"layers of one bank must have one kernel shape; found {tuple(layers[0].weight.shape)} in "
                f"{layers[0].groups} groups and {tuple(layer.weight.shape)} in {layer.groups}"
            )
