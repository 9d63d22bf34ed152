"""Footprint JSON → one HTML page that needs nothing but itself (edgeks.html_page)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeks import html_page as pages

PAGE = Path(__file__).with_name("footprint_page")
SCRIPTS = ("verdict", "flash", "sharing", "ram", "timeline", "layers", "page")  # each uses those before it


def html_page(report: dict[str, Any]) -> str:
    """Object of schema edgeks.footprint/2 → an HTML document.

    Raises:
        ValueError: a number of the report is infinite or no number at all.
    """
    return pages.html_page("Footprint", PAGE, SCRIPTS, report)
