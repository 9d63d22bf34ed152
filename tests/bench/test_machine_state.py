"""The runner's readings of the machine: of this one, and of files as a Raspberry Pi has them."""

import os
import subprocess
import sys
import time

import pytest

from edgeks.bench.runner import MachineState

COUNTERS = set(MachineState.COUNTERS)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def ticks(cores, busy, steal=0):
    """/proc/stat with `busy` ticks of user time and `steal` of the hypervisor's on each core."""
    lines = [f"cpu{core} {busy} 0 0 5000 0 0 0 {steal} 0 0" for core in cores]
    return "\n".join(["cpu 0 0 0 0 0 0 0 0 0 0", *lines, "intr 1"])


def board(root):
    """A Raspberry Pi 4: every core at 1,500 of 1,800 MHz, throttled once since boot."""
    cores = os.sched_getaffinity(0)
    for core in cores:
        clocks = {"scaling_cur_freq": "1500000\n", "cpuinfo_max_freq": "1800000\n", "base_frequency": "1800000\n"}
        write(root, {f"sys/devices/system/cpu/cpu{core}/cpufreq/{name}": text for name, text in clocks.items()})
    write(
        root,
        {
            "sys/class/thermal/thermal_zone0/temp": "61835\n",
            "sys/class/thermal/thermal_zone1/temp": "71000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
            "proc/stat": ticks(cores, 1000),
            "proc/vmstat": "nr_free_pages 1\npswpin 10\npswpout 20\n",
        },
    )
    return cores


def test_a_boards_files(tmp_path):
    cores = board(tmp_path)
    machine = MachineState(str(tmp_path))
    before = machine.read("before")
    assert before["unknown"] == {}
    assert set(before["cores"]) <= cores
    assert before["clock_mhz"] == [1500.0] * len(before["cores"])
    assert before["nominal_clock_mhz"] == [1800.0] * len(before["cores"])
    assert (before["temperature_c"], before["throttled"]) == (71.0, 0x50000)
    assert {before[name] for name in COUNTERS} == {0}
    write(tmp_path, {"proc/stat": ticks(cores, 1300, 7), "proc/vmstat": "pswpin 15\npswpout 20\n"})
    after = machine.read("after")
    assert (after["swap_in_pages"], after["swap_out_pages"]) == (5, 0)
    assert after["steal_cpu_s"] == pytest.approx(0.07 * len(cores))
    assert after["own_cpu_s"] + after["others_cpu_s"] == pytest.approx(3.0 * len(cores))
    assert after["seconds"] > before["seconds"] == 0.0


def test_what_cannot_be_read_is_named_with_why(tmp_path):
    state = MachineState(str(tmp_path)).read("during")
    nothing = {name for name, value in state.items() if value is None}
    assert nothing == set(state["unknown"])
    assert nothing == {
        *("clock_mhz", "nominal_clock_mhz", "temperature_c", "throttled"),
        *("others_cpu_s", "steal_cpu_s", "swap_in_pages", "swap_out_pages"),
    }
    assert "no thermal zone" in state["unknown"]["temperature_c"]


def test_vcgencmd_is_asked_before_and_after_only(tmp_path, monkeypatch):
    command = tmp_path / "bin" / "vcgencmd"
    write(tmp_path, {"bin/vcgencmd": "#!/bin/sh\necho throttled=0x50005\n"})
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    machine = MachineState(str(tmp_path))
    assert machine.read("before")["throttled"] == machine.read("after")["throttled"] == 0x50005
    during = machine.read("during")
    assert during["throttled"] is None
    assert "before and after only" in during["unknown"]["throttled"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_work_of_this_process_is_told_from_that_of_others():
    machine = MachineState()
    assert machine.read("before")["seconds"] == 0.0
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    own = machine.read("during")
    assert own["own_cpu_s"] == pytest.approx(0.2, abs=0.05)
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    other = machine.read("after")
    assert other["own_cpu_s"] < 0.2
    assert other["others_cpu_s"] > 0.35
    assert own["cores"]
    assert set(own["cores"]) <= os.sched_getaffinity(0)
