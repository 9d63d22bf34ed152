"""How the shared kernels should start: python benchmarks/share_inits.py model.pt --data cifar10:DIR --groups stage 2

Ties an unshared network by every initialisation and prints, as Markdown, the accuracies of `edgeks share`: tied, with
BN statistics measured anew, and fine-tuned with and without distillation from the original.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from edgeks.checkpoint import load_checkpoint
from edgeks.share import share
from edgeks.train.data import load_dataset
from edgeks.train.settings import TrainSettings

INITS = ("first", "mean", "least_squares")
EPOCHS, BATCH, LR, DISTILLATION = 3, 64, 0.003, 0.5


def main() -> None:
    """Print the table of one network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int)
    parser.add_argument("--groups", nargs="+", default=["stage", "2"])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--augment", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    checkpoint, dataset = load_checkpoint(given.model), load_dataset(given.data, given.size)
    columns = [f"{given.epochs} epochs, {kind}" for kind in ("labels alone", "distilled")]
    print(f"| groups | init | relative error | original | tied | statistics anew | {' | '.join(columns)} |")
    print(f"|{'---|' * (6 + len(columns))}", flush=True)
    for groups in given.groups:
        for init in INITS:
            tuned = []
            for distillation in (0.0, DISTILLATION):
                of_seeds = []
                for seed in given.seeds:
                    settings = TrainSettings(
                        epochs=given.epochs,
                        batch_size=given.batch_size,
                        lr=LR,
                        augment=tuple(given.augment),
                        distillation=distillation,
                        validation=0.0,
                        seed=seed,
                        threads=1,
                    )
                    with tempfile.TemporaryDirectory() as folder:
                        out = Path(folder) / "shared.pt"
                        result = share(checkpoint, groups, init=init, dataset=dataset, settings=settings, out=out)
                    of_seeds.append(result.accuracies.tuned)
                    print(groups, init, distillation, seed, result.accuracies, file=sys.stderr, flush=True)
                tuned.append(" / ".join(f"{accuracy:.2%}" for accuracy in of_seeds))
            errors = ", ".join(f"{fit.relative_error:.0%}" for fit in result.fits)
            accuracies = result.accuracies
            steps = (accuracies.original, accuracies.tied, accuracies.measured)
            cells = [groups, init, errors, *(f"{accuracy:.2%}" for accuracy in steps), *tuned]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
