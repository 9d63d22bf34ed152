"""What disturbs a measurement is named; what is unknown, or as it should be, is not."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeks.bench import runner, stats, validity
from edgeks.bench.measurement import PRESETS
from edgeks.bench.stream import RunnerStream, State, WarmUp
from edgeks.bench.validity import summarised, taints

QUIET = State(
    moment="during",
    seconds=0.0,
    cores=(2,),
    allowed_cores=4,
    clock_mhz=(1800.0,),
    nominal_clock_mhz=(1800.0,),
    temperature_c=62.0,
    throttled=0,
    load_1min=1.0,
    own_cpu_s=0.5,
    others_cpu_s=0.02,
    steal_cpu_s=0.0,
    swap_in_pages=0,
    swap_out_pages=3,
    major_faults=0,
    involuntary_switches=5,
)
UNKNOWN = State("during", 0.0, (0,), 2)


def readings(*changes, state=QUIET):
    """A reading each half second, changed as told."""
    moments = ["before", *["during"] * (len(changes) - 2), "after"]
    return [
        replace(state, moment=moment, seconds=0.5 * number, **change)
        for number, (moment, change) in enumerate(zip(moments, changes, strict=True))
    ]


def found(*changes, machine="aarch64", state=QUIET, stable=True):
    states = readings(*changes, state=state)
    return taints(RunnerStream(facts={"machine": machine}, warmup=WarmUp(20, 0.4, stable), states=states))


def test_a_quiet_board_and_one_that_tells_nothing_are_not_tainted():
    assert found({}, {}, {}) == ()
    assert found({}, {}, {}, state=UNKNOWN) == ()
    assert found({}, {}, stable=None) == ()
    assert taints(RunnerStream()) == ()


def test_a_warm_up_that_was_never_stable():
    assert found({}, {}, stable=False) == ("latency was not stable after 0.4 s of warm-up",)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ([0, 0x1, 0], "under-voltage"),
        ([0x50000, 0x50000, 0x50000], None),  # before this run, since boot
        ([0x50000, 0x50005, 0x50005], "under-voltage, throttled"),
        ([0x10000, 0x10000, 0x30000], "clock capped"),  # between two readings
        ([0x0, None, 0x80000], "slowed down by temperature"),  # vcgencmd, before and after only
        ([None, None, None], None),
    ],
)
def test_throttle_bits(bits, words):
    reasons = found(*({"throttled": value} for value in bits))
    assert reasons == (
        () if words is None else (f"the board was slowed down: {words}; see to its power supply and cooling",)
    )


@pytest.mark.parametrize(
    ("clocks", "reason"),
    [
        ([600.0, 1800.0, 1790.0], None),  # it was idle before
        ([1800.0, 1500.0, 1800.0], "core 2 ran at 1500 of 1800 MHz"),
        ([1800.0, *[1800.0] * 12, 1500.0], None),  # one of thirteen readings
        ([1800.0, *[1500.0, 1400.0] * 5, 1800.0], "core 2 ran at 1400 of 1800 MHz"),
    ],
)
def test_a_slow_clock(clocks, reason):
    reasons = found(*({"clock_mhz": (clock,)} for clock in clocks))
    assert [text.partition(":")[0] for text in reasons] == ([] if reason is None else [reason])


def test_the_slowest_core_in_use_counts():
    two = {"cores": (0, 3), "clock_mhz": (1800.0, 900.0), "nominal_clock_mhz": (1800.0, 1800.0)}
    assert found(two, two, two)[0].startswith("core 3 ran at 900 of 1800 MHz")


def test_a_turbo_clock_is_no_disturbance():
    fast = {"clock_mhz": (3900.0,), "nominal_clock_mhz": (2400.0,)}
    assert found(fast, fast, fast, machine="x86_64") == ()


def test_heat_is_a_disturbance_on_arm_boards():
    hot = {"temperature_c": 84.2}
    assert found({}, hot, {}) == ("it was 84 °C hot; from 80 °C boards slow down",)
    assert found({}, hot, {}, machine="armv7l") != ()
    assert found({}, hot, {}, machine="x86_64") == ()


def test_other_work_on_the_machine():
    assert found({}, {"others_cpu_s": 0.5}, {}) == ("other processes used 14% of the CPU; at most 5% is undisturbed",)
    assert found({}, {"steal_cpu_s": 0.2}, {}) == ("the hypervisor took 5% of the CPU; at most 1% is undisturbed",)
    assert found({}, {"swap_in_pages": 500}, {}) == ("the system swapped 509 pages",)
    assert found({}, {"major_faults": 40}, {}) == ("40 pages were read from the disk during the runs: too little RAM",)


def test_a_tick_or_two_is_nothing():
    """In 10 ms of runs one tick of the kernel's clock is all of a core."""
    states = [replace(QUIET, moment="before", others_cpu_s=0.0), replace(QUIET, moment="after", seconds=0.01)]
    assert taints(RunnerStream(states=states)) == ()


def test_reasons_of_several_processes_are_one_text_for_each_kind():
    processes = [("others used 9% of the CPU", "it was 81 °C hot"), (), ("others used 40% of the CPU",)]
    assert summarised(processes) == (
        "in 2 of 3 processes: others used 40% of the CPU",
        "in 1 of 3 processes: it was 81 °C hot",
    )


def test_the_page_has_the_thresholds():
    page = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text()
    for words in (
        f"below {validity.LEAST_CLOCK:.0%} of the nominal clock".replace("%", " %"),
        f"{validity.MOST_CELSIUS:.0f} °C or more, on Arm",
        f"above {validity.MOST_OF_OTHERS:.0%} of what these cores have".replace("%", " %"),
        f"above {validity.MOST_STEAL:.0%} (and {validity.LEAST_CPU_SECONDS} s)".replace("%", " %"),
        f"more than {validity.MOST_SWAPPED_PAGES} pages",
        f"more than {validity.MOST_MAJOR_FAULTS} |",
        f"differ by less than {runner.STABLE_WITHIN:.0%}".replace("%", " %"),
        f"at least {runner.WINDOW_RUNS} inferences and lasts at least {runner.WINDOW_SECONDS} s",
        f"After {runner.WARMUP_SECONDS:.0f} s it is given up",
        f"{stats.RESAMPLES:,} resamples",
    ):
        assert words in page, words
    for name, effort in PRESETS.items():
        assert f"| `{name}` | {effort.processes} | {effort.runs:,} | {effort.seconds:g} |" in page
