"""A page in headless Chromium, by the DevTools protocol: what a person would see, and what the page complained of."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)")
_WAIT_S = 200.0
_SLOWLY = "const draw = requestAnimationFrame; requestAnimationFrame = f => setTimeout(() => draw(f), 300);"
"""Three pictures a second: drawing in software as often as the page would like to takes all there is."""


class PageError(Exception):
    """The browser could not do it, for example since the page is being loaded."""


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's answer. Events that come before it are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_WAIT_S))
            if message.get("id") == number:
                if "error" in message:
                    raise PageError(message["error"])
                return dict(message["result"])
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", parameters)))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(str(parameters["entry"]))
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def evaluate(self, script: str) -> Any:
        """What an expression is worth on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def screenshot(self) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def picture(self, good: Callable[[np.ndarray], bool]) -> np.ndarray:
        """The first screenshot that is as it should be."""
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            time.sleep(0.5)  # the page draws by itself; there is nothing to wait on
            with suppress(PageError):
                now = self.screenshot()
                if good(now):
                    return now
        pytest.fail(f"the page was not as it should be within {_WAIT_S:g} s; it says {self.complaints}")


@contextmanager
def open_page(address: str, scratch: Path, size: tuple[int, int] = (960, 640)) -> Iterator[Page]:
    """The page at an address in a browser of its own. scratch: an empty folder for it."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        + ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars"]
        + ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--mute-audio"]
        + [f"--user-data-dir={scratch}", f"--window-size={size[0]},{size[1]}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told, deadline = scratch / "DevToolsActivePort", time.monotonic() + _WAIT_S
        while not told.exists() or not told.read_text():
            assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        port = told.read_text().split()[0]
        where = None
        while where is None:
            tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=_WAIT_S, trust_env=False).json()
            where = next((tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"), None)
            assert where is not None or time.monotonic() < deadline, "Chromium opened no page"
            time.sleep(0.05)
        with connect(where, max_size=None, open_timeout=_WAIT_S) as socket:
            page = Page(socket)
            page.call("Page.addScriptToEvaluateOnNewDocument", source=_SLOWLY)
            page.call("Page.navigate", url=address)
            yield page
    finally:
        process.terminate()
        process.wait(_WAIT_S)
