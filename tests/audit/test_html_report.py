"""The HTML report, opened in a browser: everything is there, nothing complains, names from hostile files stay text."""

import base64
import hashlib
import json
import math
import re

import footprint_reports as reports
import pytest
import small_graphs as graphs
from headless_browser import Browser, needs_browser

from edgeks.audit.footprint import footprint
from edgeks.audit.footprint_json import to_json
from edgeks.audit.html_report import html_page
from edgeks.audit.sizes import in_kb, in_mb
from edgeks.target import load_target

HOSTILE = (
    "</script><script>harmed = 1</script>",
    "<!--<script>",
    '"><img src=x onerror="harmed=1">',
    "'&lt;b&gt;&amp;\u2028\u2029\x00\n",
    "\u202egnp.exe\u2066",
    "\ud800 alone",
    "𝓚" * 10_000,
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Report → its page in the browser."""

    def open_page(report, **options):
        file = tmp_path / "report.html"
        file.write_text(html_page(report), "utf-8")
        return browser.open(file, **options)

    return open_page


def embedded(page):
    (text,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    return text


def texts(page, selector):
    return page.run(f"Array.from(document.querySelectorAll({json.dumps(selector)}), (found) => found.innerText)")


def click(page, selector):
    """A click with the mouse, in the middle of what `selector` finds first."""
    page.click(*centre(page, selector))


def centre(page, selector):
    return page.run(
        f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
        "found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )


def column(page, number):
    return texts(page, f"#layers tbody td:nth-child({number})")


def test_the_page_carries_the_report_unchanged():
    report = reports.report(name=HOSTILE[0] + "{}" + HOSTILE[3])
    text = embedded(html_page(report))
    assert json.loads(text) == report
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_the_page_names_nothing_outside_itself():
    page = html_page(reports.report())
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(r"@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")|\bsrc=", page)


def test_the_policy_allows_the_page_s_own_script_and_style_alone():
    page = html_page(reports.report())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}';" in policy


def test_a_number_that_json_has_not_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        html_page(reports.report() | {"fits": math.nan})


@needs_browser
@pytest.mark.parametrize("width", [400, 1000, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_there_and_nothing_complains(opened, width, dark, tmp_path):
    page = opened(reports.report(), width=width, dark=dark)
    assert page.complaints() == []
    assert [address for address in page.requests() if not address.startswith("data:")] == [
        (tmp_path / "report.html").as_uri()
    ]
    assert page.run("Array.from(document.querySelectorAll('main > section'), (found) => found.id)") == [
        "flash", "sharing", "ram", "timeline", "suggestions", "layers", "notes",
    ]  # fmt: skip
    assert texts(page, "h1") == ["✓ fits rpi-zero-2w: flash 0.4 of 16 MB, RAM 6.1 of 64 MB"]
    assert len(texts(page, "#flash .bar > i")) == 4
    assert len(texts(page, "#flash .ruler > span")) == 2
    assert len(texts(page, ".map .labels > div")) == page.run("document.querySelectorAll('.map .thread').length") == 22
    assert len(texts(page, "#ram .bar")) == 4
    assert len(texts(page, "#ram .measured")) == 2
    assert "3.77 MB predicted, 3.66 MB measured: error +3.1 % (+0.11 MB)" in texts(page, "#ram .result")
    assert any("not measured: tflite-runtime is not installed" in text for text in texts(page, "#ram .result"))
    assert len(texts(page, "#suggestions li")) == 2
    assert len(column(page, 2)) == 60
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert page.run("matchMedia('(prefers-color-scheme: dark)').matches") == dark
    red = page.run("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red < 64) == dark
    picture = tmp_path / "page.png"
    page.screenshot(picture)
    assert picture.stat().st_size > 50_000


@needs_browser
def test_a_report_of_which_little_is_known(opened):
    page = opened(reports.bare())
    assert page.complaints() == []
    assert texts(page, "h1") == ["0.18 MB in flash, peak activations unknown"]
    assert "Nothing is known" in texts(page, "#ram")[0]


@needs_browser
def test_the_report_of_a_file(opened, tmp_path):
    model = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    page = opened(to_json(footprint(model, load_target("rpi-zero-2w"))))
    assert page.complaints() == []
    assert texts(page, "h1")[0].startswith("✓ fits rpi-zero-2w: flash 0.0")
    assert len(texts(page, ".map .labels > div")) == 1


@needs_browser
@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        (
            {"fits": False, "budgets": [{"resource": "ram", "needed_bytes": 2_240_000, "budget_bytes": 2_000_000}]},
            "✗ does not fit rpi-zero-2w: RAM 2.2 of 2 MB, over by 0.24 MB",
        ),
        (
            {"target": None, "fits": True, "budgets": [{"resource": "flash", "needed_bytes": 12_000, "fits": True}]},
            "✓ fits: flash 0.01 of 2 MB",
        ),
        (
            {"fits": True, "budgets": [{"resource": "ram", "needed_bytes": None, "fits": None}]},
            "? not known to fit rpi-zero-2w: RAM unknown, limit 2 MB",
        ),
        ({"target": None, "fits": None, "budgets": []}, "2.34 MB in flash, RAM 3.77 MB at run peak"),
    ],
)
def test_the_answer_comes_first(opened, changes, answer):
    default = {"profile": None, "budget_bytes": 2_000_000, "fits": False}
    changes = changes | {"budgets": [default | budget for budget in changes["budgets"]]}
    assert texts(opened(reports.report() | changes), "h1") == [answer]


@needs_browser
def test_what_changed_since_another_file(opened):
    rows = [
        {"what": "file", "unit": "bytes", "old": 400_000, "new": 300_000, "change": -100_000},
        {"what": "RAM", "unit": "bytes", "old": None, "new": 5, "change": None},
        {"what": "activations", "unit": "bytes", "old": 7, "new": 7, "change": 0},
        {"what": "parameters", "unit": "count", "old": 4000, "new": 5000, "change": 1000},
    ]
    groups = {"groups_lost": ["kernel: 4 layers"], "groups_gained": []}
    page = opened(reports.report() | {"diff": {"old": "old.onnx", "rows": rows, **groups}})
    assert texts(page, "#diff h3, #diff li") == ["No longer shared", "kernel: 4 layers"]
    assert texts(page, "#diff tbody tr") == [
        "file\t0.40 MB\t0.30 MB\t−0.10 MB\t−25.0 %",
        "RAM\tunknown\t5 B\t–\t",
        "activations\t7 B\t7 B\tnone\t",
        "parameters\t4,000\t5,000\t+1,000\t+25.0 %",
    ]


@needs_browser
def test_figures_are_rounded_as_in_the_terminal(opened):
    sizes = [0, 7, 999, 1000, 1049, 1050, 1250, 1350, 1450, 1750, 2250, 12_345, 99_950, 125_000, 375_000, 1_005_000]
    sizes += [10**7 + 5000 * step for step in range(40)]
    report = reports.report(layers=len(sizes))
    for layer, size in zip(report["compute"]["layers"], sizes, strict=True):
        layer["weight_bytes"] = size
    report["diff"] = {
        "old": "",
        "rows": [{"what": "", "unit": "bytes", "old": size, "new": size} for size in sizes[:40]],
    }
    page = opened(report)
    assert column(page, 8) == [in_kb(size) for size in sizes]
    assert texts(page, "#diff td:nth-child(2)") == [in_mb(size) for size in sizes[:40]]


@needs_browser
def test_a_click_on_a_header_sorts_and_so_does_the_keyboard(opened):
    report = reports.report(layers=20, kernels=10)
    for layer, macs in zip(report["compute"]["layers"], [5, None, 30, 30, 2] * 4, strict=True):
        layer["macs"] = macs
    page = opened(report)
    headers = "Array.from(document.querySelectorAll('#layers th'), (head) => head.getAttribute('aria-sort'))"
    assert page.run(headers) == ["ascending", *["none"] * 8]
    click(page, "#layers th:nth-child(5) button")
    assert page.run(headers)[4] == "descending"
    assert column(page, 5) == ["30"] * 8 + ["5"] * 4 + ["2"] * 4 + ["–"] * 4
    assert column(page, 1)[:4] == ["3", "4", "8", "9"], "equal figures keep the order of the graph"
    page.key("Enter")  # the button has the focus
    assert page.run(headers)[4] == "ascending"
    assert column(page, 5) == ["2"] * 4 + ["5"] * 4 + ["30"] * 8 + ["–"] * 4
    click(page, "#layers th:nth-child(2) button")
    assert page.run(headers) == ["none", "ascending", *["none"] * 7]
    assert column(page, 2) == [f"stages.{index}.conv" for index in range(20)], "by number, not stages.1, stages.10"
    assert page.complaints() == []


@needs_browser
def test_the_filter_finds_layers_by_name_op_kernel_and_shape(opened):
    page = opened(reports.report())
    assert texts(page, "#layers output") == ["60 of 60 layers"]
    click(page, "#filter")
    page.type("STAGES.7.")
    reads = [layer for layer in reports.report()["compute"]["layers"] if "stages.7." in layer["name"] + layer["kernel"]]
    assert column(page, 2) == [layer["name"] for layer in reads]
    assert texts(page, "#layers output") == [f"{len(reads)} of 60 layers"]
    total = sum(layer["macs"] for layer in reads)
    assert f"{total / 1e6:.2f} M" in texts(page, "#layers tfoot")[0]
    page.run("document.getElementById('filter').value = ''")
    page.type("conv 64×8×8")
    assert column(page, 2) == [f"stages.{index}.conv" for index in range(40, 60)]
    page.type(" nothing")
    assert column(page, 2) == []
    assert page.complaints() == []


@needs_browser
def test_the_sharing_map_tells_which_layers_read_a_kernel(opened):
    report = reports.report()
    group = report["flash"]["sharing_groups"][0]
    page = opened(report)
    row = page.run(
        "Array.from(document.querySelectorAll('.map .labels > div'), (row) => row.innerText)"
        f".findIndex((text) => text.includes({json.dumps(group['constant'])}) && text.includes('layers'))"
    )
    left, top, width = page.run(
        "(() => { document.querySelector('.map').scrollIntoView();"
        "const box = document.querySelectorAll('.map svg')[1].getBoundingClientRect();"
        "return [box.x, box.y, box.width]; })()"
    )
    index = [layer["name"] for layer in report["compute"]["layers"]].index(group["layers"][0])
    page.move(left + width * (index + 0.5) / 60, top + 20 * row + 10)
    (said,) = texts(page, "#sharing .readout")
    assert said.startswith(f"layer {index + 1} of 60: {group['layers'][0]} (Conv")
    assert f"stored once for {len(group['layers'])} layers" in said
    page.click(left + width * (index + 0.5) / 60, top + 20 * row + 10)
    assert texts(page, "#sharing .chips li") == group["layers"]
    click(page, "#sharing .chips + button")
    assert column(page, 2) == group["layers"]
    page.run("document.querySelector('.map').focus()")
    page.key("ArrowRight")
    assert texts(page, "#sharing .readout")[0].startswith("layer 2 of 60: "), "the one after the layer that was clicked"
    assert "the same up to a factor per channel" in texts(page, "#sharing .readout")[0]
    assert page.complaints() == []


@needs_browser
def test_the_timeline_names_the_op_and_starts_at_the_peak(opened):
    report = reports.report()
    activations = report["activations"]
    page = opened(report)
    assert f"peak {in_mb(activations['peak_bytes'])}" in texts(page, ".peak-label")[0]
    page.run("document.querySelector('.chart .plot').focus()")
    page.key("ArrowRight")
    (said,) = texts(page, "#timeline .readout")
    assert activations["node"] in said
    assert "100.0 % of the peak" in said
    page.move(*centre(page, ".chart .plot"))
    assert re.match(r"op 9[01] of 180: ", texts(page, "#timeline .readout")[0])


@needs_browser
@pytest.mark.parametrize("hostile", HOSTILE, ids=["script", "comment", "image", "quotes", "bidi", "surrogate", "long"])
def test_a_hostile_name_is_only_text(opened, hostile):
    report = reports.report(layers=12, kernels=6, name=hostile.replace("{", "(") + "{}")
    for key in ("file", "format", "target"):
        report[key] = hostile
    for budget in report["budgets"]:
        budget["profile"] = hostile
    for profile in report["ram"]:
        profile |= {"profile": hostile, "description": hostile, "notes": [hostile]}
    report["ram"][3]["measured"] = {"failed": hostile}
    for row in (*report["compute"]["layers"], *report["activations"]["timeline"], *report["flash"]["ops"]):
        row["op_type"] = hostile
    report["suggestions"][0]["text"] = hostile
    report["activations"]["notes"] = [hostile]
    report["diff"] = {"old": hostile, "rows": [{"what": hostile, "unit": "bytes", "old": 1, "new": 2}]}
    page = opened(report)
    click(page, ".map svg:last-child")
    click(page, "#layers th:nth-child(2) button")
    assert page.complaints() == []
    assert page.run("typeof harmed") == "undefined"
    assert page.run("document.querySelectorAll('img, script, main b').length") == 2  # the data, and the page's script
    text = page.run("document.body.innerText + document.title")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00]", text)
    assert len(text) < 100_000
    assert len(column(page, 2)) == 12
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


@needs_browser
def test_five_thousand_layers(opened):
    page = opened(reports.report(layers=5000, kernels=900))
    assert page.complaints() == []
    assert len(column(page, 2)) == 200
    page.run("document.querySelector('div.layers').scrollTo(0, 1e6)")
    page.run("new Promise((done) => setTimeout(done, 300))")
    assert len(column(page, 2)) > 200
    click(page, "#layers th:nth-child(1) button")
    assert column(page, 1)[0] == "5000"
    assert page.run("document.querySelectorAll('*').length") < 20_000


@needs_browser
def test_the_policy_holds_in_the_browser_and_complaints_are_heard(opened):
    page = opened(reports.report())
    assert page.complaints() == []
    page.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'harmed = 1'}))")
    assert page.run("typeof harmed") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in page.complaints())
    page.run("console.error('trouble')")
    assert any("trouble" in complaint for complaint in page.complaints())
