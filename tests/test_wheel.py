"""The wheel, built and installed into an empty environment, works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.models import zoo
from edgeks.target import catalogue

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)  # the source archive, and the wheel from it
    (built,) = folder.glob("*.whl")
    return built


def test_nothing_but_edgeks_lands_in_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgeks"}
    assert "edgeks/py.typed" in names
    for page in ("edgeks/page", "edgeks/audit/footprint_page", "edgeks/bench/bench_page"):
        assert {f"{page}/{path.name}" for path in (ROOT / page).iterdir()} <= set(names)
    for kind in ("export", "pipelines"):
        folder = f"edgeks/catalogue/{kind}/"
        shipped = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        assert shipped == {path.relative_to(ROOT / kind).as_posix() for path in (ROOT / kind).rglob("*.toml")}


def test_a_checkout_reads_its_own_catalogues() -> None:
    assert catalogue("export") == ROOT / "export"
    assert catalogue("pipelines") == ROOT / "pipelines"


@pytest.mark.slow
def test_an_empty_environment_exports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--no-compile", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch"], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def edgeks(*arguments: str) -> str:
        command = [str(venv / "bin" / "edgeks"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout

    listed = edgeks("targets")
    assert str(venv) in listed  # the wheel's own catalogue, not the checkout's
    assert "rpi-zero-2w" in listed
    name, config = zoo.architecture("convmixer_48_6_2k", {"dim": 8, "depth": 2})
    save_checkpoint(tmp_path / "model.pt", Checkpoint(zoo.build(name, config, seed=0).eval(), name, config))
    written = edgeks("export", "model.pt", "--input", "3x8x8")
    assert "4 kernels for 6 layers (2 sharing groups + 2 unshared), proven on the file" in written
    assert "2 sharing groups" in edgeks("share", "model.pt")
    assert "4 kernels for 6 layers" in edgeks("footprint", "model_fp32.onnx")
