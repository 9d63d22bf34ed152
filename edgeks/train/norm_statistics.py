"""BN's running statistics measured anew: after a change of the weights the old ones are those of another network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from edgeks.train.batches import Normalise
from edgeks.train.dataset import Dataset

IMAGES = 4096
BATCH = 128


def measure_norm_statistics(model: nn.Module, dataset: Dataset, seed: int = 0) -> None:
    """Set the running statistics of every BN to their mean over batches of training images, in place.

    The images (4,096 at most, a seeded choice) are not augmented, as those are not that the network is for. The mode
    stays as it was. A network without BN is left as it is.
    """
    count = min(IMAGES, len(dataset.train_images))
    chosen = np.random.default_rng(seed).choice(len(dataset.train_images), count, replace=False)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    normalise = Normalise(dataset.preprocessing, device)
    batches = max(1, count // BATCH)  # of equal size: each counts the same, and none is a single image

    def images() -> Iterator[Tensor]:
        for indices in np.array_split(chosen, batches):
            yield normalise(torch.from_numpy(dataset.sample(np.sort(indices))).to(device))

    update_bn(images(), model)
