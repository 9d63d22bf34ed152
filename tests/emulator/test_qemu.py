"""The emulator's process ends with whoever started it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from edgeks.emulator import qemu

STARTER = """
import time
from edgeks.emulator import qemu
with qemu.running(["sleep", "600"]) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_gone_after_the_block():
    with qemu.running(["sleep", "600"]) as process:
        assert is_running(process.pid)
    assert process.returncode == -signal.SIGKILL


def test_it_dies_with_a_killed_process():
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        pid = int(starter.stdout.readline())
        assert is_running(pid)
        starter.kill()
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(pid)


def test_a_comma_in_a_path_does_not_end_the_option():
    words = qemu.command(Path("k"), Path("i"), [Path("a,b.ext4")], "cortex-a53", "256M", ["-smp", "1"], "edgeks.jobs")
    assert "file=a,,b.ext4,format=raw,if=virtio,snapshot=on" in words
    assert words[words.index("-append") + 1].endswith(" edgeks.jobs")
    assert words[0] == qemu.PROGRAM and words[-2:] == ["-smp", "1"]
