"""Runs the jobs of /data/jobs.json inside the emulated board, as its first process, and tells the console.

Self-contained: it is copied to the board. A job is {config, script, path (of Python packages)}. On the console, behind
MARK, one JSON object per line: {"ready": …}, per job {"job": its number, "lines": […], "code", "complaints"}, {"done"}.
What a job prints is kept until it has ended: the board has one core, and the console would take instructions from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARK = "@@"
WARMED = (".so", ".pyc", ".onnx", ".data", ".tflite", ".npy", ".npz")
LAST_WORDS = 2000


def say(**fields: Any) -> None:
    """One line on the console."""
    sys.stdout.write(f"{MARK}{json.dumps(fields)}\n")
    sys.stdout.flush()


def read_ahead(folders: list[str]) -> None:
    """Every file that a job may read into the page cache: a job then never waits for the disk."""
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file() and (path.suffix in WARMED or ".so." in path.name):
                with path.open("rb") as file:
                    while file.read(1 << 20):
                        pass


def run(number: int, job: dict[str, Any]) -> None:
    """One job in a fresh process."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "PYTHONPATH": job["path"],
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }
    output, complaints = Path("/run/output"), Path("/run/complaints")
    with output.open("wb") as out, complaints.open("wb") as err:
        done = subprocess.run(
            [sys.executable, job["script"]],
            input=json.dumps(job["config"]).encode(), stdout=out, stderr=err, env=environment, check=False,
        )  # fmt: skip
    words = complaints.read_text(errors="replace")[-LAST_WORDS:]
    say(job=number, lines=output.read_text(errors="replace").splitlines(), code=done.returncode, complaints=words)


def main() -> None:
    """All jobs, in the order given."""
    os.environ["PATH"] = "/usr/bin:/bin:/usr/sbin:/sbin"
    jobs = json.loads(Path("/data/jobs.json").read_text())
    read_ahead([*sorted({job["path"] for job in jobs}), "/usr/lib/python3.11", "/usr/lib/aarch64-linux-gnu", "/data"])
    say(ready=True, jobs=len(jobs), up=Path("/proc/uptime").read_text())
    for number, job in enumerate(jobs):
        run(number, job)
    say(done=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        os.system("busybox poweroff -f")  # noqa: S605
        time.sleep(60)  # the first process must not end
