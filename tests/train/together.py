"""What several processes do in the tests of data parallel training: one group, since to start one takes seconds."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from edgeks.models.zoo import build
from edgeks.quant import prepare_qat
from edgeks.train import processes
from edgeks.train.data import load_dataset
from edgeks.train.fit import fit
from edgeks.train.settings import TrainSettings
from edgeks.train.sync_batch_norm import synchronised

CONFIG = {"dim": 8, "depth": 3, "kernel_size": 3, "patch_size": 2, "kernels": 2, "in_channels": 1}
# Batches of 17 rows, uneven for two processes, and a last one that is smaller.
PLAIN = TrainSettings(
    epochs=3, batch_size=17, lr=0.05, optimizer="sgd", augment=("crop",), validation=0.2, threads=1, device="cpu"
)
EVERYTHING = replace(
    PLAIN, batch_size=20, accumulation=3, ema=0.8, clip_norm=0.5, schedule="plateau", patience=0, gamma=0.5
)
FAKE_QUANTISED = replace(PLAIN, epochs=1, lr=1e-3, qat="learned")  # its first batch gives the ranges
SETTINGS = {"plain": PLAIN, "everything": EVERYTHING, "fake-quantised": FAKE_QUANTISED}

# What `edgeks train` with ARGUMENTS does.
KILLED = replace(
    EVERYTHING, epochs=12, batch_size=600, accumulation=2, clip_norm=1.0, patience=1, optimizer="adamw", augment=()
)
ARGUMENTS = (
    *("convmixer", "--set", "dim=8", "--set", "depth=3", "--set", "kernel_size=3", "--set", "patch_size=2"),
    *("--set", "kernels=2", "--epochs", "12", "--batch-size", "600", "--lr", "0.05", "--accumulation", "2"),
    *("--ema", "0.8", "--clip-norm", "1", "--schedule", "plateau", "--patience", "1", "--gamma", "0.5"),
    *("--validation", "0.2", "--threads", "1", "--device", "cpu", "--quiet"),
)


def few_digits(count=48):
    whole = load_dataset("digits")
    train, test = slice(None, count), slice(None, 30)
    return replace(
        whole,
        train_images=whole.train_images[train],
        train_labels=whole.train_labels[train],
        test_images=whole.test_images[test],
        test_labels=whole.test_labels[test],
    )


def network(name):
    model, data = build("convmixer", CONFIG, 0), few_digits()
    if SETTINGS[name].qat == "off":
        return model
    return prepare_qat(model, torch.from_numpy(data.preprocessing.normalise(data.train_images[:1])))


def trained(name, folder):
    """Result, weights and the state file of one training."""
    model, last = network(name), Path(folder) / f"{name}.resume"
    result = fit(model, few_digits(), SETTINGS[name], last=last)
    return result, model.state_dict()


def batch_norm_and_gradients(rows):
    """Outputs, gradients and statistics of a layer that is used three times with BN between, over `rows` of a batch."""
    torch.manual_seed(1)
    conv, norms = nn.Conv2d(4, 4, 3, padding=1), nn.ModuleList(nn.BatchNorm2d(4, momentum=m) for m in (0.1, None, 0.3))
    norms[0].weight.data.uniform_(0.5, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norms = conv, norms

        def forward(self, x):
            for norm in self.norms:
                x = F.gelu(norm(self.conv(x)))
            return x

    net, x = Net(), torch.randn(5, 4, 6, 6) * 3 + 1
    wanted = torch.randn(5, 4, 6, 6)
    twin = copy.deepcopy(net)
    with synchronised(net):
        wrapped = DistributedDataParallel(net, forward_sync_buffers=False) if processes.count() > 1 else net
        for _ in range(2):
            y = wrapped(x[rows])
            loss = ((y - wanted[rows]) ** 2).sum() / y.shape[1:].numel() / 5 * processes.count()
            loss.backward()
    assert twin.conv.weight.equal(net.conv.weight)
    return y.detach(), [p.grad for p in net.parameters()], list(net.buffers())


def all_of_it(folder, progress):
    """In each of several processes: every training, and the layer over uneven rows, one process without any."""
    with processes.joined("cpu"):
        kept = {name: trained(name, folder) for name in SETTINGS}
        rank = processes.rank()
        kept["uneven"] = batch_norm_and_gradients([slice(0, 3), slice(3, 5)][rank])
        kept["empty"] = batch_norm_and_gradients([slice(0, 5), slice(5, 5)][rank])
        for name in ("resumed", "straight"):
            model = build("convmixer", CONFIG, 0)
            last = Path(folder) / f"{name}.pt.resume"  # of "resumed" a killed training has left one
            kept[name] = fit(model, load_dataset("digits"), KILLED, last=last, resume=True), model.state_dict()
        torch.save(kept, Path(folder) / f"{rank}.pt")
