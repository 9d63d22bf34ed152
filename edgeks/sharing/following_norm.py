"""Which batch normalisation reads what a layer computes, and nothing else does: the place where a scale can go."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def following_norms(model: nn.Module) -> dict[int, _BatchNorm | str]:
    """id of a layer (Conv1d, Conv2d, Linear) → the BN right behind it, or why a scale of its output has no place to go.

    A BN counts when it alone reads the layer, reads nothing else, and has γ, β and running statistics that no other
    module has: then a change of it reaches nothing but this layer's output.
    """
    layers = {id(module): module for module in model.modules() if isinstance(module, LAYERS)}
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # the network is the user's own code
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        return dict.fromkeys(layers, f"torch.fx cannot trace the network: {reason}")
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(id(modules[str(node.target)]), []).append(node)
    holders = Counter(id(p) for m in model.modules() for p in (*m._parameters.values(), *m._buffers.values()))
    read_directly = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found: dict[int, _BatchNorm | str] = {}
    for identity, layer in layers.items():
        nodes = calls.get(identity, [])
        if any(modules[name] is layer for name in read_directly if name in modules):
            found[identity] = "has a kernel or bias that forward reads by itself"
            continue
        if len(nodes) != 1:
            found[identity] = "is called several times" if nodes else "is not called as a module"
            continue
        readers = list(nodes[0].users)
        norm = modules.get(str(readers[0].target)) if len(readers) == 1 and readers[0].op == "call_module" else None
        if norm is None or not isinstance(norm, _BatchNorm):
            found[identity] = f"is read by {_names(readers, modules)}, not by BN alone"
        else:
            direct = any(modules[name] is norm for name in read_directly if name in modules)
            found[identity] = _why_not(norm, len(calls[id(norm)]), holders, direct) or norm
    return found


class _Tracer(fx.Tracer):
    """torch.fx's, for which a user's own kind of BN is one operation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _why_not(norm: _BatchNorm, calls: int, holders: Counter[int], read_directly: bool) -> str:
    """Why the BN cannot take a scale; empty: it can."""
    own = (
        norm._parameters.get("weight"),
        norm._parameters.get("bias"),
        norm._buffers.get("running_mean"),
        norm._buffers.get("running_var"),
    )
    if type(norm) not in NORMS:
        return f"its BN is a {type(norm).__name__}"
    if any(tensor is None for tensor in own):
        return "its BN lacks γ, β or running statistics of its own"
    if calls > 1 or read_directly or any(holders[id(tensor)] > 1 for tensor in own):
        return "its BN is used elsewhere too"
    return ""


def _names(readers: list[fx.Node], modules: dict[str, nn.Module]) -> str:
    """What reads a layer, in a few words."""
    names = []
    for node in readers[:3]:
        if node.op == "call_module":
            names.append(type(modules[str(node.target)]).__name__)
        else:
            names.append(getattr(node.target, "__name__", str(node.target)))
    return " and ".join(names) or "nothing"
