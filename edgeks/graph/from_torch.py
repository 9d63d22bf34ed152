"""nn.Module → onnx_ir.Model in which a shared kernel is one Value and every node bears its layer's name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeks.errors import DataError, GraphError, SharingBroken
from edgeks.graph.kernels import readers
from edgeks.graph.node_names import name_nodes
from edgeks.graph.source_lines import note_sources
from edgeks.sharing.torch import discover
from edgeks.silence import silent

INPUT_NAME, OUTPUT_NAME = "input", "output"
TORCH = Path(torch.__file__).parent


def capture(model: nn.Module, example: NDArray[np.float32], opset: int) -> ir.Model:
    """Module in eval mode → graph for exactly the shape of `example` (N×C×H×W); BN stays a node.

    Nodes that read a kernel are named after their layer (`conv`, `conv#2` … where a module is called again), and all
    bear the line of the user's Python that they come from (graph/source_lines.py).

    Raises:
        GraphError: torch.export cannot trace the network, or its result is not a graph of one tensor input.
    """
    try:
        with silent(), torch.no_grad():
            program = torch.onnx.export(
                model.eval(),
                (torch.from_numpy(example),),
                dynamo=True,
                optimize=False,
                opset_version=opset,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
            )
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:  # the exporter wraps what torch.export said
            cause = cause.__cause__  # type: ignore[assignment]
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise GraphError(
            f"the network cannot be traced by torch.export for an input of shape {example.shape}: "
            f"{type(cause).__name__}: {reason[:300]}"
        ) from error
    if program is None:
        raise GraphError("torch.onnx.export returned no graph")
    graph_model = program.model
    common.IdentityEliminationPass()(graph_model)  # weight.detach() must not hide who reads the kernel
    name_nodes(graph_model)
    note_sources(graph_model, [TORCH])
    return graph_model


def without_parametrizations(model: nn.Module) -> nn.Module:
    """weight_norm and the like → a copy whose kernels are plain Parameters of the same values; else `model` itself.

    Layers that compute equal kernels from the same Parameters share one kernel in the copy. torch's own
    `remove_parametrizations` is not used: it edits the class, which a deep copy has in common with the user's network.
    """
    if not any(parametrize.is_parametrized(module) for module in model.modules()):
        return model
    plain = copy.deepcopy(model)
    computed: list[tuple[nn.Module, str, tuple[int, ...], Tensor]] = []
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            lists = module.parametrizations
            assert isinstance(lists, nn.ModuleDict)  # noqa: S101  # what is_parametrized looks at
            for name, functions in lists.items():
                originals = tuple(id(parameter) for parameter in functions.parameters())
                computed.append((module, name, originals, getattr(module, name).detach().clone()))
    kernels: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for module, name, originals, value in computed:
        if "parametrizations" in module._modules:
            del module._modules["parametrizations"]
            module.__class__ = type(module).__bases__[0]  # the class that parametrize derived its own from
        known = kernels.setdefault(originals, [])
        kernel = next((kernel for kernel in known if torch.equal(kernel, value)), None)
        if kernel is None:
            kernel = nn.Parameter(value, requires_grad=value.is_floating_point())
            known.append(kernel)
        module.register_parameter(name, kernel)
    return plain


def torch_outputs(model: nn.Module, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Samples N×C×H×W → all outputs of the network in eval mode, each N×…; one sample at a time, as the artefact runs.

    Raises:
        DataError: the network does not take the samples, or gives something else than tensors of one row per sample, or
            NaN or infinity.
    """
    rows: list[list[NDArray[np.float32]]] = []
    model.eval()
    with torch.inference_mode():
        for index in range(len(inputs)):
            try:
                result = model(torch.from_numpy(inputs[index : index + 1]))
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                shape = "×".join(map(str, inputs.shape[1:]))
                raise DataError(f"the network does not take inputs of {shape}: {reason[:300]}") from error
            rows.append([_output(tensor) for tensor in _tensors(result)])
    outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
    if not outputs or not all(np.isfinite(output).all() for output in outputs):
        raise DataError("the network's own outputs in torch are absent, NaN or infinite on these samples")
    return outputs


def _tensors(result: object) -> Iterator[object]:
    """What a network returns, flattened in the order in which the exporter lists it."""
    if isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)
    elif isinstance(result, Mapping):
        for part in result.values():
            yield from _tensors(part)
    elif result is not None:
        yield result


def _output(tensor: object) -> NDArray[np.float32]:
    if not isinstance(tensor, torch.Tensor):
        raise DataError(f"the network returns a {type(tensor).__name__}; legal: a tensor, or a tuple of tensors")
    if tensor.dim() == 0 or tensor.shape[0] != 1:
        raise DataError(
            f"the network returns a tensor of shape {tuple(tensor.shape)} for one sample; its first dimension must be "
            "the batch, 1 (a .squeeze() without a dimension drops it)"
        )
    return tensor.to(torch.float32).numpy()


def require_ties(graph_model: ir.Model, model: nn.Module) -> None:
    """Check that layers that hold one Parameter in torch read one Value.

    Raises:
        SharingBroken: naming layers that do not.
    """
    kernel_of = {layer: kernel for kernel, layers in readers(graph_model).items() for layer in layers}
    for group in discover(model).groups:
        kernels = {kernel_of[layer] for layer in group.layers if layer in kernel_of}
        if len(kernels) > 1:
            raise SharingBroken(
                f"layers {', '.join(group.layers)} hold one kernel in torch, but the captured graph has {len(kernels)}"
            )
