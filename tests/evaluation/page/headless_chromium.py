"""A Chromium without a window, spoken to over a pipe: what DevTools says, without any package."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_SECONDS = 60.0


def find_chromium() -> str | None:
    """The program, where there is one on PATH."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page of a browser, and everything it has said so far.

    Attributes:
        events: of DevTools, in order.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in, self._buffer = to_browser, from_browser, b""
        self._numbers, self._session, self.events = itertools.count(1), "", []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == number:
                assert "error" not in heard, f"{method}: {heard['error']}"
                return heard["result"]
            self.events.append(heard)

    def _hear(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._in], [], [], max(left, 0))
            assert ready, f"the browser has said nothing for {PATIENCE_SECONDS:.0f} s"
            some = os.read(self._in, 1 << 20)
            assert some, "the browser is gone"
            self._buffer += some
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def look(self, width: int, height: int, dark: bool = False, media: str = "screen") -> None:
        """Change the window's size, its colours, or to paper."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, path: Path) -> None:
        """Load a file and wait until all of it is there."""
        self.events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._hear())

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the page was opened."""
        self.run("0")  # what was said before this is heard by now
        said = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                said.append(str(params["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                said.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                said.append(params["entry"]["text"])
        return said

    def fetched(self) -> list[str]:
        """Addresses of everything that was asked for, data within the page left out."""
        self.run("0")
        asked = [
            event for event in self.events if event.get("method") == "Network.requestWillBeSent"
        ]
        urls = [event["params"]["request"]["url"] for event in asked]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def picture(self, whole: bool = False) -> bytes:
        """What is seen, as PNG; `whole` takes the page below the window as well."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Tab]:
    """Start a browser that keeps its things in a folder, and end it afterwards."""
    pipes = [os.pipe(), os.pipe()]
    # The browser listens at 3 and speaks at 4: out of the way of both first.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (pipes[0][0], pipes[1][1])]

    def connect() -> None:
        os.dup2(theirs[0], 3)
        os.dup2(theirs[1], 4)

    process = subprocess.Popen(
        [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--hide-scrollbars",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,  # else 3 and 4 would be closed; all other descriptors close by themselves
        preexec_fn=connect,
    )
    for end in (*theirs, pipes[0][0], pipes[1][1]):
        os.close(end)
    try:
        yield Tab(pipes[0][1], pipes[1][0])
    finally:
        os.close(pipes[0][1])
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(pipes[1][0])
