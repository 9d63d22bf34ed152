"""edgeks: kernel-sharing CNNs from PyTorch to a board, every shared kernel stored exactly once.

What the commands do, as functions; each is imported when it is first used, so `edgeks.footprint` never loads torch:

    checkpoint = edgeks.load_checkpoint(Path("model.pt"))
    report = edgeks.export(checkpoint, Path("model.onnx"), edgeks.load_target("onnx"), int8=True)
    print(edgeks.footprint(report.path).flash.saved_bytes)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeks.advice.advise import advise
    from edgeks.audit.diff import diff as footprint_diff
    from edgeks.audit.footprint import footprint
    from edgeks.audit.onnx.proof import prove_exactly_once
    from edgeks.bench.compare import compare as compare_latency
    from edgeks.bench.local import bench as bench_file
    from edgeks.bench.measure import measure as measure_latency
    from edgeks.bench.measurement import Effort, Job
    from edgeks.bench.memory import measure_ram
    from edgeks.bench.place import BoardPlace, Here
    from edgeks.board.examine import examine as doctor
    from edgeks.board.host import Host
    from edgeks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from edgeks.checkpoint_footprint import checkpoint_footprint
    from edgeks.device_parity import device_parity
    from edgeks.exporter import export
    from edgeks.graph.onnx_network import OnnxNetwork, load_onnx
    from edgeks.measured_footprint import with_measurements
    from edgeks.models.counts import compression, conv_weights, flops
    from edgeks.models.positive_scales import positive_scales
    from edgeks.pipeline import run_recipe
    from edgeks.prepare_onnx import prepare_onnx
    from edgeks.pruning import prune, pruned
    from edgeks.quant import prepare_qat
    from edgeks.quant.options import Int8Options
    from edgeks.recipe import load_recipe
    from edgeks.share import share as share_checkpoint
    from edgeks.sharing.plan import SharingGroup, SharingPlan, SoftGroup
    from edgeks.sharing.resolve import resolve_soft_sharing
    from edgeks.sharing.template_bank import TemplateBank
    from edgeks.sharing.torch import apply_plan, discover, plan_sharing, soft_share, untied
    from edgeks.study.run import run_study
    from edgeks.study.settings import load_study
    from edgeks.target import load_target
    from edgeks.train_job import train_checkpoint

# ONNX Runtime uploads telemetry from 1.29 on, in a thread and with files in ~/.cache, unless told otherwise when it is
# first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

# Public name → module and the name there. `bench`, `share` and `train` are modules, so their functions say of what.
_PUBLIC = {
    "Checkpoint": ("edgeks.checkpoint", "Checkpoint"),
    "Int8Options": ("edgeks.quant.options", "Int8Options"),
    "OnnxNetwork": ("edgeks.graph.onnx_network", "OnnxNetwork"),
    "SharingGroup": ("edgeks.sharing.plan", "SharingGroup"),
    "SharingPlan": ("edgeks.sharing.plan", "SharingPlan"),
    "SoftGroup": ("edgeks.sharing.plan", "SoftGroup"),
    "TemplateBank": ("edgeks.sharing.template_bank", "TemplateBank"),
    "advise": ("edgeks.advice.advise", "advise"),
    "apply_plan": ("edgeks.sharing.torch", "apply_plan"),
    "bench_file": ("edgeks.bench.local", "bench"),
    "checkpoint_footprint": ("edgeks.checkpoint_footprint", "checkpoint_footprint"),
    "BoardPlace": ("edgeks.bench.place", "BoardPlace"),
    "Effort": ("edgeks.bench.measurement", "Effort"),
    "Here": ("edgeks.bench.place", "Here"),
    "Host": ("edgeks.board.host", "Host"),
    "Job": ("edgeks.bench.measurement", "Job"),
    "compression": ("edgeks.models.counts", "compression"),
    "conv_weights": ("edgeks.models.counts", "conv_weights"),
    "flops": ("edgeks.models.counts", "flops"),
    "compare_latency": ("edgeks.bench.compare", "compare"),
    "device_parity": ("edgeks.device_parity", "device_parity"),
    "doctor": ("edgeks.board.examine", "examine"),
    "measure_latency": ("edgeks.bench.measure", "measure"),
    "discover": ("edgeks.sharing.torch", "discover"),
    "export": ("edgeks.exporter", "export"),
    "footprint": ("edgeks.audit.footprint", "footprint"),
    "footprint_diff": ("edgeks.audit.diff", "diff"),
    "load_checkpoint": ("edgeks.checkpoint", "load_checkpoint"),
    "load_onnx": ("edgeks.graph.onnx_network", "load_onnx"),
    "load_recipe": ("edgeks.recipe", "load_recipe"),
    "load_study": ("edgeks.study.settings", "load_study"),
    "load_target": ("edgeks.target", "load_target"),
    "measure_ram": ("edgeks.bench.memory", "measure_ram"),
    "plan_sharing": ("edgeks.sharing.torch", "plan_sharing"),
    "positive_scales": ("edgeks.models.positive_scales", "positive_scales"),
    "prepare_qat": ("edgeks.quant", "prepare_qat"),
    "prepare_onnx": ("edgeks.prepare_onnx", "prepare_onnx"),
    "prove_exactly_once": ("edgeks.audit.onnx.proof", "prove_exactly_once"),
    "prune": ("edgeks.pruning", "prune"),
    "pruned": ("edgeks.pruning", "pruned"),
    "resolve_soft_sharing": ("edgeks.sharing.resolve", "resolve_soft_sharing"),
    "run_recipe": ("edgeks.pipeline", "run_recipe"),
    "run_study": ("edgeks.study.run", "run_study"),
    "save_checkpoint": ("edgeks.checkpoint", "save_checkpoint"),
    "soft_share": ("edgeks.sharing.torch", "soft_share"),
    "train_checkpoint": ("edgeks.train_job", "train_checkpoint"),
    "share_checkpoint": ("edgeks.share", "share"),
    "with_measurements": ("edgeks.measured_footprint", "with_measurements"),
    "untied": ("edgeks.sharing.torch", "untied"),
}

__all__ = [
    "BoardPlace",
    "Checkpoint",
    "Effort",
    "Here",
    "Host",
    "Int8Options",
    "Job",
    "OnnxNetwork",
    "SharingGroup",
    "SharingPlan",
    "SoftGroup",
    "TemplateBank",
    "advise",
    "apply_plan",
    "bench_file",
    "checkpoint_footprint",
    "compare_latency",
    "compression",
    "conv_weights",
    "device_parity",
    "discover",
    "doctor",
    "export",
    "flops",
    "footprint",
    "footprint_diff",
    "load_checkpoint",
    "load_onnx",
    "load_recipe",
    "load_study",
    "load_target",
    "measure_latency",
    "measure_ram",
    "plan_sharing",
    "positive_scales",
    "prepare_onnx",
    "prepare_qat",
    "prove_exactly_once",
    "prune",
    "pruned",
    "resolve_soft_sharing",
    "run_recipe",
    "run_study",
    "save_checkpoint",
    "share_checkpoint",
    "soft_share",
    "train_checkpoint",
    "untied",
    "with_measurements",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgeks' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
