"""Any small network with any sharing plan: exported exactly once, and as near to torch as its unshared twin.

CI runs the same 60 networks every time; `make fuzz` runs 1,000 others.
"""

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from networks import checkpoint_of, inputs_of, randomise_batch_norm
from one_capture import one_capture
from torch import Tensor, nn
from torch.nn import functional

from edgeks.export_checks import saturates_here
from edgeks.exporter import export
from edgeks.parity import compare
from edgeks.quant.options import Int8Options
from edgeks.sharing.torch import untied
from edgeks.target import load_target

MARGIN_DB = 10  # beyond `eight_bits`: the integer file also rounds what leaves gates, additions and pools
ENOUGH_DB = 25
TARGETS = {name: load_target(name) for name in ("onnx", "onnx-x64", "rpi-4", "tflite")}
ACTIVATIONS = {
    "none": lambda x: x,
    "ReLU": torch.relu,
    "ReLU6": functional.relu6,
    "leaky ReLU": functional.leaky_relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "HardSwish": functional.hardswish,
    "Sigmoid": torch.sigmoid,
}
POOLS = {
    "none": lambda x: x,
    "max": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "average": lambda x: functional.avg_pool2d(x, 2, ceil_mode=True),
    "average, padded": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "pad": lambda x: functional.pad(x, (0, 1, 0, 1)),
}


@dataclass(frozen=True)
class Block:
    """One convolution and what is around it. `kernel` picks one of those of its shape by number; 0 is a new one."""

    out: int
    kernel: int
    size: int
    groups: int
    stride: int
    dilation: int
    bias: bool
    order: str
    activation: str
    join: str
    pool: str


class Network(nn.Module):
    """Blocks in a row, mean, Linear head. Gates of one width share their Linear kernel."""

    def __init__(self, blocks: list[Block], stem: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = blocks
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.convs, self.norms, self.gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width, kernels = stem, {}
        for block in blocks:
            conv = nn.Conv2d(
                width, block.out, block.size, block.stride, block.dilation * (block.size // 2), block.dilation,
                groups=block.groups, bias=block.bias,
            )  # fmt: skip
            alike = kernels.setdefault((tuple(conv.weight.shape), block.groups), [])
            if 0 < block.kernel <= len(alike):
                conv.weight = alike[block.kernel - 1]
            else:
                alike.append(conv.weight)
            self.convs.append(conv)
            self.norms.append(nn.BatchNorm2d(width if block.order.startswith("norm") else block.out))
            gate = nn.Linear(block.out, block.out)
            for other in self.gates:
                if other.weight.shape == gate.weight.shape:
                    gate.weight = other.weight
            self.gates.append(gate)
            width = 2 * block.out if block.join == "concat" and width == block.out else block.out
        self.head = nn.Linear(width, 4)

    def groups(self) -> set[frozenset[str]]:
        """Names of the layers that are called, by kernel; groups of one are none."""
        gated = [str(index) for index, block in enumerate(self.blocks) if block.join == "gate"]
        layers = {f"convs.{name}": conv for name, conv in self.convs.named_children()}
        layers |= {f"gates.{name}": self.gates[int(name)] for name in gated}
        kernels: dict[int, set[str]] = {}
        for name, layer in layers.items():
            kernels.setdefault(id(layer.weight), set()).add(name)
        return {frozenset(names) for names in kernels.values() if len(names) > 1}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, conv, norm, gate in zip(self.blocks, self.convs, self.norms, self.gates, strict=True):
            activation = ACTIVATIONS[block.activation]
            match block.order:
                case "norm, activation, conv":
                    y = conv(activation(norm(x)))
                case "conv, norm, activation":
                    y = activation(norm(conv(x)))
                case "conv, activation, norm":
                    y = norm(activation(conv(x)))
                case _:
                    y = activation(conv(x))
            if block.join == "gate":
                y = y * torch.sigmoid(gate(y.mean((2, 3))))[:, :, None, None]
            if block.join == "concat" and x.shape[1] == y.shape[1]:
                y = torch.cat([functional.interpolate(x, y.shape[2:]) if x.shape != y.shape else x, y], 1)
            elif block.join == "add" and x.shape == y.shape:
                y = x + y
            x = POOLS[block.pool](y) if min(y.shape[2:]) > 2 else y
        return self.head(x.mean((2, 3)))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """1 to 5 blocks of 4 or 8 channels; equal shapes share at random, across stages too."""
    stem = draw(st.sampled_from([4, 8]))
    width, blocks = stem, []
    for _ in range(draw(st.integers(1, 5))):
        out = draw(st.sampled_from([width if width in (4, 8) else 8, 4, 8]))
        block = Block(
            out=out,
            kernel=draw(st.sampled_from([1, 2, 0])),
            size=draw(st.sampled_from([3, 1, 5])),
            groups=draw(st.sampled_from([1, 2, width])) if out == width else 1,
            stride=draw(st.sampled_from([1, 2])),
            dilation=draw(st.sampled_from([1, 2])),
            bias=draw(st.booleans()),
            order=draw(
                st.sampled_from(
                    ["conv, norm, activation", "conv, activation, norm", "norm, activation, conv", "conv, activation"]
                )
            ),
            activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
            join=draw(st.sampled_from(["none", "add", "concat", "gate"])),
            pool=draw(st.sampled_from(sorted(POOLS))),
        )
        blocks.append(block)
        width = 2 * out if block.join == "concat" and width == out else out
    return Network(blocks, stem, draw(st.integers(0, 1000)))


@torch.no_grad()
def eight_bits(network: Network, inputs: Tensor) -> float:
    """SQNR (dB) that 8 bits cost: torch's rounding of every kernel, and of what every layer and BN reads and gives.

    BN after an activation amplifies channels of small variance, and all rounding with them: what is to be expected of
    the integer file depends on the network.
    """
    twin = copy.deepcopy(network)

    def rounded(x: Tensor) -> Tensor:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
        scale = (high - low) / 255
        return torch.fake_quantize_per_tensor_affine(x, scale, round(-low / scale), 0, 255)

    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, given: rounded(given[0]))
            layer.register_forward_hook(lambda _, given, result: rounded(result))
    for weight in {id(layer.weight): layer.weight for layer in twin.modules() if hasattr(layer, "weight")}.values():
        if weight.dim() > 1:
            scales = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True) / 127
            weight.copy_((weight / scales).round() * scales)
    return compare(network(inputs).numpy(), twin(inputs).numpy()).sqnr_db


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=-(-settings.default.max_examples // len(TARGETS)))
@given(
    network=networks(),
    negative=st.sampled_from([0.0, 0.3, 1.0]),
    form=st.sampled_from(["qdq", "qoperator"]),
    against=st.sampled_from(["fp32", "unshared"]),
)
def test_any_network_any_plan(tmp_path_factory, target, network, negative, form, against):
    file = tmp_path_factory.mktemp("property") / f"m.{TARGETS[target].format}"
    checkpoint = checkpoint_of(network, (3, 7, 7), samples=16)
    randomise_batch_norm(network, torch.from_numpy(inputs_of(checkpoint)), negative=negative)
    note("\n".join(map(str, network.blocks)))
    noise = eight_bits(network, torch.from_numpy(inputs_of(checkpoint)))
    floor = min(ENOUGH_DB, noise - MARGIN_DB)
    options = Int8Options(form=form)
    if target == "tflite":  # it has one form of static int8
        options = Int8Options(activations="static" if form == "qdq" else "dynamic")
    int8 = {"int8": True, "options": options, "min_sqnr_db": -201}
    with one_capture():
        shared = export(checkpoint, file, TARGETS[target], **int8)
        note(f"{shared.parity}\nhere {shared.parity_here}\nfloor {floor:.1f} dB")
        assert {frozenset(group.layers) for group in shared.proof.groups} == network.groups()
        assert shared.parity.sqnr_db >= floor
        assert shared.parity_here.sqnr_db >= floor or saturates_here(TARGETS[target])
        if against == "fp32":
            fp32 = export(checkpoint, file, TARGETS[target], min_sqnr_db=-201)
            assert [g.layers for g in fp32.proof.groups] == [g.layers for g in shared.proof.groups]
            # float32 rounds 16 bits finer than 8 bits do, and a network amplifies both alike
            assert min(fp32.parity.sqnr_db, fp32.parity_here.sqnr_db) >= min(90, noise + 70)
        else:
            checkpoint.model = untied(network)
            twin = export(checkpoint, file, TARGETS[target], **int8)
            note(f"unshared {twin.parity}")
            assert not twin.proof.groups
            assert shared.parity.sqnr_db >= twin.parity.sqnr_db - 0.5
    for written in file.parent.iterdir():
        written.unlink()
