"""Nodes named after their layers, each name once: what the sharing plan, the ledger and the proof speak of."""

from __future__ import annotations

import ast

import onnx_ir as ir

from edgeks.graph.kernels import WEIGHT_INPUT

RECORDED = "pkg.torch.onnx."  # where torch's exporter writes the modules that a node comes from


def name_nodes(model: ir.Model) -> None:
    """Name kernel readers and torch.nn modules after the module that called them, other nodes after module and op.

    The module is known from what torch's exporter records, or from names as its older exporter gives them
    (`/layers/layers.0/conv/Conv` → `layers.0.conv`). Other tools' names stay; a nameless node gets its op's and its
    output's. A name that is taken gets a number: `conv`, `conv#2` …
    """
    nodes = sorted(model.graph, key=lambda node: node.op_type not in WEIGHT_INPUT)  # layers take their names first
    taken: set[str] = set()
    for node in nodes:
        name = _name(node)
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}#{number}", number + 1
        taken.add(unique)
        node.name = unique


def _name(node: ir.Node) -> str:
    reads_kernel = node.op_type in WEIGHT_INPUT
    if f"{RECORDED}name_scopes" in node.metadata_props:
        scope, module_class = _module_scope(node)
        is_module = bool(scope) and (reads_kernel or module_class.startswith("torch.nn.modules."))
        return scope if is_module else f"{scope}.{node.op_type}".lstrip(".")
    if node.name and node.name.startswith("/"):
        *modules, op = [part for part in node.name.split("/") if part] or [node.op_type]
        scope = _dotted(modules)
        return scope if scope and reads_kernel else f"{scope}.{op}".lstrip(".")
    return node.name or f"{node.op_type}.{node.outputs[0].name}"


def _dotted(modules: list[str]) -> str:
    """`layers`, `layers.0`, `conv` → `layers.0.conv`: an entry that repeats the one before it stands for both."""
    kept: list[str] = []
    for module in modules:
        if kept and module.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(module)
    return ".".join(kept)


def _module_scope(node: ir.Node) -> tuple[str, str]:
    """Dotted name and class of the innermost module, as the exporter records them (the last entry is the op itself)."""
    lists = []
    for key in ("name_scopes", "class_hierarchy"):
        try:
            entries = ast.literal_eval(node.metadata_props.get(RECORDED + key, "[]"))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # a file can say anything
            entries = []
        lists.append(str(entries[-2]) if isinstance(entries, list) and len(entries) > 1 else "")
    return lists[0], lists[1]
