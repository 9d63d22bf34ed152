"""Every graph form that an export must get right, each as a small network with a kernel that several layers read."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from networks import checkpoint_of, inputs_of, randomise_batch_norm
from torch import Tensor, nn
from torch.nn import functional as F

from edgeks.checkpoint import Checkpoint

WIDTH, SIZE = 8, 8


class Layers(nn.Module):
    """Layers that a form makes its network of. `a`, `b`, `c` read one kernel, and so do other isomorphic ones.

    `forward` is the form's: what it does not call is not part of the exported network.
    """

    def __init__(
        self,
        form: "Form",
        seed: int,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.a, self.b, self.c = (nn.Conv2d(WIDTH, WIDTH, 3, **{"padding": 1, **form.conv}) for _ in range(3))
        self.b.weight = self.c.weight = self.a.weight
        self.strided = nn.Conv2d(WIDTH, WIDTH, 3, **{"padding": 1, **form.conv, "stride": 2})
        self.strided.weight = self.a.weight
        self.thrice = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 3, padding=1)] * 3)
        self.half_a, self.half_b = (nn.Conv2d(WIDTH // 2, WIDTH // 2, 3, padding=1, bias=False) for _ in range(2))
        self.half_b.weight = self.half_a.weight
        self.norm_stem, self.norm_a, self.norm_b, self.norm_c = (nn.BatchNorm2d(WIDTH) for _ in range(4))
        self.norm_half_a, self.norm_half_b = (nn.BatchNorm2d(WIDTH // 2) for _ in range(2))
        self.fc_a, self.fc_b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc_b.weight = self.fc_a.weight
        self.squeeze_a, self.squeeze_b = nn.Conv2d(WIDTH, 4, 1), nn.Conv2d(WIDTH, 4, 1)
        self.excite_a, self.excite_b = nn.Conv2d(4, WIDTH, 1), nn.Conv2d(4, WIDTH, 1)
        self.squeeze_b.weight, self.excite_b.weight = self.squeeze_a.weight, self.excite_a.weight
        self.line_a, self.line_b = (nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.line_b.weight = self.line_a.weight
        self.up_a, self.up_b = (nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2) for _ in range(2))
        self.up_b.weight = self.up_a.weight
        self.first_a, self.first_b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.first_b.weight = self.first_a.weight
        self.norm_first = nn.BatchNorm2d(3)
        self.norm_fc = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        self.wide_head = nn.Linear(2 * WIDTH, 5)
        self._forward = form.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)

    def start(self, x: Tensor) -> Tensor:
        """Images → features that are not negative, by a layer outside every group."""
        return torch.relu(self.norm_stem(self.stem(x)))

    def end(self, x: Tensor) -> Tensor:
        """Features → logits."""
        return self.head(x.mean((2, 3)))

    def through(self, between: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """conv(W) → BN → `between` → conv(W) → BN → ReLU → logits: what `between` does, between integer layers."""
        x = between(self.norm_a(self.a(self.start(x))))
        return self.end(torch.relu(self.norm_b(self.b(x))))


@dataclass(frozen=True)
class Form:
    """`forward` on `Layers`; `conv` are options of the shared convolutions, `edit` changes weights before the export.

    `floats` are the ops that ONNX Runtime is left to compute in float between integer ones; all others are integer.
    """

    forward: Callable[[Layers, Tensor], Tensor]
    floats: tuple[str, ...] = ()
    floor_db: float = 25.0
    conv: dict[str, object] = field(default_factory=dict)
    edit: Callable[[Layers], object] = lambda layers: None


def form_checkpoint(form: Form, seed: int) -> Checkpoint:
    """The form's network with BN as trained ones have, a third of γ negative, and samples to calibrate on."""
    network = Layers(form, seed)
    checkpoint = checkpoint_of(network, (3, SIZE, SIZE), samples=16)
    randomise_batch_norm(network, torch.from_numpy(inputs_of(checkpoint)), negative=0.3, seed=seed)
    with torch.no_grad():
        form.edit(network)
    return checkpoint


def plain(n: Layers, x: Tensor) -> Tensor:
    return n.through(torch.relu, x)


def between(function: Callable[[Tensor], Tensor], **options: object) -> Form:
    return Form(lambda n, x: n.through(function, x), **options)


def shuffle(n: Layers, x: Tensor) -> Tensor:
    """ShuffleNet's unit: half of the channels goes through, halves are joined and channels shuffled; twice."""
    x = n.start(x)
    for conv, norm in ((n.half_a, n.norm_half_a), (n.half_b, n.norm_half_b)):
        kept, done = x.chunk(2, 1)
        x = torch.cat([kept, torch.relu(norm(conv(done)))], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    return n.end(x)


def se_gate(n: Layers, x: Tensor) -> Tensor:
    x = n.start(x)
    for conv, norm, squeeze, excite in (
        (n.a, n.norm_a, n.squeeze_a, n.excite_a),
        (n.b, n.norm_b, n.squeeze_b, n.excite_b),
    ):
        y = norm(conv(x))
        gate = torch.sigmoid(excite(torch.relu(squeeze(y.mean((2, 3), keepdim=True)))))
        x = torch.relu(x + y * gate)
    return n.end(x)


def hard_se_gate(n: Layers, x: Tensor) -> Tensor:
    x = n.start(x)
    for conv, norm, squeeze, excite in (
        (n.a, n.norm_a, n.squeeze_a, n.excite_a),
        (n.b, n.norm_b, n.squeeze_b, n.excite_b),
    ):
        y = F.hardswish(norm(conv(x)))
        x = x + y * F.hardsigmoid(excite(torch.relu(squeeze(F.adaptive_avg_pool2d(y, 1)))))
    return n.end(x)


def many_calls(n: Layers, x: Tensor) -> Tensor:
    x = n.start(x)
    for conv, norm in zip(n.thrice, (n.norm_a, n.norm_b, n.norm_c), strict=True):
        x = torch.relu(norm(conv(x)))
    return n.end(x)


def set_gamma(value: float) -> Callable[[Layers], object]:
    """γ of three channels of the first shared layer: `value`, −`value`, `value`."""
    return lambda n: n.norm_a.weight[:3].copy_(torch.tensor([value, -value, value]))


def huge_gamma(n: Layers) -> None:
    """γ = 1e4 where σ is as large: what leaves the BN is of the usual size."""
    n.norm_a.weight[0], n.norm_a.running_var[0] = 1e4, 1e8 * n.norm_a.running_var[0]


def dead_channel(n: Layers) -> None:
    """ReLU of channel 2 is always 0, and output channel 3 of the kernel is zero."""
    n.norm_a.bias[2] = -100.0
    n.a.weight[3] = 0.0


def dead_layer(n: Layers) -> None:
    n.norm_a.bias.fill_(-100.0)


FORMS: dict[str, Form] = {
    "conv, BN, ReLU": Form(plain),
    "conv, ReLU, BN": Form(
        lambda n, x: n.end(n.norm_b(torch.relu(n.b(n.norm_a(torch.relu(n.a(n.start(x)))))))),
        floats=("BatchNormalization",),
    ),
    "BN, ReLU, conv": Form(
        lambda n, x: n.end(n.b(torch.relu(n.norm_b(n.a(torch.relu(n.norm_a(n.start(x)))))))),
        floats=("BatchNormalization",),
    ),
    "pre-activation residual": Form(
        lambda n, x: (lambda y: n.end(y + n.b(torch.relu(n.norm_b(n.a(torch.relu(n.norm_a(y))))))))(n.stem(x)),
        floats=("BatchNormalization",),
    ),
    "no bias": Form(plain, conv={"bias": False}),
    "depthwise": Form(plain, conv={"groups": WIDTH}),
    "grouped": Form(plain, conv={"groups": 2}),
    "strided": Form(plain, conv={"stride": 2}),
    "dilated": Form(plain, conv={"dilation": 2, "padding": 2}),
    "reflect padding in conv": Form(plain, conv={"padding_mode": "reflect"}),
    "different strides": Form(
        lambda n, x: n.end(torch.relu(n.norm_b(n.strided(torch.relu(n.norm_a(n.a(n.start(x))))))))
    ),
    "one layer with BN, one without": Form(lambda n, x: n.end(torch.relu(n.b(torch.relu(n.norm_a(n.a(n.start(x)))))))),
    "one module called three times": Form(many_calls),
    "shared stem and Linear": Form(
        lambda n, x: n.head(torch.relu(n.fc_b(torch.relu(n.fc_a(n.start(x).mean((2, 3)))))))
    ),
    "Linear, BatchNorm1d": Form(
        lambda n, x: n.head(torch.relu(n.fc_b(torch.relu(n.norm_fc(n.fc_a(n.start(x).mean((2, 3))))))))
    ),
    "Linear on tokens": Form(
        lambda n, x: n.head(n.fc_b(torch.relu(n.fc_a(n.start(x).flatten(2).transpose(1, 2)))).mean(1)),
        floats=("Add", "ReduceMean"),
    ),
    "residual add": Form(
        lambda n, x: (lambda y: n.end(torch.relu(y + n.norm_b(n.b(torch.relu(n.norm_a(n.a(y))))))))(n.start(x))
    ),
    "SE gate": Form(se_gate),
    "SE gate with HardSigmoid, HardSwish": Form(
        hard_se_gate, floats=("HardSigmoid", "Mul", "Add", "GlobalAveragePool")
    ),
    "concat of different ranges": Form(
        lambda n, x: (
            lambda y: n.wide_head(
                torch.cat([0.1 * y, torch.relu(n.norm_b(n.b(torch.relu(n.norm_a(n.a(y))))))], 1).mean((2, 3))
            )
        )(n.start(x)),
        floats=("Mul", "Concat"),
    ),
    "concat of convolutions": Form(
        lambda n, x: (
            lambda y: n.wide_head(torch.cat([n.norm_a(n.a(y)), torch.relu(4 * n.norm_b(n.b(y)))], 1).mean((2, 3)))
        )(n.start(x)),
        floats=("Mul", "Concat"),
    ),
    "concat of an add": Form(
        lambda n, x: (lambda y: n.wide_head(torch.cat([y + n.norm_a(n.a(y)), n.norm_b(n.b(y))], 1).mean((2, 3))))(
            n.start(x)
        )
    ),
    "average pool": between(lambda x: F.avg_pool2d(torch.relu(x), 2)),
    "average pool, padded": between(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "average pool, padding not counted": between(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "average pool, ceil": between(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    "average pool, ceil, padded": between(lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    "average pool, ceil, padding not counted": between(
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    ),
    "max pool": between(lambda x: F.max_pool2d(torch.relu(x), 2)),
    "max pool, padded, ceil": between(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
    "global max pool": Form(
        lambda n, x: n.head(torch.relu(n.norm_b(n.b(torch.relu(n.norm_a(n.a(n.start(x))))))).amax((2, 3)))
    ),
    "adaptive average pool": between(lambda x: F.adaptive_avg_pool2d(x, 4)),
    "ReLU6": between(F.relu6),
    "leaky ReLU": between(lambda x: F.leaky_relu(x, 0.1)),
    "GELU": between(F.gelu, floats=("Gelu",)),
    "GELU tanh": between(lambda x: F.gelu(x, approximate="tanh"), floats=("Gelu",)),
    "SiLU": between(F.silu),
    "HardSwish": between(F.hardswish, floats=("HardSigmoid", "Mul")),
    "HardSigmoid": between(F.hardsigmoid, floats=("HardSigmoid",)),
    "Sigmoid": between(torch.sigmoid),
    "tanh": between(torch.tanh, floats=("Tanh",)),
    "Softmax": between(lambda x: x.softmax(1)),
    "Softmax at the end": Form(lambda n, x: plain(n, x).softmax(1), floats=("Softmax",)),
    "GELU, BN": Form(
        lambda n, x: n.end(n.norm_b(F.gelu(n.b(n.norm_a(F.gelu(n.a(n.start(x)))))))),
        floats=("Gelu", "BatchNormalization"),
    ),
    "zero pad": between(lambda x: F.pad(x, (1, 2, 1, 0))),
    "pad with 0.5": between(lambda x: F.pad(x, (1, 1, 1, 1), value=0.5), floats=("Pad",)),
    "reflect pad": between(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "replicate pad": between(lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate")),
    "crop": between(lambda x: x[:, :, 1:-1, 1:-1]),
    "strided slice": between(lambda x: x[:, :, ::2, ::2]),
    "flatten": between(lambda x: x.flatten(2).unflatten(2, (SIZE, SIZE))),
    "permute": between(lambda x: x.permute(0, 1, 3, 2)),
    "mean over width": between(lambda x: x + x.mean(3, keepdim=True), floats=("ReduceMean", "Add")),
    "mean over channels": between(lambda x: x * x.mean(1, keepdim=True), floats=("ReduceMean", "Mul")),
    "split and sum": between(
        lambda x: torch.cat([x[:, :4] + x[:, 4:], x[:, :4] - x[:, 4:]], 1), floats=("Sub", "Concat")
    ),
    "channel shuffle": Form(shuffle),
    "channels permuted": between(lambda x: x.index_select(1, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))),
    "zero pad, average pool": between(lambda x: F.avg_pool2d(F.pad(x, (1, 2, 1, 0)), 2)),
    "zero pad, two readers": between(lambda x: (lambda y: y + F.max_pool2d(y, 3, 1, 1))(F.pad(x, (1, 0, 1, 0)))),
    "interpolate, nearest": between(lambda x: F.interpolate(x, scale_factor=2)),
    "interpolate, bilinear": between(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), floats=("Resize",)),
    "times a constant": between(lambda x: 0.5 * x + 0.25, floats=("Mul", "Add")),
    "clamp": between(lambda x: x.clamp(-0.5, 1.5)),
    "Conv1d": Form(lambda n, x: n.head(n.line_b(torch.relu(n.line_a(n.start(x).flatten(2)))).mean(2))),
    "ConvTranspose": Form(
        lambda n, x: n.end(
            n.up_b(torch.relu(n.up_a(torch.relu(n.norm_b(n.b(torch.relu(n.norm_a(n.a(n.start(x))))))))))
        ),
        floats=("ConvTranspose",),
    ),
    "shared first layers": Form(lambda n, x: plain(n, torch.relu(n.first_b(torch.relu(n.first_a(x)))))),
    "shared first layers, GELU": Form(
        lambda n, x: plain(n, F.gelu(n.first_b(F.gelu(n.first_a(x))))), floats=("Conv", "Gelu")
    ),
    "shared first layers, GELU, BN": Form(
        lambda n, x: plain(n, n.norm_first(F.gelu(n.first_b(F.gelu(n.first_a(x)))))),
        floats=("Conv", "Gelu", "BatchNormalization"),
    ),
    "pixel shuffle": between(lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1)),
    "hard tanh": between(F.hardtanh),
    "nearest, add": Form(
        lambda n, x: (lambda y: n.end(n.norm_b(n.b(y)) + F.interpolate(n.norm_a(n.strided(y)), scale_factor=2)))(
            n.start(x)
        )
    ),
    "all γ negative": Form(plain, edit=lambda n: n.norm_a.weight.copy_(-n.norm_a.weight.abs())),
    "γ zero": Form(plain, edit=set_gamma(0.0)),
    "γ tiny": Form(plain, edit=set_gamma(1e-12)),
    "γ huge": Form(plain, edit=huge_gamma),
    "γ huge, alone": Form(plain, edit=set_gamma(1e4)),
    "dead channels": Form(plain, edit=dead_channel),
    "an activation that is 0": Form(plain, edit=dead_layer),
}
