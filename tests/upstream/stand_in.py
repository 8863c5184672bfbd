"""A program that passes for Ollama's: run as `stand_in.py serve`, it answers on OLLAMA_HOST.

What it does is written in `plan.json` in the folder OLLAMA_MODELS: `models` it has, the lines of `pulls` (a
list for each pull, the last one for all further), whether to `die` at once, and words to `say`. It writes what
it was started with into `seen.json`, and starts a process of its own, as Ollama starts its runners.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["OLLAMA_MODELS"])
PLAN: dict[str, Any] = json.loads((FOLDER / "plan.json").read_text())
MODELS: list[str] = PLAN.get("models", [])
PULLS: list[list[dict[str, Any]]] = PLAN.get("pulls", [])
ANSWER: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": "Hel"}, "done": False},
    {"message": {"role": "assistant", "content": "lo"}, "done": False},
    {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 2},
]


class Handler(BaseHTTPRequestHandler):
    """Ollama's routes, as few as are needed."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _lines(self, lines: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()
        self.close_connection = True

    def do_GET(self) -> None:
        """Version and lists."""
        if self.path == "/api/version":
            self._json({"version": "0.33.0"})
        elif self.path == "/api/tags":
            self._json({"models": [{"name": name, "model": name, "size": 1} for name in MODELS]})
        else:
            self._json({"models": []})

    def do_POST(self) -> None:
        """Show, pull and chat."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/show":
            self._json({"details": {}, "model_info": {}, "capabilities": ["completion"]})
        elif self.path == "/api/pull":
            found = PULLS.pop(0) if len(PULLS) > 1 else PULLS[0]
            if found[-1].get("status") == "success":
                MODELS.append(body["model"])
            self._lines(found)
        elif self.path == "/api/chat":
            if body["messages"][-1]["content"] == "die":
                os._exit(3)
            self._lines(ANSWER)
        else:
            self._json({})


def main() -> int:
    """Serve until killed."""
    runner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    seen = {"environ": dict(os.environ), "pid": os.getpid(), "runner": runner.pid, "argv": sys.argv[1:]}
    (FOLDER / "seen.json").write_text(json.dumps(seen))
    sys.stdout.write(PLAN.get("say", "Listening") + "\n")
    sys.stdout.flush()
    if PLAN.get("die"):
        return 5
    host, port = os.environ["OLLAMA_HOST"].split(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
