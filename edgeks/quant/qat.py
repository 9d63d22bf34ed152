"""Quantisation-aware training of networks that share kernels (docs/arithmetic.md, docs/qat.md).

One fake-quantiser per kernel, ahead of all its uses; activation fake-quantisers where the exported graph has a
QuantizeLinear, and nowhere else. Where that is, the export's own passes say: the network is captured once with a mark
on every tensor, `place_activations` decides, and the marks lead back to the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import CheckpointError, ConfigError, GraphError
from edgeks.graph.float_graph import float_graph
from edgeks.graph.from_torch import without_parametrizations
from edgeks.graph.kernels import kernel_reads
from edgeks.graph.marks import marks
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.quantize_activations import Placement, place_activations
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.quant.fake_quant import ActivationFakeQuantize, KernelFakeQuantize, Ranges, checked_ranges
from edgeks.quant.trained import Trained, value_marks
from edgeks.sharing.torch import discover
from edgeks.target import Int8Scheme, Int8Type

OPSET = 20  # of the graph that decides where quantisers go; every target's opset decides the same
DEFAULT_SCHEME = Int8Scheme(form="qdq", activations="uint8", weights="int8")  # target "onnx"
KERNELS, ACTIVATIONS = "kernel_quantizers", "activation_quantizers"  # where the quantisers are in the network
LAYOUT = "edgeks.qat"  # key of GraphModule.meta
FUNCTIONS = (functional.conv1d, functional.conv2d, functional.linear)


@dataclass(frozen=True, slots=True)
class ActivationPoint:
    """A fake-quantiser `name` behind fx node `node`, read by all, or only by the nodes `readers`."""

    name: str
    node: str
    readers: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a network's fake-quantisers are: fx nodes that get a kernel, and activation points."""

    integer_type: Int8Type
    ranges: Ranges
    kernels: tuple[str, ...]
    activations: tuple[ActivationPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and text, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        """Inverse of `to_dict`.

        Raises:
            CheckpointError: a key is missing or has the wrong type.
        """
        try:
            points = [
                ActivationPoint(
                    str(point["name"]),
                    str(point["node"]),
                    None if point["readers"] is None else tuple(str(reader) for reader in point["readers"]),
                )
                for point in data["activations"]
            ]
            integer_type = data["integer_type"]
            if integer_type not in ("int8", "uint8"):
                raise ValueError(f"integer_type {integer_type!r}")
            kernels = tuple(str(name) for name in data["kernels"])
            return cls(integer_type, checked_ranges(data["ranges"]), kernels, tuple(points))
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"the layout of its fake-quantisers is malformed: {error!r}") from error


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


class _Mark(nn.Module):
    """Stands in a fake-quantiser's place while the network is captured."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return _mark(x, self.number)


GIVEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: _KernelConv1d,
    nn.Conv2d: _KernelConv2d,
    nn.Linear: _KernelLinear,
}


def prepare_qat(
    model: nn.Module, example_input: Tensor, scheme: Int8Scheme = DEFAULT_SCHEME, *, ranges: Ranges = "learned"
) -> fx.GraphModule:
    """Network → a copy that trains with fake quantisation, of the same interface and with the same parameter names.

    `example_input` is N×C×H×W float32 and only tells the shapes. `ranges` "learned": step sizes of kernels and
    activations are parameters (LSQ), which start at what the first training batch shows (or `observe_ranges`);
    "moving_average": they follow the kernels and the batches. Kernels that are computed (weight_norm) become plain.

    Raises:
        GraphError: torch.fx cannot trace the network, or no layer can be quantised.
        ConfigError: an illegal `ranges`, or the model is prepared already.
    """
    checked_ranges(ranges)
    if is_prepared(model):
        raise ConfigError("prepare_qat: the model is prepared for quantisation-aware training already")
    training = model.training
    traced = _traced(without_parametrizations(copy.deepcopy(model)))
    example = example_input[:1].detach().to("cpu", torch.float32)
    layout = _layout(traced, example, scheme, ranges)
    return _with_quantisers(traced, layout).train(training)


def rebuild_qat(model: nn.Module, layout: Layout) -> fx.GraphModule:
    """A float network of the architecture that `layout` was made of → the prepared network, its ranges still unset.

    Raises:
        CheckpointError: the layout does not fit the network.
    """
    try:
        return _with_quantisers(_traced(without_parametrizations(copy.deepcopy(model))), layout)
    except (KeyError, GraphError, RuntimeError) as error:
        raise CheckpointError(f"its fake-quantisers do not fit the architecture ({error})") from error


def is_prepared(model: nn.Module) -> bool:
    """Whether `model` came from `prepare_qat`."""
    return isinstance(model, fx.GraphModule) and LAYOUT in model.meta


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


def observe_ranges(model: nn.Module, inputs: Tensor, batch_size: int = 64) -> None:
    """Start the ranges of a prepared network at what it shows on `inputs` (N×C×H×W): min-max, as an export does.

    Without it the first training batch gives the ranges. Leaves training or evaluation mode as it was.
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
        if node.op == "call_module" and node.target.partition(".")[0] in (KERNELS, ACTIVATIONS):
            node.replace_all_uses_with(node.args[0])
            plain.graph.erase_node(node)
    plain.delete_all_unused_submodules()
    plain.recompile()
    del plain.meta[LAYOUT]
    return plain


def marked(model: nn.Module) -> tuple[nn.Module, Trained]:
    """A prepared network → a copy with a mark for each fake-quantiser, and what each of them decided.

    Raises:
        ConfigError: a fake-quantiser has no range yet.
    """
    copied = copy.deepcopy(model)
    ranges, scales = {}, dict[int, NDArray[np.float32]]()
    for number, (name, module) in enumerate(list(copied.named_modules())):
        if isinstance(module, ActivationFakeQuantize):
            if not module.has_range:
                raise ConfigError(
                    f"fake-quantiser {name!r} has no range yet: train on a batch first, or call "
                    "edgeks.quant.observe_ranges"
                )
            ranges[number] = module.range()
        elif isinstance(module, KernelFakeQuantize):
            scales[number] = module.scale.detach().cpu().numpy().astype(np.float32)
        else:
            continue
        copied.set_submodule(name, _Mark(number))
    return copied, Trained(ranges, scales)


def _evaluate(module: nn.Module, _inputs: object) -> None:
    module.eval()


def _mark(x: Tensor, number: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, float(number), 0, 0, 255)


def _traced(model: nn.Module) -> fx.GraphModule:
    """Module → GraphModule in which every layer is given its kernel, read once ahead of all its uses."""
    try:
        traced = fx.GraphModule(model, fx.Tracer().trace(model))
    except Exception as error:  # the network is the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise GraphError(
            f"quantisation-aware training needs a network that torch.fx can trace: {reason[:300]}; move control flow "
            "that depends on tensors out of forward, or quantise after training (edgeks export --int8)"
        ) from error
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
    traced.recompile()
    return traced


def _kernel_nodes(traced: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Node that reads a kernel's Parameter → the nodes of its layers, modules and functions."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        given = node.op == "call_module" and type(traced.get_submodule(node.target)) in GIVEN.values()
        function = node.op == "call_function" and node.target in FUNCTIONS
        if (given or function) and isinstance(weight, fx.Node) and weight.op == "get_attr":
            found.setdefault(weight, []).append(node)
    return found


def _layout(traced: fx.GraphModule, example: Tensor, scheme: Int8Scheme, ranges: Ranges) -> Layout:
    """Ask the export's own passes where the integer graph of this network quantises."""
    kernels = _kernel_nodes(traced)
    nodes = {number: node for number, node in enumerate(traced.graph.nodes, start=1) if node.op != "output"}
    graph, _ = float_graph(_probe(traced, example, set(kernels)), example.numpy(), OPSET, marked=True)
    node_of_layer, kernel_of_layer = {}, {}
    for read in kernel_reads(graph):
        name = str(read.node.name)
        on_output, on_kernel = marks(read.node.outputs[0]), marks(read.kernel)
        if on_output and on_kernel:
            node_of_layer[name], kernel_of_layer[name] = nodes[on_output[0]], nodes[on_kernel[0]]
    quantize_kernels(graph, scheme.weights)
    quantised = [str(read.node.name) for read in kernel_reads(graph) if read.dequantize is not None]
    quantised_kernels = {kernel_of_layer[name].name for name in quantised if name in kernel_of_layer}
    if not quantised_kernels:
        raise GraphError("quantisation-aware training: the network has no layer whose kernel can be quantised")
    absorb_batch_norm(graph)
    points = _points(place_activations(graph), nodes, node_of_layer)
    return Layout(
        scheme.activations, ranges, tuple(node.name for node in kernels if node.name in quantised_kernels), points
    )


def _points(
    placement: Placement, nodes: Mapping[int, fx.Node], node_of_layer: Mapping[str, fx.Node]
) -> tuple[ActivationPoint, ...]:
    points = []
    for value in placement.ranged:
        if value in placement.integer:
            found = value_marks(placement, value)
            if found:  # else inside what torch.fx sees as one operation: the export calibrates it
                points.append(ActivationPoint(nodes[found[0]].name, nodes[found[0]].name, None))
            continue
        sources: dict[fx.Node, list[str]] = {}  # made in float: only layers read the quantised form
        for node, index in placement.reads:
            layer = node_of_layer.get(str(node.name)) if node.inputs[index] is value else None
            source = layer.args[0] if layer is not None and layer.args else None
            if layer is not None and isinstance(source, fx.Node):
                sources.setdefault(source, []).append(layer.name)
        first = next(iter(sources), None)
        for source, readers in sources.items():
            assert first is not None  # noqa: S101  # sources is not empty here
            points.append(ActivationPoint(first.name, source.name, tuple(readers)))
    return tuple(points)


def _probe(traced: fx.GraphModule, example: Tensor, kernels: set[fx.Node]) -> fx.GraphModule:
    """A copy with the mark of its number on every float tensor, kernels of `kernels` included."""
    probe = copy.deepcopy(traced).eval()
    recorder = _Recorder(probe)
    try:
        with torch.no_grad():
            recorder.run(example)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise GraphError(f"the network does not take inputs of {tuple(example.shape)}: {reason[:300]}") from error
    kernel_names = {node.name for node in kernels}
    for number, node in enumerate(list(probe.graph.nodes), start=1):
        if node not in recorder.floats or (node.op == "get_attr" and node.name not in kernel_names):
            continue
        _insert_behind(probe, node, lambda node=node, number=number: probe.graph.call_function(_mark, (node, number)))
    probe.recompile()
    return probe


class _Recorder(fx.Interpreter):
    """Runs a GraphModule and remembers which nodes give one float32 tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.floats: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            self.floats.add(n)
        return result


def _with_quantisers(traced: fx.GraphModule, layout: Layout) -> fx.GraphModule:
    """Insert the fake-quantisers of `layout` into `traced`, in place."""
    nodes = {node.name: node for node in traced.graph.nodes}
    for name in layout.kernels:
        node = nodes[name]
        traced.add_submodule(f"{KERNELS}.{name}", KernelFakeQuantize(_attribute(traced, node), layout.ranges))
        _insert_behind(
            traced, node, lambda node=node, name=name: traced.graph.call_module(f"{KERNELS}.{name}", (node,))
        )
    for point in layout.activations:
        path = f"{ACTIVATIONS}.{point.name}"
        if path not in dict(traced.named_modules()):
            traced.add_submodule(path, ActivationFakeQuantize(layout.integer_type, layout.ranges))
        node = nodes[point.node]
        readers = None if point.readers is None else {nodes[name] for name in point.readers}
        _insert_behind(traced, node, lambda node=node, path=path: traced.graph.call_module(path, (node,)), readers)
    traced.graph.lint()
    traced.recompile()
    traced.meta[LAYOUT] = layout
    return traced


def _insert_behind(traced: fx.GraphModule, node: fx.Node, make: Any, readers: set[fx.Node] | None = None) -> None:
    """Insert `make()` behind `node`; `readers` (None: all) then read it instead."""
    after = node
    while after.op == "placeholder" and after.next.op == "placeholder":
        after = after.next
    with traced.graph.inserting_after(after):
        inserted = make()
    node.replace_all_uses_with(
        inserted, delete_user_cb=lambda user: user is not inserted and (readers is None or user in readers)
    )


def _attribute(traced: fx.GraphModule, node: fx.Node) -> Tensor:
    module, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(traced.get_submodule(module), name)
    return tensor
