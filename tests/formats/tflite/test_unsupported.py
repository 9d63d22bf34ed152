"""Nodes that TFLite has no form for: one error that lists all of them, and no file."""

from pathlib import Path

import pytest
import torch
from networks import checkpoint_of
from onnx_files import by_text
from onnx_text import graph_of, normal
from torch import nn

from edgeks.errors import GraphError
from edgeks.exporter import export
from edgeks.formats.tflite.lower import LISTED, lower
from edgeks.graph.onnx_network import load_onnx
from edgeks.target import load_target

TFLITE = load_target("tflite")
SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()


class Odd(nn.Module):
    """Three nodes that cannot be lowered, between some that can."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = torch.cumsum(x, 1)  # CumSum
        x = self.up(x)  # ConvTranspose
        x = torch.atan(x)  # Atan
        return self.head(x.mean((2, 3)))


def line_of(op):
    return next(number for number, line in enumerate(SOURCE, 1) if line.endswith(f"# {op}"))


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_all_of_them_with_their_lines_in_one_error(int8, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    with pytest.raises(GraphError) as caught:
        export(checkpoint_of(Odd(), (3, 6, 6)), tmp_path / "odd.tflite", TFLITE, int8=int8)
    message = str(caught.value)
    assert message.startswith("3 nodes of the network cannot be lowered to TFLite: ")
    file = Path(__file__).relative_to(Path.cwd())
    assert f"CumSum 'CumSum' ({file}:{line_of('CumSum')}): not in the table" in message
    assert f"ConvTranspose 'up' ({file}:{line_of('ConvTranspose')}): only one group" in message
    assert f"Atan 'Atan' ({file}:{line_of('Atan')}): not in the table" in message
    assert "docs/tflite_ops.md" in message and "--converter litert-torch" in message
    assert "\n" not in message and not list(tmp_path.iterdir())


def test_an_onnx_file_is_told_by_node_names_and_has_no_way_out_by_torch(tmp_path):
    path = by_text(
        tmp_path / "odd.onnx",
        """(float[1,4,6,6] x) => (float[1,4,5,5] y) {
            [first] a = Conv(x, W)
            [second] b = Atan(a)
            [third] y = Conv(b, W2)
        }""",
        W=normal(4, 4, 2, 2),
        W2=normal(4, 4, 1, 1),
    )
    with pytest.raises(GraphError, match=r"^1 node of the network .*: Atan 'second': not in the table") as caught:
        export(load_onnx(path), tmp_path / "odd.tflite", TFLITE)
    assert "litert-torch" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["odd.onnx"]


def test_many_are_counted():
    count = LISTED + 3
    text = "".join(f"v{i + 1} = Atan(v{i})\n" for i in range(count - 1))
    model = graph_of(f"(float[1,4] v0) => (float[1,4] y) {{ {text} y = Atan(v{count - 1}) }}")
    with pytest.raises(GraphError, match=rf"^{count} nodes .*; and 3 more\.") as caught:
        lower(model, {})
    assert str(caught.value).count("not in the table") == LISTED


class Volume(nn.Module):
    """A 3-D convolution over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.volume = nn.Conv3d(1, 2, 3, padding=1)
        self.pool = nn.MaxPool3d(2)

    def forward(self, x):
        return self.pool(self.volume(self.conv(x)[:, None])).mean((2, 3, 4))


def test_windows_of_three_dimensions(tmp_path):
    with pytest.raises(GraphError) as caught:
        export(checkpoint_of(Volume(), (3, 6, 6)), tmp_path / "volume.tflite", TFLITE)
    message = str(caught.value)
    assert "Conv 'volume'" in message and "MaxPool 'pool'" in message
    assert message.count("a 3-D window; TFLite's have 1 or 2 dimensions") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("y = Relu(x)", None),
        ("y = Max(x, x, x)", "of 3 tensors"),
        ("y = ConvTranspose<auto_pad=\"SAME_UPPER\">(x, W)", "auto_pad or output_shape"),
        ("y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(x, W)", "output_padding is 1 more than padding"),
        ("y, i = MaxPool<kernel_shape=[2,2]>(x)\n z = Cast<to=1>(i)", "its indices are read"),
        ("y = PRelu(x, W)", "a slope of shape"),
        ("y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)", "dilated pooling"),
        ("y = Resize<mode=\"cubic\">(x, , s)", "mode 'cubic'"),
        ("y = Conv(x, x)", "its kernel is computed at run time"),
        ("y = Pad(x, p)", "negative padding"),
    ],
)  # fmt: skip
def test_what_an_operator_of_the_table_does_not_take(line, reason):
    text = f"(float[1,4,6,6] x) => (float[n,c,h,w] y) {{ {line} }}"
    constants = {"s": normal(4) * 0 + [1, 1, 2, 2], "p": [0, 0, -1, 0, 0, 0, 0, 0], "W": normal(4, 4, 3, 3)}
    constants["s"] = constants["s"].astype("float32")
    used = {name: value for name, value in constants.items() if f", {name})" in line}
    model = graph_of(text, **used)
    if reason is None:
        lower(model, {})
        return
    with pytest.raises(GraphError, match=reason):
        lower(model, {})
