"""The page of a benchmark, opened in a browser: everything is there, nothing complains, hostile names stay text."""

import dataclasses
import json
import re

import bench_records as records
import pytest
from headless_browser import Browser, needs_browser

from edgeks.bench import words
from edgeks.bench.html_report import MAX_SAMPLES, html_page
from edgeks.bench.measurement import DeviceParity
from edgeks.bench.record import Failure, from_json, make_record, to_json

HOSTILE = (
    "</script><script>harmed = 1</script>",
    "<!--<script>",
    '"><img src=x onerror="harmed=1">',
    "'&lt;b&gt;&amp;\u2028\u2029\x00\n",
    "\u202egnp.exe\u2066",
    "@REPORT@@SCRIPT@",
    "𝓚" * 10_000,
)
SECTIONS = ["latency", "distributions", "series", "operators", "ram", "devices", "processes", "repeat"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Record → its page in the browser."""

    def open_page(record, **options):
        file = tmp_path / "report.html"
        file.write_text(html_page(record), "utf-8")
        return browser.open(file, **options)

    return open_page


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return records.network(tmp_path_factory.mktemp("networks") / "net.onnx", 4)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return records.network(tmp_path_factory.mktemp("networks") / "lean.onnx", 2)


def texts(page, selector):
    return page.run(f"Array.from(document.querySelectorAll({json.dumps(selector)}), (found) => found.innerText)")


def count(page, selector):
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def embedded(page):
    (text,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_the_page_carries_the_record_and_names_nothing_outside_itself(path):
    record = records.fleet(path)
    page = html_page(record)
    assert from_json(embedded(page)) == record
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(r"@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")|\bsrc=", page)
    assert "unsafe" not in re.findall(r'Content-Security-Policy" content="([^"]+)"', page)[0]
    assert "secret" not in page


def test_of_very_many_samples_every_nth_is_drawn_and_the_figures_are_of_all(path):
    made = records.measurement(path)
    many = dataclasses.replace(made.repetitions[0], samples_ms=tuple(1 + i % 7 for i in range(3 * MAX_SAMPLES - 1)))
    record = make_record([dataclasses.replace(made, repetitions=(many,))])
    (found,) = embedded(html_page(record))["measurements"]
    assert found["repetitions"][0]["sample_stride"] == 3
    assert found["repetitions"][0]["samples_ms"] == list(many.samples_ms[::3])
    assert found["latency"]["count"] == 3 * MAX_SAMPLES - 1
    assert len(to_json(record)["measurements"][0]["repetitions"][0]["samples_ms"]) == 3 * MAX_SAMPLES - 1


@needs_browser
@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_there_and_nothing_complains(opened, path, other, width, dark, tmp_path):
    page = opened(records.against(path, other), width=width, dark=dark)
    assert page.complaints() == []
    assert [address for address in page.requests() if not address.startswith("data:")] == [
        (tmp_path / "report.html").as_uri()
    ]
    assert page.run("Array.from(document.querySelectorAll('main > section'), (found) => found.id)") == [
        "ratios",
        *SECTIONS,
    ]
    assert texts(page, "h1") == ["lean.onnx is faster than net.onnx: ratio of p50 0.830 [0.810, 0.850]"]
    assert count(page, "#ratios .interval") == 1
    assert count(page, "#latency .point") == 2
    assert count(page, "#distributions .hill") == count(page, "#distributions .middle") == 8
    assert count(page, "#series .tall .span") == 8
    assert count(page, "#series .reading.clock") == count(page, "#series .reading.temperature") == 8
    assert count(page, "#operators .opbar") == 30
    assert count(page, "#ram .bar") == 2
    assert count(page, "#processes tbody tr") == 8
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    red = page.run("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red < 64) == dark
    picture = tmp_path / "page.png"
    page.screenshot(picture)
    assert picture.stat().st_size > 50_000


@needs_browser
def test_the_figures_are_those_of_the_record(opened, path):
    made = records.measurement(path)
    fixed = tuple(
        dataclasses.replace(one, samples_ms=tuple(10.0 + 0.1 * (run % 10) + number for run in range(40)))
        for number, one in enumerate(made.repetitions)
    )
    record = make_record([dataclasses.replace(made, repetitions=fixed)])
    page = opened(record)
    (entry,) = record.entries
    answer = f"p50 {words.ms(entry.latency.p50_ms)} {words.interval(entry.p50_interval)}"
    assert texts(page, "h1") == [f"net.onnx on local: {answer}"]
    cells = texts(page, "#latency tbody td")
    expected = [entry.latency.p50_ms, entry.latency.p90_ms, entry.latency.p99_ms]
    assert [cells[1], cells[3], cells[4]] == [f"{value:.1f}" for value in expected]
    assert [row.split("\t")[1] for row in texts(page, "#processes tbody tr")] == ["10.4", "11.4", "12.4", "13.4"]
    assert texts(page, "#operators tbody tr:first-child")[0].startswith("1\tnode_0\tSoftmax\t0.4000\t")
    assert f"{entry.ram.run_peak_bytes / 1e6:.2f} MB at run peak" in texts(page, "#ram .result")[0]
    assert entry.files[0].sha256 in texts(page, "#repeat")[0]


@needs_browser
def test_a_fleet_with_what_failed_what_does_not_count_and_what_is_emulated(opened, path):
    page = opened(records.fleet(path))
    assert page.complaints() == []
    assert re.fullmatch(r"net\.onnx: p50 [\d.]+ ms \(pi4\)", texts(page, "h1")[0])
    said = "\n".join(texts(page, ".validity"))
    assert "✗ pi5, net.onnx: port 22 is closed on pi5.lan; is sshd running there?" in said
    assert "zero: ✗ invalid, 0 of 4 processes undisturbed" in said
    assert "emulated: emulated: time means nothing" in said
    assert count(page, "#latency .point") == 2 and count(page, "#series .series") == 2
    assert count(page, "#ram .bar") == 3 and count(page, "#operators .opbar") == 15
    assert count(page, "#distributions .disturbed") == 4
    rows = [row.split("\t") for row in texts(page, "#processes tbody tr") if row.startswith("emulated")]
    assert {tuple(row[2:5]) for row in rows} == {("–", "–", "–")}
    facts = texts(page, "#devices")[0]
    assert "Raspberry Pi 4 Model B Rev 1.4" in facts
    assert "unknown: no thermal zone in /sys/class/thermal" in facts
    assert "ssh://pi:…@pi4.lan:2222" in facts


@needs_browser
def test_little_is_known(opened, path):
    made = records.measurement(path, ops=None, ops_reason="", parity=DeviceParity(None, "no samples"))
    process = dataclasses.replace(made.repetitions[0], samples_ms=(0.5,), memory=(), states=(), facts={}, session={})
    for changed in ((process,), ()):
        page = opened(make_record([dataclasses.replace(made, repetitions=changed)]))
        assert page.complaints() == []
        assert "does not tell the memory" in texts(page, "#ram")[0]
    page = opened(make_record([], failures=[Failure("pi5", "net.onnx", "pi5: unknown host key")]))
    assert page.complaints() == []
    assert texts(page, "h1") == ["nothing was measured"]
    assert texts(page, ".validity") == ["✗ pi5, net.onnx: unknown host key"]


@needs_browser
def test_the_time_line_says_what_is_at_a_moment(opened, path):
    made = records.measurement(path)
    page = opened(make_record([records.disturbed(made, "it was hot")]))
    page.run("document.querySelector('#series .plot').focus()")
    page.key("ArrowRight")
    (said,) = texts(page, "#series .readout")
    assert re.match(
        r"process 1, [\d.]+ s: [\d.]+ ms.*, clock 1,[58]00 MHz, temperature \d+ °C; disturbed: it was hot", said
    )
    left, top, width = page.run(
        "(() => { const plot = document.querySelector('#series .plot'); plot.scrollIntoView({block: 'center'});"
        "const box = plot.getBoundingClientRect(); return [box.x, box.y, box.width]; })()"
    )
    page.move(left + 0.99 * width, top + 30)
    assert texts(page, "#series .readout")[0].startswith("process 4, ")
    assert page.complaints() == []


@needs_browser
@pytest.mark.parametrize("hostile", HOSTILE, ids=["script", "comment", "image", "quotes", "bidi", "mark", "long"])
def test_a_hostile_name_is_only_text(opened, path, hostile):
    made = records.board(path, hostile, parity=DeviceParity(None, hostile), started=hostile)
    job = dataclasses.replace(made.job, runtime=hostile, target=dataclasses.replace(made.job.target, name=hostile))
    state = dataclasses.replace(made.repetitions[0].states[0], clock_mhz=None, unknown={"clock_mhz": hostile})
    process = dataclasses.replace(
        made.repetitions[0], facts={hostile: hostile}, session={"kernels": hostile}, taints=(hostile,), states=(state,)
    )
    ops = tuple(dataclasses.replace(op, name=hostile, type=hostile) for op in made.ops)
    made = dataclasses.replace(
        made, job=job, repetitions=(process,), ops=ops, machine_facts={hostile: {"unknown": hostile}, "x": [hostile]}
    )
    another = dataclasses.replace(made, ops=None, ops_reason=hostile)
    comparison = dataclasses.replace(records.comparison(made, another), taints=(hostile,))
    record = make_record([], [comparison], command=[hostile], failures=[Failure(hostile, hostile, hostile)])
    page = opened(record)
    assert page.complaints() == []
    assert page.run("typeof harmed") == "undefined"
    assert page.run("document.querySelectorAll('img, script, main b').length") == 2  # the data, and the page's script
    text = page.run("document.body.innerText + document.title")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00]", text)
    assert len(text) < 100_000
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


@needs_browser
def test_very_many_samples_and_machines(opened, path):
    made = records.measurement(path)
    many = tuple(
        dataclasses.replace(one, samples_ms=tuple(1 + (i * 7919 % 1000) / 1000 for i in range(60_000)))
        for one in made.repetitions
    )
    fleet = [dataclasses.replace(made, machine=f"pi{index}") for index in range(12)]
    page = opened(make_record([dataclasses.replace(made, repetitions=many), *fleet]))
    assert page.complaints() == []
    assert count(page, "#latency .point") == 13
    assert "Drawn of every 3th run" in texts(page, "#distributions")[0]
    assert page.run("document.querySelectorAll('*').length") < 20_000
