"""Sharing in torch: discover the groups of a module, plan new ones, tie layers by a plan, and untie them again.

Sharing is identity: two layers share a kernel when their `weight` is the same `nn.Parameter`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgeks.errors import PlanError
from edgeks.sharing.plan import Bias, SharingGroup, SharingPlan, SoftGroup, group_name, named_plan, soft_group
from edgeks.sharing.template_bank import BankInit, TemplateBank, bank_of, own_kernel, share_bank

Init = Literal["first", "mean"]
Scheme = Literal["all", "stage"] | int | Sequence[Sequence[str]]
Layer = nn.Conv1d | nn.Conv2d | nn.Linear
LAYER_TYPES = (nn.Conv1d, nn.Conv2d, nn.Linear)


def discover(model: nn.Module) -> SharingPlan:
    """Module → its sharing plan, by parameter identity: one Parameter, or one memory (Conv1d, Conv2d, Linear).

    A module registered under several names is one layer per name. A module that `forward` calls several times is one
    layer here; the exported graph, which knows the calls, lists it once per call. Layers that mix their kernels from
    one template bank are in `banks`. A layer whose weight is computed otherwise (weight_norm) owns its kernel.
    """
    layers_of: dict[object, list[tuple[str, Layer]]] = {}
    readers_of: dict[TemplateBank, list[tuple[str, Layer]]] = {}
    for name, layer in _layers(model):
        bank = bank_of(layer)
        if bank is not None:
            readers_of.setdefault(bank, []).append((name, layer))
            continue
        # A computed weight is a new tensor at every access: its id says nothing, the module's does.
        identity = _identity(layer.weight) if _holds_weight(layer) else id(layer)
        layers_of.setdefault(identity, []).append((name, layer))
    kernels = [_group([name for name, _ in found], [layer for _, layer in found]) for found in layers_of.values()]
    banks = [
        soft_group(_group([name for name, _ in found], [layer for _, layer in found]), bank.count)
        for bank, found in readers_of.items()
    ]
    return named_plan(kernels, banks)


def plan_sharing(
    model: nn.Module, scheme: Scheme, *, tie_bias: bool = False, example_input: Tensor | None = None
) -> SharingPlan:
    """Plan for tying isomorphic layers of `model`.

    `all`: every class of isomorphic convolutions reads one kernel. `stage`: one kernel per class and feature-map size
    (of the output; needs `example_input`, N×C×H×W). A number k: each class, in order of execution, is cut into k
    contiguous groups of near-equal length, as in arXiv 2210.14151. A list of lists of layer names: just those.
    The first three plan convolutions only; a Linear layer is tied when it is listed.

    Raises:
        PlanError: unknown scheme or layer, layers that are not isomorphic, or nothing to share.
    """
    if isinstance(scheme, list | tuple):
        return _explicit_plan(model, scheme, tie_bias)
    if isinstance(scheme, bool) or not (isinstance(scheme, int) or scheme in ("all", "stage")):
        raise PlanError(
            f"unknown sharing scheme {scheme!r}; legal: all, stage, a number of groups, or lists of layers "
            "(on the command line: a plan in a .json file)"
        )
    if isinstance(scheme, int) and scheme < 1:
        raise PlanError(f"number of sharing groups is {scheme}; legal: 1 or more")
    calls = _calls(model, example_input) if example_input is not None else None
    if scheme == "stage" and calls is None:
        raise PlanError("scheme 'stage' groups layers by feature-map size and needs an example input")

    convolutions = [
        (name, layer)
        for name, layer in _layers(model)
        if not isinstance(layer, nn.Linear) and _holds_weight(layer)  # a computed weight cannot be tied
    ]
    if calls is not None:
        convolutions = sorted((c for c in convolutions if c[0] in calls), key=lambda c: list(calls).index(c[0]))
    classes: dict[object, list[tuple[str, Layer]]] = {}
    for name, layer in convolutions:
        size = calls[name] if scheme == "stage" and calls is not None else None
        classes.setdefault((*_isomorphism(layer), size), []).append((name, layer))
    parts = scheme if isinstance(scheme, int) else 1
    groups = [
        _group([name for name, _ in part], [layer for _, layer in part], tie_bias)
        for members in classes.values()
        for part in _contiguous(members, parts)
        if len(part) > 1
    ]
    most = max(map(len, classes.values()), default=0)
    if not groups and most > 1:
        raise PlanError(f"{scheme} groups leave each layer a kernel of its own; legal: 1 to {most - 1}")
    if not groups:
        raise PlanError(f"scheme {scheme!r} ties nothing: no two convolutions of the model are isomorphic")
    return named_plan(groups)


@torch.no_grad()
def apply_plan(model: nn.Module, plan: SharingPlan, init: Init = "first") -> nn.Module:
    """Unshared model → the layers of each group hold one Parameter; in place, and returned.

    The kernel starts as the first layer's or as the mean of all layers'. Biases are tied where the group says `shared`.
    What is tied is trainable unless all that it replaces is frozen (`requires_grad` False). The layers of each of the
    plan's banks read one template bank, a new one where they do not yet.

    Raises:
        PlanError: a layer is unknown, or not isomorphic to its group.
    """
    if init not in ("first", "mean"):
        raise PlanError(f"unknown initialisation {init!r}; legal: first, mean")
    resolved = checked_layers(model, plan)  # all of it, before anything is changed
    for group, layers in resolved:
        _tie(layers, "weight", init)
        if group.bias == "shared":
            _tie(layers, "bias", init)
    for soft in plan.banks:
        _mix(soft, [_layer(model, name) for name in soft.layers])
    return model


def checked_layers(model: nn.Module, plan: SharingPlan) -> list[tuple[SharingGroup, list[Layer]]]:
    """The plan's groups, each with its layers in `model`, which the plan fits.

    Raises:
        PlanError: a layer is unknown, not isomorphic to its group, or has a computed weight; shapes or biases differ.
    """
    resolved = [(group, [_layer(model, name) for name in group.layers]) for group in plan.groups]
    for group, layers in resolved:
        _check_isomorphic(group.layers, layers)
        for name, layer in zip(group.layers, layers, strict=True):
            if not _holds_weight(layer):
                raise PlanError(
                    f"the weight of layer {name!r} is computed by a parametrisation (such as weight_norm) and cannot "
                    "be tied; remove it first, with torch.nn.utils.parametrize.remove_parametrizations"
                )
        if tuple(layers[0].weight.shape) != group.kernel_shape:
            raise PlanError(
                f"group {group.name!r} plans a kernel of shape {group.kernel_shape}; layer {group.layers[0]!r} has "
                f"{tuple(layers[0].weight.shape)}"
            )
        if group.bias == "shared" and any(layer.bias is None for layer in layers):
            raise PlanError(f"group {group.name!r} ties biases, but not every one of its layers has a bias")
    return resolved


def soft_share(model: nn.Module, plan: SharingPlan, templates: int, *, init: BankInit = "orthogonal") -> nn.Module:
    """Unshared model → the layers of each group of `plan` mix their kernels from one bank; in place, and returned.

    A group of no more layers than `templates` is left alone: it would store more. `init` "orthogonal": new templates,
    to be trained; "svd": those from which the layers' present kernels are mixed with the least error.

    Raises:
        PlanError: a layer is unknown, no Conv2d or not isomorphic to its group, or there is nothing to share.
    """
    groups = [group for group in plan.groups if len(group.layers) > templates]
    if not groups:
        most = max((len(group.layers) for group in plan.groups), default=0)
        raise PlanError(
            f"templates of a bank: {templates}; the plan's largest group has {most} layers; legal: fewer than that"
        )
    resolved = [(group, [_layer(model, name) for name in group.layers]) for group in groups]
    for group, layers in resolved:
        _check_isomorphic(group.layers, layers)
    for group, layers in resolved:
        _bank(group.name, layers, templates, init)
    return model


def _bank(name: str, layers: Sequence[Layer], templates: int, init: BankInit = "orthogonal") -> TemplateBank:
    try:
        return share_bank(layers, templates, init)  # type: ignore[arg-type]  # share_bank checks it
    except PlanError as error:
        raise PlanError(f"template bank {name!r}: {error}") from error


def _mix(group: SoftGroup, layers: Sequence[Layer]) -> None:
    """The layers read one bank as `group` says; unchanged where they do already."""
    banks = {bank_of(layer) for layer in layers}
    bank = banks.pop() if len(banks) == 1 else None
    if bank is None:
        bank = _bank(group.name, layers, group.templates)
    if group.bias == "shared" and not _all_one([layer.bias for layer in layers]):
        _tie(layers, "bias", "first")
    if tuple(bank.templates.shape) != (group.templates, *group.kernel_shape):
        raise PlanError(
            f"template bank {group.name!r} plans {group.templates} templates of {group.kernel_shape}; its layers read "
            f"{tuple(bank.templates.shape)}"
        )


def untied(model: nn.Module) -> nn.Module:
    """Model → an independent copy in which every layer owns its kernel and bias (same function, nothing shared)."""
    twin = copy.deepcopy(model)
    for layer in list(twin.modules()):
        if isinstance(layer, nn.Conv2d) and bank_of(layer) is not None:
            own_kernel(layer)
    _separate(twin, {id(twin)})
    seen: set[object] = set()
    for _, layer in _layers(twin):
        for kind in ("weight", "bias"):
            parameter = layer._parameters.get(kind)
            if parameter is not None and _identity(parameter) in seen:
                parameter = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                setattr(layer, kind, parameter)
            if parameter is not None:
                seen.add(_identity(parameter))
    return twin


def _separate(parent: nn.Module, seen: set[int]) -> None:
    """Give every name below `parent` a module of its own, where one module has several names."""
    for name, child in list(parent._modules.items()):
        if child is None:
            continue
        if id(child) in seen:
            child = copy.deepcopy(child)
            setattr(parent, name, child)
        seen.add(id(child))
        _separate(child, seen)


def _holds_weight(layer: Layer) -> bool:
    """Whether the weight is a Parameter of the layer, not computed at every access."""
    return layer._parameters.get("weight") is not None


def _layers(model: nn.Module) -> list[tuple[str, Layer]]:
    named = model.named_modules(remove_duplicate=False)
    return [(name or type(module).__name__, module) for name, module in named if isinstance(module, LAYER_TYPES)]


def _layer(model: nn.Module, name: str) -> Layer:
    layers = dict(_layers(model))
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3) or list(layers)[:3]
        raise PlanError(f"unknown layer {name!r}: no Conv1d, Conv2d or Linear of that name; near: {', '.join(near)}")
    return layers[name]


def _all_one(tensors: Sequence[Tensor | None]) -> bool:
    identities = {None if tensor is None else _identity(tensor) for tensor in tensors}
    return len(identities) == 1 and None not in identities


def _identity(tensor: Tensor) -> object:
    """Equal for one Parameter, and for two that view the same memory (`nn.Parameter(other.data)`)."""
    if tensor.device.type == "meta" or tensor.numel() == 0 or tensor.layout is not torch.strided:
        return id(tensor)
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _isomorphism(layer: Layer) -> tuple[object, ...]:
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return (isinstance(layer, nn.Linear), tuple(layer.weight.shape), groups)


def _check_isomorphic(names: Sequence[str], layers: Sequence[Layer]) -> None:
    for name, layer in zip(names, layers, strict=True):
        if _isomorphism(layer) != _isomorphism(layers[0]):
            raise PlanError(
                f"layers {names[0]!r} ({_describe(layers[0])}) and {name!r} ({_describe(layer)}) are not isomorphic; "
                "layers of one group must have one kernel shape"
            )


def _describe(layer: Layer) -> str:
    groups = "" if isinstance(layer, nn.Linear) or layer.groups == 1 else f", groups {layer.groups}"
    return f"{type(layer).__name__} kernel {'×'.join(map(str, layer.weight.shape))}{groups}"


def _group(names: Sequence[str], layers: Sequence[Layer], tie_bias: bool | None = None) -> SharingGroup:
    """`tie_bias` None: as the layers are now."""
    biases = [layer.bias for layer in layers]
    bias: Bias
    if all(b is None for b in biases):
        bias = "none"
    elif tie_bias if tie_bias is not None else len(biases) > 1 and _all_one(biases):
        bias = "shared"
    else:
        bias = "own"
    return SharingGroup(group_name(names), tuple(names), tuple(layers[0].weight.shape), bias)


def _explicit_plan(model: nn.Module, scheme: Sequence[Sequence[str]], tie_bias: bool) -> SharingPlan:
    groups = []
    for names in scheme:
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise PlanError(f"found {names!r} in a list of sharing groups; legal: a list of layer names per group")
        if len(names) < 2:
            raise PlanError(f"a sharing group needs at least 2 layers, found {list(names)!r}")
        layers = [_layer(model, name) for name in names]
        _check_isomorphic(names, layers)
        groups.append(_group(names, layers, tie_bias))
    return named_plan(groups)


def _contiguous(members: list[tuple[str, Layer]], parts: int) -> list[list[tuple[str, Layer]]]:
    """Cut into `parts` contiguous runs (at most one per member), the earlier longer by one where it does not divide."""
    parts = min(parts, len(members))
    length, longer = divmod(len(members), parts)
    runs, start = [], 0
    for index in range(parts):
        stop = start + length + (index < longer)
        runs.append(members[start:stop])
        start = stop
    return runs


def _tie(layers: Sequence[Layer], kind: Literal["weight", "bias"], init: Init) -> None:
    parameters = [getattr(layer, kind) for layer in layers]
    start = parameters[0] if init == "first" else torch.stack([p.detach() for p in parameters]).mean(0)
    kernel = nn.Parameter(start.detach().clone(), requires_grad=any(p.requires_grad for p in parameters))
    for layer in layers:
        setattr(layer, kind, kernel)


def _calls(model: nn.Module, example_input: Tensor) -> dict[str, tuple[int, ...]]:
    """Layer name → spatial size of its (first) output, in order of execution."""
    seen: dict[str, tuple[int, ...]] = {}

    def recorder(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen.setdefault(name, tuple(output.shape[2:]))

        return record

    handles = [layer.register_forward_hook(recorder(name)) for name, layer in _layers(model)]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(example_input)
    except Exception as error:
        shape = "×".join(map(str, example_input.shape))
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        raise PlanError(f"the model does not take the example input of {shape}: {reason}") from error
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen
