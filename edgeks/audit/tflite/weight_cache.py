"""Whether a .tflite file can be run with XNNPACK's weight cache, and what the cache's file holds."""

from __future__ import annotations

from dataclasses import replace

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.alignment import PAGE, rounded_up
from edgeks.audit.ram import Machine
from edgeks.audit.xnnpack.plan import XnnpackPlan
from edgeks.model_files.tflite_weight_cache import cached_copies, weight_cache_fault
from edgeks.target import Board

ENTRY_BYTES = 128  # of the cache's index, and the alignment of a packed kernel
ARMV8_0 = ("ARMv8.0", "Cortex-A35", "Cortex-A53", "Cortex-A57", "Cortex-A72", "Cortex-A73")


def no_weight_cache(model: schema.ModelT, board: Board | None) -> str | None:
    """Why LiteRT's CompiledModel with a weight cache cannot run the file (on a board); None where it can."""
    if board is not None and any(core in board.cpu for core in ARMV8_0):
        return f"CompiledModel needs ARMv8.1, and {board.name} has a {board.cpu}"
    fault = weight_cache_fault(model)
    return None if fault is None else f"its weight cache would compute wrong numbers: {fault}; export --form cached"


def with_weight_cache(model: schema.ModelT, plan: XnnpackPlan) -> XnnpackPlan:
    """The plan with every packed kernel held once per entry of the cache, whatever number of layers read it."""
    entries = cached_copies(model)
    kernels = []
    for kernel in plan.kernels:
        copies = min(entries.get(kernel.buffer, kernel.packed_copies), kernel.packed_copies)
        held = kernel.packed_bytes * copies // max(1, kernel.packed_copies)
        kernels.append(replace(kernel, packed_copies=copies, packed_bytes=held))
    packed = sum(kernel.packed_bytes + ENTRY_BYTES * kernel.packed_copies for kernel in kernels)
    return replace(plan, kernels=tuple(kernels), packed_bytes=rounded_up(packed, PAGE))


def cache_notes(plan: XnnpackPlan, machine: Machine) -> tuple[str, ...]:
    """What a user of the profile needs to know of a plan `with_weight_cache`."""
    flash = f"litert-cached: the packed kernels are a file beside the model: {plan.packed_bytes:,} bytes more of flash"
    estimate = "litert-cached: what LiteRT takes for itself was measured on x86-64 only; on arm64 it is an estimate"
    return (flash,) if machine == "x86-64" else (flash, estimate)
