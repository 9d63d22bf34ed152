"""Layer by layer: the integer graph against the same arithmetic in torch, in steps of each tensor's own scale.

torch computes with fake quantisation and with the kernels, biases and scales that the graph holds, each tensor from the
graph's own tensors before it: what differs is the runtime's arithmetic of this one step of the network. A rounding that
falls the other way is one step; an operator that is wrong is many.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.formats.onnx import REFERENCE, open_session, to_proto
from edgeks.graph.from_torch import torch_outputs
from edgeks.graph.kernels import KernelRead, array, kernel_reads, output_channels, required
from edgeks.graph.marks import marks
from edgeks.interface import LIMITS
from edgeks.quant.fake_quant import ActivationFakeQuantize, BiasRounding, KernelFakeQuantize, Same
from edgeks.quant.traced_network import insert_behind

STEPS_OF_FLOAT_OUTPUT = 255  # an output that stays float is measured in steps that uint8 would have over its range


@dataclass(frozen=True, slots=True)
class TensorParity:
    """Codes of one tensor, graph against torch: largest difference in steps, and the shares that differ."""

    tensor: str
    elements: int
    largest: int
    different: float
    over_one: float


@dataclass(frozen=True, slots=True)
class LayerParity:
    """All quantised tensors in graph order, named after what makes them in the traced network, and the outputs.

    `output_step` is what one step of an output is; `first_over_one` names the first tensor of which an element differs
    by more than one step.
    """

    tensors: tuple[TensorParity, ...]
    first_over_one: str | None
    output_step: float
    outputs_within_one_step: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON."""
        return asdict(self)


def layer_parity(
    prepared: nn.Module,
    names: Mapping[int, str],
    graph: ir.Model,
    inputs: NDArray[np.float32],
    references: list[NDArray[np.float32]] | None,
) -> LayerParity:
    """Compare `graph` with `prepared`, a network from `prepare_qat`, on `inputs`, N×C×H×W.

    `names` says whose mark is whose. `references` are the outputs that the file is to have; None: those of `prepared`
    with what the graph holds.
    """
    network = copy.deepcopy(prepared).eval()
    assert isinstance(network, fx.GraphModule)  # noqa: S101  # what prepare_qat gives
    tensors = _take_over(network, names, graph)
    proto = to_proto(graph)
    known = {output.name for output in proto.graph.output}
    for name in tensors:
        if name not in known:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = open_session(proto.SerializeToString(), REFERENCE)
    feed, outputs = session.get_inputs()[0].name, [value.name for value in graph.graph.outputs]
    forced: dict[str, NDArray[np.generic]] = {}
    differences: dict[str, list[NDArray[np.int32]]] = {name: [] for name in tensors}

    def compare(tensor: str, module: ActivationFakeQuantize, result: Tensor) -> Tensor:
        """Compare what torch made of the tensors before with the graph's codes, and go on with those."""
        codes = torch.from_numpy(forced[tensor].astype(np.int32)).view(result.shape)
        scale, zero_point = module.scale.detach(), module.zero_point
        own = (result / scale + zero_point).round().to(torch.int32)
        differences[tensor].append((own - codes).abs().numpy().ravel())
        return (codes - zero_point) * scale

    for tensor, name in tensors.items():
        network.get_submodule(name).register_forward_hook(
            lambda module, _inputs, result, tensor=tensor: compare(tensor, module, result)
        )
    found: list[list[NDArray[np.float32]]] = []
    own_outputs: list[list[NDArray[np.float32]]] = []
    for index in range(len(inputs)):
        sample = inputs[index : index + 1]
        values = dict(zip([*tensors, *outputs], session.run([*tensors, *outputs], {feed: sample}), strict=True))
        forced.update({name: values[name] for name in tensors})
        own_outputs.append(torch_outputs(network, sample))
        found.append([values[name] for name in outputs])
    rows = tuple(
        _row(tensors[tensor].partition(".")[2], np.concatenate(parts)) for tensor, parts in differences.items() if parts
    )
    first = next((row.tensor for row in rows if row.largest > 1), None)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    if references is None:
        references = [np.concatenate(column) for column in zip(*own_outputs, strict=True)]
    steps = [float(reference.max() - reference.min()) / STEPS_OF_FLOAT_OUTPUT for reference in references]
    within = [
        float(np.mean(np.abs(column - reference[: len(column)]) <= step))
        for column, reference, step in zip(columns, references, steps, strict=True)
    ]
    worst = int(np.argmin(within))
    return LayerParity(rows, first, steps[worst], within[worst])


def _row(tensor: str, difference: NDArray[np.int32]) -> TensorParity:
    return TensorParity(
        tensor,
        int(difference.size),
        int(difference.max(initial=0)),
        float(np.mean(difference > 0)),
        float(np.mean(difference > 1)),
    )


def _take_over(network: fx.GraphModule, names: Mapping[int, str], graph: ir.Model) -> dict[str, str]:
    """Give `network` what the graph holds → name of each tensor of codes: the fake-quantiser that makes it in torch."""
    tensors: dict[str, str] = {}
    for node in graph.graph:
        parameters = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7)}.get(node.op_type)
        found = [mark for mark in marks(node.outputs[0]) if mark in names] if parameters else []
        if parameters is None or not found:
            continue
        name = names[found[0]]
        module = network.get_submodule(name)
        assert isinstance(module, ActivationFakeQuantize)  # noqa: S101  # kernels have marks of their own
        scale, zero_point = (array(required(node.inputs[index])) for index in parameters)
        # The network may have been prepared for the other integer type: the same grid, shifted.
        shift = LIMITS[module.integer_type][0] - LIMITS[zero_point.dtype.name][0]
        if shift == 0:
            tensors[str(node.outputs[0].name)] = name
        module.set_parameters(float(scale), int(zero_point) + shift)
    for name, module in list(network.named_modules()):
        if isinstance(module, BiasRounding):
            network.set_submodule(name, Same())  # the stored bias is taken
    calls: dict[str, list[fx.Node]] = {}
    for call in network.graph.nodes:
        calls.setdefault(str(call.target), []).append(call)
    for read in kernel_reads(graph):
        _take_kernel(network, names, read, calls)
        _take_bias(network, read, calls)
    network.recompile()
    return tensors


def _take_kernel(
    network: fx.GraphModule, names: Mapping[int, str], read: KernelRead, calls: Mapping[str, list[fx.Node]]
) -> None:
    for mark in marks(read.kernel):
        module = network.get_submodule(names[mark])
        if not isinstance(module, KernelFakeQuantize) or array(read.kernel).dtype.kind == "f":
            continue
        codes = array(read.kernel).astype(np.float32) - np.float32(_kernel_zero_point(read))
        codes = codes if output_channels(read) == 0 else codes.T
        scale = module.scale.detach()
        kernel = torch.from_numpy(codes.copy()) * scale.view([-1] + [1] * (codes.ndim - 1))
        source = calls[names[mark]][0].args[0]
        assert isinstance(source, fx.Node)  # noqa: S101  # a kernel quantiser reads a get_attr
        with torch.no_grad():
            network.get_parameter(str(source.target)).copy_(kernel)


def _kernel_zero_point(read: KernelRead) -> float:
    """Zero point of the codes that a layer reads."""
    teller = read.dequantize or read.node
    index = {"DequantizeLinear": 2, "QLinearConv": 5}.get(teller.op_type, len(teller.inputs))
    point = teller.inputs[index] if len(teller.inputs) > index else None
    return 0.0 if point is None else float(array(point).flat[0])


def _take_bias(network: fx.GraphModule, read: KernelRead, calls: Mapping[str, list[fx.Node]]) -> None:
    """Add, behind a layer (and its BN), what the stored int32 bias differs by from torch's."""
    bias = _stored_bias(read)
    path, _, number = str(read.node.name).partition("#")
    layers = [call for call in calls.get(path, []) if call.op == "call_module"]
    index = int(number) - 1 if number.isdigit() else 0
    if bias is None or index >= len(layers):
        return
    node = layers[index]
    layer = network.get_submodule(path)
    expected = torch.zeros(len(bias), dtype=torch.float64)
    if isinstance(layer.bias, Tensor):
        expected = layer.bias.detach().double()
    user = _reader(network, node)
    norm = network.get_submodule(str(user.target)) if user is not None and user.op == "call_module" else None
    if user is not None and isinstance(norm, _BatchNorm) and norm.running_var is not None:
        assert norm.running_mean is not None  # noqa: S101  # they come together
        gain = (norm.weight.double() if norm.affine else 1.0) / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() if norm.affine else 0.0
        expected = expected * gain + shift - norm.running_mean.double() * gain
        node = user
    difference = (torch.from_numpy(bias) - expected.detach()).float()
    along = (1, -1, *(1,) * (array(read.kernel).ndim - 2))
    name = f"bias_difference_{node.name}"
    network.register_buffer(name, difference.view(along))
    with network.graph.inserting_before(node):
        constant = network.graph.get_attr(name)
    insert_behind(network, node, torch.add, constant)


def _reader(network: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The one node that reads `node`, past a bias rounding that is gone."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is not None and user.op == "call_module" and isinstance(network.get_submodule(str(user.target)), Same):
        return _reader(network, user)
    return user


def _stored_bias(read: KernelRead) -> NDArray[np.float64] | None:
    node = read.node
    index = 8 if node.op_type == "QLinearConv" else 2
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return None
    if node.op_type == "QLinearConv":
        return _numbers(value) * _numbers(node.inputs[1]) * _numbers(node.inputs[4])
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return _numbers(producer.inputs[0]) * _numbers(producer.inputs[1])


def _numbers(value: ir.Value | None) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = array(required(value)).astype(np.float64)
    return numbers
