"""A model hub and an Ollama registry on this machine, with the manners and the faults of real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Files by path, statuses by path, and what was asked: (path, Range, Authorization)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    ranges: bool = True

    def repository(self, name: str, files: dict[str, bytes], **listing: Any) -> None:
        """A repository with its listing, as the hub's API tells it."""
        siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
        body = {"id": name, "sha": SHA, "siblings": siblings, "gated": False, **listing}
        self.files[f"/api/models/{name}"] = json.dumps(body).encode()
        for file, data in files.items():
            self.files[f"/{name}/resolve/{SHA}/{file}"] = data

    def sent(self) -> int:
        """Bytes of files that were asked for by range."""
        spans = [span.removeprefix("bytes=").split("-") for _, span, _ in self.seen if span]
        return sum(int(end) - int(start) + 1 for start, end in spans)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub on an ephemeral port of the loopback interface."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.seen.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
            if path in hub.statuses:
                status, headers = hub.statuses[path]
                self._answer(status, b"{}", headers)
                return
            data = hub.files.get(path)
            if data is None:
                self._answer(404, b"{}", {})
                return
            span = self.headers.get("Range")
            if span and hub.ranges:
                first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
                part = data[first : last + 1]
                where = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
                self._answer(206, part, {"Content-Range": where})
                return
            self._answer(200, data, {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            # The reader may have had enough.
            try:
                self.wfile.write(body)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
