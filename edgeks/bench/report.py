"""BenchResult → a terminal report with the answer first, or JSON of schema edgeks.bench/1.

The JSON object (docs/bench_schema.md): schema, file, target, session, facts, inputs, load_ms, first_inference_ms,
warmup, latency {count, mean_ms, min_ms, max_ms, p50_ms, p90_ms, p99_ms}, samples_ms, memory.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeks.bench.stats import Latency
from edgeks.bench.stream import BenchResult

SCHEMA = "edgeks.bench/1"
WIDTH = 100


def to_json(result: BenchResult) -> dict[str, Any]:
    """BenchResult → plain lists, numbers and text; a percentile that too few samples cannot tell is null."""
    return {
        "schema": SCHEMA,
        "file": str(result.path),
        "target": result.target,
        "session": result.session,
        "facts": result.facts,
        "inputs": result.inputs,
        "load_ms": result.load_ms,
        "first_inference_ms": result.first_inference_ms,
        "warmup": result.warmup,
        "latency": asdict(result.latency),
        "samples_ms": list(result.samples_ms),
        "memory": [asdict(memory) for memory in result.memory],
    }


def render(result: BenchResult, console: Console) -> None:
    """Print the report, at most 100 columns wide: the answer, then the table, then what it was measured on."""
    width = min(WIDTH, console.width)
    latency = result.latency
    console.print(_answer(result, latency), width=width, highlight=False)
    console.print()
    console.print(_latency_table(result, latency), width=width, highlight=False)
    console.print()
    console.print(_facts_table(result), width=width, highlight=False)
    lacking = [percent for percent in (50, 90, 99) if getattr(latency, f"p{percent}_ms") is None]
    if lacking:
        needed = ", ".join(f"p{percent} needs {100 // (100 - percent)}" for percent in lacking)
        note = f"note: {latency.count} runs are too few: {needed} runs or more."
        console.print(Text(note, style="dim"), width=width, highlight=False)


def _answer(result: BenchResult, latency: Latency) -> Text:
    threads = result.session["threads"]
    many = "1 thread" if threads == 1 else f"{threads} threads"
    middle, name = (latency.mean_ms, "mean") if latency.p50_ms is None else (latency.p50_ms, "p50")
    text = Text.assemble((result.path.name, "bold"), ": ", (f"{name} {_ms(middle)}", "bold green"))
    if latency.p90_ms is not None:
        text.append(f", p90 {_ms(latency.p90_ms)}")
    if latency.p99_ms is not None:
        text.append(f", p99 {_ms(latency.p99_ms)}")
    runs = "1 run" if latency.count == 1 else f"{latency.count} runs"
    text.append(f" over {runs}, {many}, {result.facts.get('runtime')} {result.facts.get('runtime_version')}.")
    return text


def _latency_table(result: BenchResult, latency: Latency) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    cells = {
        "load": result.load_ms,
        "first": result.first_inference_ms,
        "min": latency.min_ms,
        "p50": latency.p50_ms,
        "mean": latency.mean_ms,
        "p90": latency.p90_ms,
        "p99": latency.p99_ms,
        "max": latency.max_ms,
    }
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True, min_width=len("0.000 ms"))
    table.add_row(*("–" if value is None else _ms(value) for value in cells.values()))
    return table


def _facts_table(result: BenchResult) -> Table:
    facts, session = result.facts, result.session
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows: list[tuple[str, str]] = []
    cores = facts.get("cores")
    many = "1 core" if cores == 1 else f"{cores} cores"
    rows.append(("measured on", f"{facts.get('cpu')}, {many}, {facts.get('platform')}"))
    options = _options(session)
    rows.append(("session", f"target {result.target}: {'; '.join(options)}"))
    inputs = (f"{name} {'×'.join(map(str, of['shape']))} {of['dtype']}" for name, of in result.inputs.items())
    rows.append(("inputs", ", ".join(inputs)))
    stages = {memory.stage: memory for memory in result.memory}
    start, run = stages.get("start"), stages.get("run")
    if start and run and start.rss_bytes is not None and run.rss_bytes is not None:
        grown = f"{(run.rss_bytes - start.rss_bytes) / 1e6:.1f} MB resident"
        if start.anonymous_bytes is not None and run.anonymous_bytes is not None:
            grown += f", {(run.anonymous_bytes - start.anonymous_bytes) / 1e6:.1f} MB of it anonymous"
        rows.append(("RAM", f"{grown}, above the process before loading"))
    for name, value in rows:
        table.add_row(name, Text("".join(letter if letter.isprintable() else "�" for letter in value)))
    return table


def _options(session: dict[str, Any]) -> list[str]:
    if "kernels" in session:
        cached = [f"weight cache {session['weight_cache']}"] if "weight_cache" in session else []
        return [f"kernels {session['kernels']}", *cached]
    options = [f"graph optimisation {session['graph_optimization']}"]
    if session["disabled_optimizers"]:
        options.append(f"without {', '.join(session['disabled_optimizers'])}")
    options.extend(f"{key}={value}" for key, value in session["session_config"].items())
    return options


def _ms(value: float) -> str:
    """Three significant digits or so."""
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms" if value >= 1 else f"{value:.3f} ms"
