"""Which BN can take a scale of a layer's output: right, or declined with a reason."""

import pytest
import torch
from torch import nn

from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.sharing.following_norm import following_norms


def conv(**options):
    return nn.Conv2d(4, 4, 3, padding=1, **options)


class Net(nn.Module):
    """`first` → `norm`, in the way that a test says, then `second` → its own BN."""

    def __init__(self, wire, norm=None):
        super().__init__()
        self.first, self.second = conv(), conv()
        self.norm, self.norm2 = norm or nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.wire = wire

    def forward(self, x):
        return self.norm2(self.second(self.wire(self, x)))


def found(net):
    norms = following_norms(net)
    assert norms[id(net.second)] is net.norm2  # whatever is wrong with the first layer
    return norms[id(net.first)]


def test_the_norm_right_behind():
    net = Net(lambda n, x: torch.relu(n.norm(n.first(x))))
    assert found(net) is net.norm
    net = Net(lambda n, x: n.norm(n.first(x)), nn.SyncBatchNorm(4))
    assert found(net) is net.norm


class Frozen(nn.BatchNorm2d):
    """Somebody's own BN: it may compute anything."""


@pytest.mark.parametrize(
    ("wire", "norm", "reason"),
    [
        (lambda n, x: n.norm(torch.relu(n.first(x))), None, "is read by relu, not by BN alone"),
        (lambda n, x: (y := n.first(x)) + n.norm(y), None, "is read by BatchNorm2d and add, not by BN alone"),
        (lambda n, x: n.norm(n.first(n.first(x))), None, "is called several times"),
        (lambda n, x: n.norm(nn.functional.conv2d(x, n.first.weight)), None, "has a kernel or bias that forward reads"),
        (lambda n, x: n.norm(n.norm(n.first(x))), None, "its BN is used elsewhere too"),
        (lambda n, x: n.norm(n.first(x)) * n.norm.weight.sum(), None, "its BN is used elsewhere too"),
        (lambda n, x: n.norm(n.first(x)), nn.BatchNorm2d(4, affine=False), "its BN lacks γ"),
        (lambda n, x: n.norm(n.first(x)), nn.BatchNorm2d(4, track_running_stats=False), "its BN lacks γ"),
        (lambda n, x: n.norm(n.first(x)), Frozen(4), "its BN is a Frozen"),
        (lambda n, x: n.norm(n.first(x)), nn.InstanceNorm2d(4), "is read by InstanceNorm2d, not by BN alone"),
    ],
)
def test_what_is_declined(wire, norm, reason):
    answer = found(Net(wire, norm))
    assert isinstance(answer, str) and answer.startswith(reason)


def test_a_scale_vector_that_two_norms_hold():
    net = Net(lambda n, x: n.norm(n.first(x)))
    net.norm.weight = net.norm2.weight
    assert following_norms(net)[id(net.first)] == following_norms(net)[id(net.second)] == "its BN is used elsewhere too"


def test_a_network_that_cannot_be_traced():
    net = Net(lambda n, x: n.norm(n.first(x)) if x.sum() > 0 else n.norm(x))
    assert {reason.partition(":")[0] for reason in following_norms(net).values()} == {
        "torch.fx cannot trace the network"
    }


def test_the_zoo():
    """Every convolution of SE-ResNet has its BN; in ConvMixer GELU is in between."""
    resnet = SEResNet(1, [], widths=[8, 8], stem_width=8, reduction=4)
    norms = following_norms(resnet)
    assert norms[id(resnet.stem)] is resnet.stem_norm
    for block in (stage[0] for stage in resnet.stages.values()):
        assert norms[id(block.conv1)] is block.norm1 and norms[id(block.conv2)] is block.norm2
        assert norms[id(block.identity)] is block.identity_norm
        assert norms[id(block.se.reduce)] == "is read by ReLU, not by BN alone"
    mixer = ConvMixer(4, 2, 3, 1)
    assert set(following_norms(mixer).values()) == {
        "is read by GELU, not by BN alone",
        "is read by output, not by BN alone",
    }
