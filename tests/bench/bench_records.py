"""Records to look at: real processes of this machine, few and short, with the facts that a board would have."""

import dataclasses
import functools
import math

import onnx

from edgeks.bench.local import bench
from edgeks.bench.measurement import Comparison, DeviceParity, Effort, Job, Measurement
from edgeks.bench.record import Failure, make_record
from edgeks.bench.stats import Interval
from edgeks.bench.stream import OpTime, State
from edgeks.board.host import Host
from edgeks.parity import Parity
from edgeks.target import load_target

TARGET = load_target("onnx")
# As doctor's facts are: numbers, text, lists, objects, and {"unknown": why}.
BOARD = {
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "machine": "aarch64",
    "libc": {"name": "glibc", "version": "2.36"},
    "cores": 4,
    "governor": "ondemand",
    "clock_range_mhz": [600.0, 1800.0],
    "ram_bytes": 3_979_112_448,
    "throttle": {"bits": 0, "now": [], "since_boot": []},
    "temperature_c": {"unknown": "no thermal zone in /sys/class/thermal"},
    "pythons": [{"path": "/usr/bin/python3", "version": "3.11.2", "packages": {"numpy": "1.24.2"}}],
}


def network(path, layers=1):
    """A small ONNX file that does something."""
    body = "".join(f"t{i} = Softmax(t{i - 1}) " if i else "t0 = Relu(x) " for i in range(layers))
    text = (
        '<ir_version: 10, opset_import: ["": 20]> net (float[N,3,16,16] x) => (float[N,3,16,16] y) '
        f"{{ {body} y = Identity(t{layers - 1}) }}"
    )
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def states(seconds, clock=1800.0, temperature=48.0):
    """Before, six times during, after: the clock as given, the temperature rising."""
    unknown = {"throttled": "vcgencmd is not there", "swap_in_pages": "no /proc/vmstat"}
    moments = ["before", *["during"] * 6, "after"]
    return tuple(
        State(
            moment=moment,
            seconds=seconds * index / 7,
            cores=(0, 1),
            allowed_cores=2,
            clock_mhz=(clock, clock - 300 * (index == 4)),
            nominal_clock_mhz=(1800.0, 1800.0),
            temperature_c=temperature + 3 * math.sqrt(index),
            load_1min=0.4 + 0.1 * index,
            own_cpu_s=0.0 if not index else seconds / 7,
            others_cpu_s=0.0 if not index else 0.01,
            unknown=unknown,
        )
        for index, moment in enumerate(moments)
    )


@functools.cache
def processes(path, count=4, runs=40):
    """Fresh processes that were really run here."""
    return tuple(bench(path, TARGET, runs, 2) for _ in range(count))


def measurement(path, **changes):
    """What four short processes gave, with the states of a board."""
    repetitions = tuple(
        dataclasses.replace(one, states=states(sum(one.samples_ms) / 1000), warmup_stable=True)
        for one in processes(path)
    )
    made = Measurement(
        job=Job(path, TARGET, "onnxruntime", 1, pin=(0,)),
        effort=Effort(processes=4, runs=40, seconds=0.0),
        machine="local",
        is_emulated=False,
        machine_facts={},
        started="2026-11-20T10:00:00Z",
        repetitions=repetitions,
        parity=DeviceParity(Parity(8, 61.2, 0.999998, 1.0)),
        ops=tuple(
            OpTime(f"node_{i}", "Conv" if i % 3 else "Softmax", 0.4 / (i + 1), int(i % 4 == 3)) for i in range(30)
        ),
    )
    return dataclasses.replace(made, **changes)


def slower(made, factor):
    """The same measurement of a machine that takes `factor` times as long."""
    scaled = tuple(
        dataclasses.replace(one, samples_ms=tuple(round(factor * ms, 6) for ms in one.samples_ms))
        for one in made.repetitions
    )
    return dataclasses.replace(made, repetitions=scaled)


def board(path, name="pi4", **changes):
    """A measurement of a board."""
    return measurement(path, machine=name, machine_facts=BOARD, **changes)


def disturbed(made, *reasons):
    """The same with every process tainted."""
    return dataclasses.replace(
        made, repetitions=tuple(dataclasses.replace(one, taints=reasons) for one in made.repetitions)
    )


def comparison(a, b, ratio=0.83, verdict="faster"):
    """`b` against `a`."""
    return Comparison(a, b, ratio, Interval(ratio - 0.02, ratio + 0.02), verdict, ("ab", "ba", "ba", "ab"), 7)


def single(path):
    """A valid measurement of this machine."""
    return make_record([measurement(path)], command=["edgeks", "bench", path.name])


def against(path, other):
    """Two files against each other."""
    a, b = measurement(path), slower(measurement(other), 0.83)
    return make_record([], [comparison(a, b)], command=["edgeks", "bench", path.name, "--against", other.name])


def fleet(path):
    """Four boards: one well, one disturbed, one emulated, one that failed."""
    hosts = [
        Host("pi4", "ssh://pi:secret@pi4.lan:2222", ("-o", "ProxyCommand=nc --password secret %h", "-i", "secret.key")),
        Host("zero", "pi@zero.lan", ("-o", "Port=22")),
        Host("emulated", "root@127.0.0.1", is_emulated=True),
    ]
    reason = "the clock fell to 600 of 1,800 MHz while it ran"
    found = [
        board(path),
        disturbed(slower(board(path, "zero", ops=None, ops_reason="tflite-runtime has no profiler"), 4.2), reason),
        board(path, "emulated", is_emulated=True, parity=DeviceParity(None, "no samples were given")),
    ]
    failures = [Failure("pi5", "net.onnx", "pi5: port 22 is closed on pi5.lan; is sshd running there?")]
    command = ["edgeks", "bench", path.name, "--host", "ssh://pi:secret@pi4.lan:2222", "--host", "zero"]
    return make_record(found, command=command, hosts=hosts, failures=failures)
