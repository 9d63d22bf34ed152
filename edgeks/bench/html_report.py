"""Record of a benchmark → one HTML page that needs nothing but itself (edgeks.html_page)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgeks import html_page as pages
from edgeks.bench.record import Record, to_json

PAGE = Path(__file__).with_name("bench_page")
SCRIPTS = ("words", "axes", "verdict", "latency", "distributions", "series", "ops", "ram", "devices", "page")
MAX_SAMPLES = 20_000  # of one process: more are not told apart in a plot, and would make the page too large to open


def html_page(record: Record) -> str:
    """Record → an HTML document that carries it as JSON.

    Where a process has more than MAX_SAMPLES samples the page carries every n-th of them, with n as `sample_stride`;
    the percentiles are of all.

    Raises:
        ValueError: a number of the record is infinite or no number at all.
    """
    report = to_json(record)
    for measurement in report["measurements"]:
        for repetition in measurement["repetitions"]:
            _thin(repetition)
    return pages.html_page("Benchmark", PAGE, SCRIPTS, report)


def _thin(repetition: dict[str, Any]) -> None:
    samples = repetition["samples_ms"]
    if len(samples) > MAX_SAMPLES:
        stride = math.ceil(len(samples) / MAX_SAMPLES)
        repetition |= {"samples_ms": samples[::stride], "sample_stride": stride}
