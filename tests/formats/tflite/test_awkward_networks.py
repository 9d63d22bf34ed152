"""Networks that ask for one tensor, or one kernel, in two orders of axes, or twice."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import checkpoint_of
from torch import Tensor, nn

from edgeks.exporter import export
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TFLITE = load_target("tflite")
# SQNR that each form of the file reaches where nothing is wrong; a wrong order of axes leaves less than 10 dB.
LEAST_DB = {"fp32": 100, "fp16": 50, "static": 20, "dynamic": 35, "float": 35}


class Net(nn.Module):
    """`forward` on `layers`, which become attributes."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], object], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def conv(channels: int, out: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, **options)


def tied(first: nn.Module, second: nn.Module) -> dict[str, nn.Module]:
    second.weight = first.weight
    return {"first": first, "second": second}


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(*shape))


NETWORKS: dict[str, Callable[[], Net]] = {
    "ReLU between flatten and Linear": lambda: Net(
        lambda n, x: n.head(torch.relu(n.stem(x).flatten(1))), stem=conv(3, 4), head=nn.Linear(256, 5)
    ),
    "clamp between flatten and Linear": lambda: Net(
        lambda n, x: n.head(n.stem(x).flatten(1).clamp(-0.2, 0.3)), stem=conv(3, 4), head=nn.Linear(256, 5)
    ),
    "a map times its transpose": lambda: Net(
        lambda n, x: (lambda y: y @ y.transpose(2, 3))(n.stem(x)), stem=conv(3, 4)
    ),
    "a map and its transpose, flattened": lambda: Net(
        lambda n, x: (lambda y: (y.flatten(1), y.transpose(2, 3).flatten(1)))(n.stem(x)), stem=conv(3, 4)
    ),
    "one output twice": lambda: Net(lambda n, x: (lambda y: (y, y))(n.stem(x)), stem=conv(3, 4)),
    "the input is an output": lambda: Net(lambda n, x: (n.stem(x), x), stem=conv(3, 4)),
    "a constant is an output": lambda: Net(lambda n, x: (n.stem(x), n.p), stem=conv(3, 4), p=matrix(1, 5)),
    "a product with three axes": lambda: Net(
        lambda n, x: n.stem(x).flatten(2) @ n.w, stem=conv(3, 4), w=matrix(1, 64, 6)
    ),
    "one bias for all outputs": lambda: Net(
        lambda n, x: torch.addmm(n.b, n.stem(x).mean((2, 3)), n.w), stem=conv(3, 4), w=matrix(4, 5), b=matrix(1)
    ),
    "concat of one tensor": lambda: Net(
        lambda n, x: n.head(torch.cat(2 * [torch.relu(n.stem(x))], 1)), stem=conv(3, 4), head=conv(8, 4)
    ),
}
TIED: dict[str, Callable[[], Net]] = {
    "decoder tied to its encoder": lambda: Net(
        lambda n, x: F.linear(torch.relu(F.linear(n.stem(x).mean((2, 3)), n.w)), n.w.t()),
        stem=conv(3, 8),
        w=matrix(6, 8),
    ),
    "square decoder tied to its encoder": lambda: Net(
        lambda n, x: F.linear(torch.relu(F.linear(n.stem(x).mean((2, 3)), n.w)), n.w.t()),
        stem=conv(3, 8),
        w=matrix(8, 8),
    ),
    "decoder with one feature": lambda: Net(
        lambda n, x: F.linear(torch.relu(F.linear(n.stem(x).mean((2, 3)), n.w)), n.w.t()),
        stem=conv(3, 8),
        w=matrix(1, 8),
    ),
    "convolution and transposed convolution": lambda: Net(
        lambda n, x: n.second(torch.relu(n.first(n.stem(x)))),
        stem=conv(3, 4),
        **tied(conv(4, 6, bias=False), nn.ConvTranspose2d(6, 4, 3, padding=1)),
    ),
    "depthwise and dense": lambda: Net(
        lambda n, x: n.second(n.first(n.stem(x)).mean(1, keepdim=True)),
        stem=conv(3, 4),
        **tied(conv(4, 4, groups=4, bias=False), conv(1, 4, bias=False)),
    ),
    "grouped and dense": lambda: Net(
        lambda n, x: n.second(n.first(n.stem(x))[:, :4]),
        stem=conv(3, 8),
        **tied(conv(8, 8, groups=2, bias=False), conv(4, 8, bias=False)),
    ),
}


def exported(network, form, path):
    options = Int8Options(activations=form) if form in ("static", "dynamic", "float") else Int8Options()
    int8 = form not in ("fp32", "fp16")
    checkpoint = checkpoint_of(network.eval(), (3, 8, 8))
    return export(checkpoint, path, TFLITE, int8=int8, float16=form == "fp16", options=options, min_sqnr_db=-100)


@pytest.mark.parametrize("form", LEAST_DB)
@pytest.mark.parametrize("name", [*NETWORKS, *TIED])
def test_in_every_form(name, form, tmp_path):
    torch.manual_seed(0)
    report = exported((NETWORKS | TIED)[name](), form, tmp_path / "net.tflite")
    assert report.parity.sqnr_db > LEAST_DB[form] and report.parity_here.sqnr_db > LEAST_DB[form]
    assert [len(group.layers) for group in report.proof.groups] == ([2] if name in TIED else [])
