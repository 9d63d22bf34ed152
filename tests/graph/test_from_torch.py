"""Networks of many kinds → a graph whose layers bear their names and share by identity."""

import pytest
import torch
from onnx_text import normal, ops
from torch import nn
from torch.nn import functional

from edgeks.errors import GraphError
from edgeks.graph.float_graph import float_graph
from edgeks.graph.from_torch import capture
from edgeks.graph.kernels import readers
from edgeks.graph.plan import graph_plan

X = normal(1, 4, 6, 6)


class Net(nn.Module):
    """Two convolutions, a Linear, and a forward of the test's own."""

    def __init__(self, forward, tie=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        if tie:
            self.other.weight = self.conv.weight
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def layers_of(net):
    model = capture(net, X, 20)
    return sorted(readers(model).values()), graph_plan(model)


def test_a_module_that_is_called_twice_is_two_layers():
    found, plan = layers_of(Net(lambda net, x: net.conv(torch.relu(net.conv(x)))))
    assert found == [["conv", "conv#2"]]
    assert [group.layers for group in plan.groups] == [("conv", "conv#2")]


def test_layers_that_hold_one_parameter():
    found, plan = layers_of(Net(lambda net, x: net.other(torch.relu(net.conv(x))), tie=True))
    assert found == [["conv", "other"]]
    assert plan.groups[0].bias == "own" and plan.groups[0].kernel_shape == (4, 4, 3, 3) and not plan.unshared


def test_equal_kernels_that_are_not_one_parameter_stay_two():
    net = Net(lambda net, x: net.other(torch.relu(net.conv(x))))
    net.other.weight = nn.Parameter(net.conv.weight.detach().clone())
    found, plan = layers_of(net)
    assert found == [["conv"], ["other"]] and not plan.groups


def test_a_functional_convolution_on_a_module_s_kernel():
    def forward(net, x):
        return functional.conv2d(torch.relu(net.conv(x)), net.conv.weight, padding=2, dilation=2)

    found, plan = layers_of(Net(forward))
    assert found in ([["Conv", "conv"]], [["conv", "Conv"]])
    assert len(plan.groups) == 1


def test_one_module_under_two_names():
    net = Net(lambda net, x: net.again(torch.relu(net.conv(x))))
    net.again = net.conv
    found, plan = layers_of(net)
    assert len(found) == 1 and len(set(found[0])) == 2
    assert plan.layer_count == 2 and len(plan.groups) == 1


def test_a_bias_that_all_layers_share():
    net = Net(lambda net, x: net.other(torch.relu(net.conv(x))), tie=True)
    net.other.bias = net.conv.bias
    assert layers_of(net)[1].groups[0].bias == "shared"


def test_dropout_is_gone_and_the_module_is_in_eval_mode():
    net = Net(lambda net, x: net.drop(net.conv(x))).train()
    assert "Dropout" not in ops(capture(net, X, 20)) and not net.training


@pytest.mark.parametrize("tied", [False, True], ids=["one module", "two modules"])
def test_linear_layers_of_3_d_inputs_are_layers_of_the_plan(tied):
    net = Net(lambda net, x: net.last(torch.relu(net.fc(x.flatten(2).transpose(1, 2)))).mean(1))
    net.last = net.fc
    if tied:
        net.last = nn.Linear(4, 4)
        net.last.weight = net.fc.weight
    model, ledger = float_graph(net, X, 20)
    (group,) = ledger.plan.groups
    assert len(group.layers) == 2 and group.kernel_shape == (4, 4)
    assert [len(layers) for layers in readers(model).values()] == [2]
    assert ops(model).count("Transpose") == 1  # the activation's own


def branching(net, x):
    y = net.conv(x)
    return y if y.sum() > 0 else net.other(y)


def test_a_network_that_cannot_be_traced_is_one_line(capfd):
    net = Net(branching)
    with pytest.raises(GraphError, match=r"cannot be traced by torch\.export for an input of shape .*1, 4, 6, 6") as e:
        capture(net, X, 20)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_several_outputs_keep_their_order():
    net = Net(lambda net, x: (net.fc(net.conv(x).mean((2, 3))), net.conv(x)))
    model = capture(net, X, 20)
    assert [tuple(value.shape) for value in model.graph.outputs] == [(1, 4), (1, 4, 6, 6)]
    assert model.graph.inputs[0].name == "input" and model.graph.outputs[0].name == "output"
