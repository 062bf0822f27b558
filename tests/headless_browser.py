"""A headless Chromium, driven over a pipe by its own protocol (Chrome DevTools Protocol).

Only what the tests of pages need: load a file, run an expression, press keys, move the pointer,
take a screenshot; and what went wrong meanwhile: errors, and every address that the page asked for.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which a container's root user needs
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# The browser reads commands from descriptor 3 and answers on 4.
LAUNCHER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
for descriptor, pipe in zip((3, 4), pipes):
    os.dup2(pipe, descriptor)
    os.close(pipe)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE_S = 60.0  # on a loaded machine


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One open page. `requests` and `errors` collect what it asked for and what it threw."""

    def __init__(self, commands: int, replies: int) -> None:
        self.commands, self.replies = commands, replies
        self.buffer = b""
        self.next_id = 0
        self.session: str | None = None
        self.loaded = False
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result; raises `RuntimeError` for an error."""
        self.next_id += 1
        message: dict[str, Any] = {"id": self.next_id, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self.next_id:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                return reply["result"]
            self._note(reply)

    def open(self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load a file at a window size (CSS pixels) and wait until it is complete."""
        self.look(width, height, scheme)
        self.loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._note(self._receive())

    def look(self, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        """Change the window's size, its device pixels and the colour scheme that is preferred."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited; raises `RuntimeError` if it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", thrown).get("description", thrown["text"]))
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true; raises `TimeoutError`."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key: a character, or a name such as `ArrowRight`."""
        event = {"key": key, **({"text": key} if len(key) == 1 else {})}
        self.send("Input.dispatchKeyEvent", type="keyDown", **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Move the pointer with its button down; equal points are a click."""
        for kind, (x, y) in (
            ("mouseMoved", begin),
            ("mousePressed", begin),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            if kind == "mouseMoved" and (x, y) == begin:
                button = {}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def hover(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, full: bool = False) -> None:
        """Write what is seen, or the `full` page, as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=full, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.replies], [], [], PATIENCE_S)
            if not ready:
                raise TimeoutError("the browser does not answer")
            data = os.read(self.replies, 1 << 20)
            if not data:
                raise ConnectionError("the browser has ended")
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            thrown = values["exceptionDetails"]
            self.errors.append(thrown.get("exception", thrown).get("description", thrown["text"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])


@contextmanager
def browser_page(browser: str, profile: Path) -> Iterator[Page]:
    """An empty page in a new browser with a new profile, which ends with the context."""
    to_browser, commands = os.pipe()
    replies, from_browser = os.pipe()
    launcher = [sys.executable, "-c", LAUNCHER, str(to_browser), str(from_browser)]
    process = subprocess.Popen(
        [*launcher, browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(commands, replies)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)
        os.close(commands)
        os.close(replies)
