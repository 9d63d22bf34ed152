"""Headless Chromium, driven through the DevTools protocol: pages opened, scripts run in them, pictures taken.

The messages go through two pipes (`--remote-debugging-pipe`), JSON with a NUL after each: no library is needed.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = ROOT / ".browser"
# The browser reads descriptor 3 and writes 4. What the pipe has there may be one of the two: hence the copies.
LAUNCH = """
import os, sys
reads, writes = (os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The browser that `make .browser` fetched, or one on the PATH."""
    fetched = FETCHED / "chromium"
    return str(fetched) if fetched.exists() else next(filter(None, map(shutil.which, NAMES)), None)


needs_browser = pytest.mark.skipif(
    executable() is None, reason="no browser: `make .browser` fetches one for Linux x86-64, or install chromium"
)


class Browser:
    """One process; `open` makes a page of it. Everything it writes goes to `folder`."""

    def __init__(self, folder: Path) -> None:
        browser_reads, self._to_browser = os.pipe()
        self._from_browser, browser_writes = os.pipe()
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command = [executable(), *arguments, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(browser_reads), str(browser_writes), *command],
            pass_fds=(browser_reads, browser_writes),
            env=os.environ | {"HOME": str(folder)} | _fetched_environment(),
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        self._sent = 0
        self._received = b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the process."""
        try:
            self.call("Browser.close")
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._to_browser)
            os.close(self._from_browser)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to a command; events that come meanwhile are kept."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._to_browser, data) :]
        while (answer := self._next()).get("id") != self._sent:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            data = os.read(self._from_browser, 1 << 20)
            assert data, "the browser ended"
            self._received += data
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)

    def wait_for(self, method: str, session: str) -> None:
        """Until an event of a page has come."""
        while not any(event["method"] == method and event.get("sessionId") == session for event in self.events):
            self.events.append(self._next())

    def open(self, file: Path, width: int = 1200, height: int = 900, dark: bool = False) -> "Page":
        """A file in a new tab, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", session, features=scheme)
        self.events.clear()
        self.call("Page.navigate", session, url=file.as_uri())
        self.wait_for("Page.loadEventFired", session)
        return Page(self, session)


class Page:
    """A tab that shows a file."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression or of the promise that it gives.

        Raises:
            AssertionError: the script threw.
        """
        done = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def key(self, name: str) -> None:
        """Press a key: Enter, Tab, ArrowRight …"""
        text = {"text": "\r"} if name == "Enter" else {}
        code = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}[name]
        event = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def move(self, x: float, y: float) -> None:
        """Put the mouse there, in CSS pixels."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """A click with the left button."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def complaints(self) -> list[str]:
        """What the console, the page's errors and its Content-Security-Policy said since it was opened."""
        self.run("new Promise(requestAnimationFrame)")
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self._mine() if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses of everything that was asked for."""
        sent = (event for event in self._mine() if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        height = self.run("document.documentElement.scrollHeight")
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _mine(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)


def _fetched_environment() -> dict[str, str]:
    if not FETCHED.exists():
        return {}
    fonts = {} if Path("/etc/fonts/fonts.conf").exists() else {"FONTCONFIG_FILE": str(FETCHED / "fonts.conf")}
    return {"LD_LIBRARY_PATH": str(FETCHED / "lib")} | fonts
