"""Footprint JSON → one HTML page that needs nothing but itself: no network, no library, no font.

The page draws itself from the JSON object it carries, so it can also be read by a program. Names from a model file are
data in it and only ever become text; its Content-Security-Policy lets nothing run but the script it is written with.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("footprint_page")
SCRIPTS = ("elements", "verdict", "flash", "sharing", "ram", "timeline", "layers", "page")  # each uses those before it


def html_page(report: dict[str, Any]) -> str:
    """Object of schema edgeks.footprint/2 → an HTML document.

    Raises:
        ValueError: a number of the report is infinite or no number at all.
    """
    style = (PAGE / "page.css").read_text("utf-8")
    parts = "\n".join((PAGE / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    script = f'(() => {{ "use strict";\n{parts}}})();\n'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = (PAGE / "page.html").read_text("utf-8")
    for name, text in (("POLICY", policy), ("STYLE", style), ("SCRIPT", script), ("REPORT", _embedded(report))):
        before, after = page.split(f"@{name}@")
        page = f"{before}{text}{after}"
    return page


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(report: dict[str, Any]) -> str:
    """JSON in ASCII without <, > and &: no name in it can end the element that holds it."""
    text = json.dumps(report, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
