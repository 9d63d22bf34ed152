"""The guide and the README: every command is run, every line of output that they show is one that was printed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tflite_runtime_env import PYTHON as TFLITE_RUNTIME

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def masked(line: str) -> str:
    """Figures and spacing may differ, words may not."""
    return " ".join(re.sub(r"[0-9][0-9.,]*", "#", line).split())


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """`$ command` and the output lines that the page shows for it."""
    for part in block.split("$ ")[1:]:
        command, *shown = part.strip().splitlines()
        yield command, shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("guide", 12),
        ("footprint", 12),
        ("tflite", 15),
        ("quantisation", 9),
        ("qat", 5),
        ("prepared", 6),
        ("advise", 7),
        ("where_did_my_ram_go", 15),
    ],
)
def test_every_command_and_program_of_a_page(page: str, least: int, tmp_path: Path, warm: Path) -> None:
    path = f"{warm}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    ran = 0
    for kind, block in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            script = tmp_path / (name.group(1) if name else "snippet.py")
            script.write_text(block, encoding="utf-8")
            if name is None:
                subprocess.run([sys.executable, script], check=True, cwd=tmp_path, env=environment)
                ran += 1
            if "tflite_runtime" in block and TFLITE_RUNTIME.exists():  # the other runtime that the program is for
                subprocess.run([TFLITE_RUNTIME, script], check=True, cwd=tmp_path, env=environment)
            continue
        for command, shown in commands(block):
            done = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            printed = masked(done.stdout)
            for line in shown:
                assert masked(line) in printed, f"{command} did not print {line!r} but {done.stdout}"
            ran += 1
    assert ran >= least


def test_links_of_the_documents_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "device_tests" / "README.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
