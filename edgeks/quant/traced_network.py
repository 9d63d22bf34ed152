"""A network as torch.fx sees it, with the kernels of its layers as tensors that fake-quantisers can stand behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import GraphError
from edgeks.sharing.torch import discover

FUNCTIONS = (functional.conv1d, functional.conv2d, functional.linear)
DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.alpha_dropout: nn.AlphaDropout,
    functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class _KernelConv1d(nn.Conv1d):
    """A Conv1d that is given its kernel: O×I×K."""

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self._conv_forward(x, kernel, self.bias)
        return y


class _KernelConv2d(nn.Conv2d):
    """A Conv2d that is given its kernel: O×I×K×K."""

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self._conv_forward(x, kernel, self.bias)
        return y


class _KernelLinear(nn.Linear):
    """A Linear that is given its kernel: O×I."""

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:  # type: ignore[override]
        return functional.linear(x, kernel, self.bias)


GIVEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: _KernelConv1d,
    nn.Conv2d: _KernelConv2d,
    nn.Linear: _KernelLinear,
}


def traced_network(model: nn.Module) -> fx.GraphModule:
    """Module → GraphModule in which every layer is given its kernel, read once ahead of all its uses."""
    try:
        traced = fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # the network is the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise GraphError(
            f"quantisation-aware training needs a network that torch.fx can trace: {reason[:300]}; move control flow "
            "that depends on tensors out of forward, or quantise after training (edgeks export --int8)"
        ) from error
    _spell_out_silu(traced)
    _dropout_by_mode(traced)
    first_name = {layer: group.layers[0] for group in discover(traced).kernels for layer in group.layers}
    first_use = next(node for node in traced.graph.nodes if node.op != "placeholder")
    kernels: dict[str, fx.Node] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_module":
            continue
        layer = traced.get_submodule(node.target)
        if type(layer) in GIVEN:
            layer.__class__ = GIVEN[type(layer)]
        elif type(layer) not in GIVEN.values():
            continue
        name = f"{first_name[node.target]}.weight"
        if name not in kernels:
            with traced.graph.inserting_before(first_use):
                kernels[name] = traced.graph.get_attr(name)
        node.args, node.kwargs = (*node.args, *node.kwargs.values(), kernels[name]), {}
    _one_read_per_kernel(traced)
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """torch.fx's, for which a user's own kind of BN is one operation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _dropout_by_mode(traced: fx.GraphModule) -> None:
    """F.dropout(x, p, self.training) → a module: tracing has frozen the mode.

    Raises:
        GraphError: another function was told the mode, such as F.batch_norm.
    """
    for node in list(traced.graph.nodes):
        if node.op != "call_function" or not ("training" in node.kwargs or node.target in DROPOUTS):
            continue
        if node.target not in DROPOUTS:
            raise GraphError(
                f"torch.fx freezes the mode that {getattr(node.target, '__name__', node.target)} is told in forward: "
                "use the module of that name instead of the function"
            )
        given = {**dict(zip(("input", "p"), node.args, strict=False)), **node.kwargs}
        path = f"dropouts.{node.name}"
        traced.add_submodule(path, DROPOUTS[node.target](given.get("p", 0.5)))
        with traced.graph.inserting_before(node):
            module = traced.graph.call_module(path, (given["input"],))
        node.replace_all_uses_with(module)
        traced.graph.erase_node(node)


def _one_read_per_kernel(traced: fx.GraphModule) -> None:
    """A Parameter that modules and functions read as their kernel is read by one node, ahead of them all."""
    first: dict[int, fx.Node] = {}
    for kernel, layers in kernel_nodes(traced).items():
        module, _, name = str(kernel.target).rpartition(".")
        one = first.setdefault(id(getattr(traced.get_submodule(module), name)), kernel)
        for layer in layers if one is not kernel else []:
            layer.replace_input_with(kernel, one)
    traced.graph.eliminate_dead_code(lambda node: node.op not in ("get_attr",))


def _spell_out_silu(traced: fx.GraphModule) -> None:
    """SiLU → x·Sigmoid(x), as the exporter writes it: the gate is quantised too."""
    for node in list(traced.graph.nodes):
        is_module = node.op == "call_module" and type(traced.get_submodule(node.target)) is nn.SiLU
        if not is_module and not (node.op == "call_function" and node.target is functional.silu):
            continue
        with traced.graph.inserting_before(node):
            x = node.args[0] if node.args else node.kwargs["input"]
            gate = traced.graph.call_function(torch.sigmoid, (x,))
            product = traced.graph.call_function(torch.mul, (x, gate))
        node.replace_all_uses_with(product)
        traced.graph.erase_node(node)


def kernel_nodes(traced: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Node that reads a kernel's Parameter → the nodes of its layers, modules and functions."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        given = node.op == "call_module" and type(traced.get_submodule(node.target)) in GIVEN.values()
        function = node.op == "call_function" and node.target in FUNCTIONS
        if (given or function) and isinstance(weight, fx.Node) and weight.op == "get_attr":
            found.setdefault(weight, []).append(node)
    return found


def insert_behind(
    traced: fx.GraphModule,
    node: fx.Node,
    target: str | Callable[..., Tensor],
    *more: object,
    readers: set[fx.Node] | None = None,
) -> None:
    """Call the module or function `target` with `node` (and `more`); `readers` (None: all) then read the result."""
    after = node
    while after.op == "placeholder" and after.next.op == "placeholder":
        after = after.next
    with traced.graph.inserting_after(after):
        kind = "call_module" if isinstance(target, str) else "call_function"
        inserted = traced.graph.create_node(kind, target, (node, *more))  # type: ignore[arg-type]
    node.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user is not inserted and (readers is None or user in readers)
    )
