"""One recipe of each family, from a small data folder to the summary: slim networks, a few steps, every export."""

import numpy as np
import pytest

from edgeks.layered_toml import Layer
from edgeks.pipeline import run_recipe
from edgeks.recipe import load_recipe
from edgeks.target import load_target
from edgeks.train.progress import NoProgress

FEW_STEPS = {
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.01, "schedule": "cosine", "milestones": [], "threads": 1},
    "bench": {"runs": 3, "warmup": 1},
}
FAMILIES = {
    "kernel_sharing/convmixer_256_16_2k": ("tflite", {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 4}),
    "shardnet/sl_vggnet_128": ("tflite", {"channels": 8, "convolutions": [2, 1]}),
    "sha_resnet/sha_wrn_40_4": ("onnx", {"depth": 22, "width": 1}),
    "soft_sharing/swrn_28_10_1": ("tflite", {"depth": 16, "width": 1}),
}


class Silent:
    def stage(self, name, state, detail):
        pass

    def training(self):
        return NoProgress()


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """The binary layout of CIFAR-10 with 8 images in a file: a wave for each class, and noise."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wave = np.linspace(0, np.pi, 32)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = []
        for _ in range(8):
            label = int(rng.integers(10))
            image = 128 + 90 * np.sin((label + 1) * wave)[None, :, None] * np.ones((3, 32, 32))
            pixels = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
            records.append(bytes([label]) + pixels.tobytes())
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n")
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_of_each_family_runs_to_its_summary(name, cifar, tmp_path):
    target, config = FAMILIES[name]
    over = [Layer(FEW_STEPS, "few steps"), Layer({"model": {"config": config}}, "slim")]
    over += [Layer({"data": {"source": f"cifar10:{cifar}"}, "export": {"target": target}}, "here")]
    recipe = load_recipe(name, over)
    assert recipe.target == load_target(target)
    summary = run_recipe(recipe, tmp_path, Silent())
    assert summary.recipe == name
    assert [row.artefact for row in summary.rows] == [f"fp32.{target}", f"int8.{target}"]
    for row in summary.rows:
        assert row.test_images == 8
        assert row.layers > row.kernels_stored >= row.sharing_groups
        assert row.file_bytes == (tmp_path / row.artefact).stat().st_size
    assert (tmp_path / "summary.md").read_text().startswith(f"# {name}")
