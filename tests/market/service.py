"""A stand-in for the service: loads a little with each look at it, and misbehaves as its arguments say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """/health loads the model, /crash ends the process, anything else shows the environment."""

    percent = 0.0

    def do_GET(self) -> None:
        """Answer."""
        key = Path(os.environ["AKASHLLM_API_KEY_FILE"]).read_text().strip()
        if self.path == "/crash":
            os._exit(3)
        if self.path == "/health":
            Handler.percent = min(100.0, Handler.percent + 40.0)
            told = {*sys.argv, os.environ.get("STAND_IN", "")}
            ready = Handler.percent >= 100 and "never-ready" not in told
            state = "failed" if "failed" in told else "ready" if ready else "loading"
            reason = "\x1b]0;owned\x07 no memory [/red]" if "failed" in told else ""
            revision = "" if "mute" in told else os.environ.get("AKASHLLM_REVISION", "")
            health = {"status": state, "percent": Handler.percent, "reason": reason, "revision": revision}
            self.answer(200, health)
        elif self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(401, {"error": "no key"})
        else:
            self.answer(200, {"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()})

    def answer(self, status: int, data: object) -> None:
        """Send JSON."""
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """A line for each request."""
        say(f"served {self.path}")


def say(text: str) -> None:
    """Write a line of log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    say("starting")
    if "dies" in sys.argv:
        sys.exit(5)
    if "usage" in sys.argv:
        sys.exit(2)
    if "children" in sys.argv:
        # One that left the session, as a careless engine would.
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    HTTPServer.allow_reuse_address = True
    HTTPServer((os.environ["AKASHLLM_HOST"], int(os.environ["AKASHLLM_PORT"])), Handler).serve_forever()
