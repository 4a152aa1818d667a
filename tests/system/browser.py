"""A real browser without a window, driven by the WebDriver protocol: its own driver and plain HTTP."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.system.processes import free_ports
from tests.waiting import wait_for

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
DRIVER: Final = "chromedriver"
START_SECONDS: Final = 60.0
ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
"""What the protocol calls an element's id."""


def missing_browser() -> str:
    """Why there is no browser to test with; empty: there is one."""
    if shutil.which(DRIVER) is None:
        return f"{DRIVER} is not installed (Debian: apt-get install chromium chromium-driver)"
    if not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} is installed"
    return ""


class WebDriverError(Exception):
    """The driver said no."""


class Browser:
    """One window. Scripts are functions' bodies, as WebDriver takes them."""

    def __init__(self, driver: str, session: str) -> None:
        self._session = f"{driver}/session/{session}"

    def open(self, url: str) -> None:
        _call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        return _call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def until(self, script: str, *arguments: object, seconds: float = START_SECONDS) -> Any:
        """What the script returns, once that is true."""
        return wait_for(lambda: self.run(script, *arguments), seconds, lambda: script)

    def press(self, keys: str) -> None:
        """Press and release keys one after the other, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        _call("POST", f"{self._session}/actions", {"actions": [source]})

    def resize(self, width: int, height: int) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def prefer(self, scheme: str) -> None:
        """`dark` or `light`, as the system's setting."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": features})

    def devtools(self, command: str, parameters: Mapping[str, object]) -> Any:
        body = {"cmd": command, "params": parameters}
        return _call("POST", f"{self._session}/goog/cdp/execute", body)

    def complaints(self) -> list[str]:
        """What the browser wrote to its console since the last call: errors and refusals."""
        entries = _call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        size = self.devtools("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.devtools("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def open_browser(directory: Path) -> Iterator[Browser]:
    """A browser with an empty profile for the length of the block."""
    [port] = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with (directory / "chromedriver.log").open("wb") as log:
        # What the browser leaves in the temporary directory goes with the test's.
        environment = {**os.environ, "TMPDIR": str(directory)}
        process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=log, stderr=log, env=environment)
        try:
            wait_for(lambda: _is_ready(address), START_SECONDS, lambda: "the driver's start")
            session = _call(
                "POST", f"{address}/session", {"capabilities": {"alwaysMatch": _wanted(directory)}}
            )
            try:
                yield Browser(address, session["sessionId"])
            finally:
                _call("DELETE", f"{address}/session/{session['sessionId']}", None)
        finally:
            process.kill()
            process.wait()


def _wanted(directory: Path) -> dict[str, object]:
    flags = [
        "--headless=new",
        "--disable-gpu",
        "--window-size=1280,900",
        f"--user-data-dir={directory / 'profile'}",
    ]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # it refuses to run as root otherwise; it sees our own page only
    binary = next(filter(None, map(shutil.which, BROWSERS)))
    return {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": flags, "binary": binary},
        "goog:loggingPrefs": {"browser": "ALL"},
    }


def _is_ready(address: str) -> bool:
    try:
        return bool(_call("GET", f"{address}/status", None)["ready"])
    except OSError:
        return False


def _call(method: str, url: str, body: Mapping[str, object] | None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise WebDriverError(error.read().decode(errors="replace")[:2000]) from None
