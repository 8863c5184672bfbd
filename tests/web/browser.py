"""A headless Chromium over its DevTools protocol: enough to open a page, act on it, and ask what it shows."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_START = 60.0


class Tab:
    """One tab. `events` are those that Chromium has told of so far."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, (
                f"never true: {expression}; the page: {self.js('document.body.innerText')}"
            )
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code = {"Enter": 13}[key]
        for kind in ("rawKeyDown", "char", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                text="\r" if kind == "char" else "",
                modifiers=8 if shift else 0,
                windowsVirtualKeyCode=code,
            )

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of events of these kinds."""
        self.js("0")
        return [event["params"] for event in self.events if event.get("method") in methods]

    def picture(self, path: Path) -> None:
        """A PNG of what a person would see."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(program: str, *, width: int = 900, height: int = 700) -> Iterator[Tab]:
    """A browser with a profile of its own, gone afterwards."""
    profile = Path(tempfile.mkdtemp(prefix="akashllm-chromium-"))
    arguments = (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
    )
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments, "about:blank"], stdout=log, stderr=log)
    try:
        port = profile / "DevToolsActivePort"
        end = time.monotonic() + _START
        while not (port.exists() and port.read_text().count("\n")):
            assert process.poll() is None, (profile / "log").read_text()[-2000:]
            assert time.monotonic() < end, (profile / "log").read_text()[-2000:]
            time.sleep(0.05)
        number, path = port.read_text().split()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=1 << 26) as root:
            root.send(json.dumps({"id": 1, "method": "Target.getTargets", "params": {}}))
            targets = json.loads(root.recv(timeout=60))["result"]["targetInfos"]
            page = next(one["targetId"] for one in targets if one["type"] == "page")
            with connect(f"ws://127.0.0.1:{number}/devtools/page/{page}", max_size=1 << 26) as tab:
                yield Tab(tab)
            root.send(json.dumps({"id": 2, "method": "Browser.close", "params": {}}))
        process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        shutil.rmtree(profile, ignore_errors=True)
