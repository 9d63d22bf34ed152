"""JSON → one HTML page that needs nothing but itself: no network, no library, no font.

The page draws itself from the JSON object it carries, so it can also be read by a program. Names from a file are data
in it and only ever become text; its Content-Security-Policy lets nothing run but the script it is written with. What
all pages have in common is in `page/`: the document, its style, and `elements.js`, which makes elements and figures.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMON = Path(__file__).with_name("page")


def html_page(title: str, own: Path, scripts: Sequence[str], report: dict[str, Any]) -> str:
    """An HTML document that shows `report`, by the `page.css` and the `scripts` (each uses those before it) of `own`.

    Raises:
        ValueError: a number of the report is infinite or no number at all.
    """
    style = "".join((folder / "page.css").read_text("utf-8") for folder in (COMMON, own))
    files = (COMMON / "elements.js", *(own / f"{name}.js" for name in scripts))
    parts = "\n".join(file.read_text("utf-8") for file in files)
    script = f'(() => {{ "use strict";\n{parts}}})();\n'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = (COMMON / "page.html").read_text("utf-8")
    texts = {"POLICY": policy, "TITLE": title, "STYLE": style, "SCRIPT": script, "REPORT": _embedded(report)}
    for name, text in texts.items():  # the report last: a name in it may look like such a mark
        before, _, after = page.partition(f"@{name}@")
        page = f"{before}{text}{after}"
    return page


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(report: dict[str, Any]) -> str:
    """JSON in ASCII without <, > and &: no name in it can end the element that holds it."""
    text = json.dumps(report, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
