"""Quantisation-aware training of networks that share kernels (docs/arithmetic.md, docs/qat.md).

One fake-quantiser per kernel, ahead of all its uses; activation fake-quantisers where the exported graph has a
QuantizeLinear, and nowhere else. Where that is, the export's own passes say (layout.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import CheckpointError, ConfigError, GraphError
from edgeks.graph.from_torch import without_parametrizations
from edgeks.quant.fake_quant import (
    ActivationFakeQuantize,
    BiasRounding,
    KernelFakeQuantize,
    Ranges,
    Same,
    checked_ranges,
)
from edgeks.quant.layout import BiasPoint, Layout, Mark, find_layout
from edgeks.quant.traced_network import insert_behind, traced_network
from edgeks.quant.trained import Trained
from edgeks.sharing.torch import discover
from edgeks.target import Int8Scheme

SMALLEST_STEP = 1e-25
DEFAULT_SCHEME = Int8Scheme(form="qdq", activations="uint8", weights="int8")  # target "onnx"
KERNELS, ACTIVATIONS, BIASES = "kernel_quantizers", "activation_quantizers", "bias_roundings"  # submodules
LAYOUT = "edgeks.qat"  # key of GraphModule.meta


def prepare_qat(
    model: nn.Module, example_input: Tensor, scheme: Int8Scheme = DEFAULT_SCHEME, *, ranges: Ranges = "learned"
) -> fx.GraphModule:
    """Network → a copy that trains with fake quantisation, of the same interface and with the same parameter names.

    `example_input` is N×C×H×W float32 and only tells the shapes. `ranges` "learned": step sizes of kernels and
    activations are parameters (LSQ), which start at what the first training batch shows (or `observe_ranges`);
    "moving_average": they follow the kernels and the batches. Kernels that are computed (weight_norm) become plain.

    Raises:
        GraphError: torch.fx cannot trace the network, or no layer can be quantised.
        ConfigError: an illegal `ranges`, template banks, or the model is prepared already.
    """
    checked_ranges(ranges)
    if discover(model).banks:
        raise ConfigError(
            "quantisation-aware training: the network mixes its kernels from template banks (soft sharing), and which "
            "kernels int8 stores is known after training; quantise after training (edgeks export --int8), or train on "
            "from what edgeks.resolve_soft_sharing gives"
        )
    if is_prepared(model):
        raise ConfigError("prepare_qat: the model is prepared for quantisation-aware training already")
    training, device = model.training, next((p.device for p in model.parameters()), torch.device("cpu"))
    traced = traced_network(without_parametrizations(copy.deepcopy(model).cpu()))
    example = example_input[:1].detach().to("cpu", torch.float32)
    layout = find_layout(traced, example, scheme, ranges)
    return _with_quantisers(traced, layout).to(device).train(training)


def rebuild_qat(model: nn.Module, layout: Layout) -> fx.GraphModule:
    """A float network of the architecture that `layout` was made of → the prepared network, its ranges still unset.

    Raises:
        CheckpointError: the layout does not fit the network.
    """
    try:
        return _with_quantisers(traced_network(without_parametrizations(copy.deepcopy(model))), layout)
    except (
        KeyError,
        AttributeError,
        ValueError,
        RuntimeError,
        GraphError,
        CheckpointError,
    ) as error:  # the layout is from a file
        raise CheckpointError(f"its fake-quantisers do not fit the architecture ({error})") from error


def is_prepared(model: nn.Module) -> bool:
    """Whether `model` came from `prepare_qat`.

    Raises:
        ConfigError: it holds fake-quantisers, but is not what `prepare_qat` returned.
    """
    if isinstance(model, fx.GraphModule) and LAYOUT in model.meta:
        return True
    if any(isinstance(module, ActivationFakeQuantize | KernelFakeQuantize) for module in model.modules()):
        raise ConfigError(
            "the network holds fake-quantisers but is not itself what prepare_qat returned (wrapped in another module, "
            "or pickled whole): give the network that prepare_qat returned, and save it with edgeks.save_checkpoint"
        )
    return False


def layout_of(model: nn.Module) -> Layout:
    """Where the fake-quantisers of a prepared network are."""
    layout: Layout = model.meta[LAYOUT]  # type: ignore[assignment,index]
    return layout


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Within, activations pass unchanged and every activation fake-quantiser widens its range to hold them."""
    quantisers = [module for module in model.modules() if isinstance(module, ActivationFakeQuantize)]
    for quantiser in quantisers:
        quantiser.observing = True
    try:
        yield
    finally:
        for quantiser in quantisers:
            quantiser.observing = False
            if quantiser.has_range:
                quantiser.take_range()


@contextmanager
def without_ranges(model: nn.Module) -> Iterator[None]:
    """Within, activations pass unchanged where a fake-quantiser has no range yet: to look at a network's outputs."""
    waiting = [
        module for module in model.modules() if isinstance(module, ActivationFakeQuantize) and not module.has_range
    ]
    for quantiser in waiting:
        quantiser.passing = True
    try:
        yield
    finally:
        for quantiser in waiting:
            quantiser.passing = False


def observe_ranges(model: nn.Module, inputs: Tensor, batch_size: int = 64) -> None:
    """Start the ranges of a prepared network at what it shows on `inputs`, N×C×H×W: smallest to largest value.

    Without it the first training batch gives the ranges. Ranges that were learned are lost. Leaves training or
    evaluation mode as it was.
    """
    training = model.training
    with torch.no_grad(), observing(model.eval()):
        for batch in torch.split(inputs, batch_size):
            model(batch)
    model.train(training)


def freeze_batch_norm(model: nn.Module) -> None:
    """From now on every BN uses its running statistics, in training mode too; γ and β go on learning.

    For the last part of quantisation-aware training: the network is then trained as it will be exported.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not getattr(module, "edgeks_frozen", False):
            module.edgeks_frozen = True  # type: ignore[assignment]
            module.register_forward_pre_hook(_evaluate)
            module.eval()


def without_quantisers(model: nn.Module) -> fx.GraphModule:
    """A prepared network → a copy that computes in float with the trained weights."""
    plain = copy.deepcopy(model)
    assert isinstance(plain, fx.GraphModule)  # noqa: S101  # what is_prepared looks at
    for node in list(plain.graph.nodes):
        if node.op == "call_module" and node.target.partition(".")[0] in (KERNELS, ACTIVATIONS, BIASES):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    plain.delete_all_unused_submodules()
    plain.recompile()
    del plain.meta[LAYOUT]
    return plain


def marked(model: nn.Module) -> tuple[nn.Module, dict[int, str]]:
    """A prepared network → a copy with a mark in the place of each fake-quantiser, and whose mark is whose."""
    copied, names = copy.deepcopy(model), dict[int, str]()
    for number, (name, module) in enumerate(list(copied.named_modules())):
        if isinstance(module, ActivationFakeQuantize | KernelFakeQuantize):
            copied.set_submodule(name, Mark(number))
            names[number] = name
        elif isinstance(module, BiasRounding):
            copied.set_submodule(name, Same())  # the export rounds biases itself
    return copied, names


def trained(model: nn.Module, names: Mapping[int, str]) -> Trained:
    """What the fake-quantisers of a prepared network decided, by mark.

    Raises:
        ConfigError: one has no range yet.
    """
    ranges, scales = {}, dict[int, NDArray[np.float32]]()
    for number, name in names.items():
        module = model.get_submodule(name)
        if isinstance(module, KernelFakeQuantize):
            scales[number] = module.scale.detach().cpu().numpy().astype(np.float32)
        elif isinstance(module, ActivationFakeQuantize):
            if not module.has_range:
                raise ConfigError(
                    f"fake-quantiser {name!r} has no range yet: train on a batch first, or call "
                    "edgeks.quant.observe_ranges"
                )
            ranges[number] = module.range()
    for number, name in names.items():
        found = scales.get(number)
        steps = np.array([ranges[number].high - ranges[number].low]) if found is None else found
        if not (np.isfinite(steps).all() and steps.min() > SMALLEST_STEP and steps.max() < 1 / SMALLEST_STEP):
            raise ConfigError(f"fake-quantiser {name!r} has a step size that is 0 or not finite: the training diverged")
    return Trained(ranges, scales)


def _evaluate(module: nn.Module, _inputs: object) -> None:
    module.eval()


def _with_quantisers(traced: fx.GraphModule, layout: Layout) -> fx.GraphModule:
    """Insert the fake-quantisers of `layout` into `traced`, in place."""
    nodes = {node.name: node for node in traced.graph.nodes}
    for name in layout.kernels:
        node = nodes[name]
        traced.add_submodule(f"{KERNELS}.{name}", KernelFakeQuantize(_attribute(traced, node), layout.ranges))
        insert_behind(traced, node, f"{KERNELS}.{name}")
    for point in layout.activations:
        path = f"{ACTIVATIONS}.{point.name}"
        if path not in dict(traced.named_modules()):
            traced.add_submodule(path, ActivationFakeQuantize(layout.integer_type, layout.ranges))
        node = nodes[point.node]
        readers = None if point.readers is None else {nodes[name] for name in point.readers}
        insert_behind(traced, node, path, readers=readers)
    for bias in layout.biases:
        _insert_bias_rounding(traced, nodes, bias)
    traced.graph.lint()
    traced.recompile()
    traced.meta[LAYOUT] = layout
    return traced


def _insert_bias_rounding(traced: fx.GraphModule, nodes: Mapping[str, fx.Node], point: BiasPoint) -> None:
    layer, kernel = nodes[point.layer], traced.get_submodule(f"{KERNELS}.{point.kernel}")
    activation = traced.get_submodule(f"{ACTIVATIONS}.{point.activation}")
    norm = None if point.norm is None else traced.get_submodule(str(nodes[point.norm].target))
    bias: nn.Module | Tensor | None = None
    if layer.op == "call_module":
        bias = traced.get_submodule(str(layer.target))
    else:
        given = layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")
        if isinstance(given, fx.Node) and given.op != "get_attr":
            return  # computed at run time: the export leaves it in float
        bias = _attribute(traced, given) if isinstance(given, fx.Node) else None
    if not isinstance(kernel, KernelFakeQuantize) or not isinstance(activation, ActivationFakeQuantize):
        raise CheckpointError(f"layer {point.layer!r} has no quantisers")
    if not (norm is None or isinstance(norm, _BatchNorm)):
        raise CheckpointError(f"layer {point.layer!r} has a BN of another kind")
    if norm is None and (bias is None or (isinstance(bias, nn.Module) and bias.bias is None)):
        return
    path = f"{BIASES}.{point.layer}"
    traced.add_submodule(path, BiasRounding(bias, norm, kernel, activation))
    insert_behind(traced, nodes[point.norm or point.layer], path)


def _attribute(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    module, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(traced.get_submodule(module), name)
    return tensor
