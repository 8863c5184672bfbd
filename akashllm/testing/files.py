"""A file server on this machine that cuts, stalls, lies, redirects and changes its mind, as it is told to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 64 << 10
_ENDLESS = 1 << 60


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the path with its query, the range as [start, end), and the headers in small letters."""

    path: str
    span: tuple[int, int] | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one answer; everything else stays as it should be.

    cut         bytes of the body after which the connection is closed
    stall       bytes of the body after which nothing more comes, until the server is closed
    status, headers
                answered instead of the file; a status alone has a small JSON body
    ignore      no ranges: 200 and all of it
    shift       the Content-Range names bytes so much further on than those asked for
    extra       bytes sent beyond what the headers promise, chunked;  missing: bytes that are left out, chunked
    page        a web page instead of the file
    flip        position of a byte that is sent with its bits turned over
    after       called once the answer is out
    """

    cut: int | None = None
    stall: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ignore: bool = False
    shift: int = 0
    extra: int = 0
    missing: int = 0
    page: bool = False
    flip: int | None = None
    after: Callable[[], None] | None = None


@dataclass
class FileServer:
    """Files by path. `faults` are used up one a request; then, or for None, all is well.

    judge       decides instead of `faults`, where it is set
    tags        ETags by path; by default a digest of the content, and none for an empty text
    seen        every request;  sent: bytes of bodies that were handed to the network
    stalled     set when an answer has come to its stall
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    faults: list[Fault | None] = field(default_factory=list)
    judge: Callable[[Asked], Fault | None] | None = None
    seen: list[Asked] = field(default_factory=list)
    sent: int = 0
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, data: bytes, tag: str | None = None) -> str:
        """Serve `data` at `path`; its address."""
        self.files[path] = data
        if tag is None:
            self.tags.pop(path, None)
        else:
            self.tags[path] = tag
        return self.url + path

    def tag(self, path: str) -> str:
        """The ETag of a file, with its quotes."""
        known = self.tags.get(path)
        return f'"{hashlib.sha256(self.files[path]).hexdigest()[:16]}"' if known is None else known

    def asked(self) -> int:
        """Bytes that were asked for in ranges."""
        return sum(asked.span[1] - asked.span[0] for asked in self.seen if asked.span)

    def answer_to(self, asked: Asked) -> Fault:
        """Write the request down and decide what goes wrong with it."""
        with self.lock:
            self.seen.append(asked)
            if self.judge is not None:
                return self.judge(asked) or Fault()
            return (self.faults.pop(0) if self.faults else None) or Fault()


@contextmanager
def running_files(server: FileServer | None = None) -> Iterator[FileServer]:
    """The server on an ephemeral port of the loopback interface."""
    known = server or FileServer()

    class Handler(_Handler):
        files = known

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = False
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.url = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield known
    finally:
        known.released.set()
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10.0
    files: FileServer

    def do_GET(self) -> None:
        """Answer, with the fault that is due."""
        path = self.path.partition("?")[0]
        data = self.files.files.get(path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.path, _span(headers.get("range", ""), data), headers)
        fault = self.files.answer_to(asked)
        data = self.files.files.get(path)
        # The other side may have had enough.
        try:
            self._answer(path, data, asked, fault)
        except OSError:
            self.close_connection = True
        if fault.after is not None:
            fault.after()

    def do_HEAD(self) -> None:
        """The headers alone."""
        self.do_GET()

    def _answer(self, path: str, data: bytes | None, asked: Asked, fault: Fault) -> None:
        if fault.status is not None:
            self._send(fault.status, b"{}", dict(fault.headers), fault)
        elif fault.page:
            self._send(200, b"<html>Log in</html>", {"Content-Type": "text/html; charset=utf-8"}, fault)
        elif data is None:
            self._send(404, b"{}", {}, fault)
        else:
            self._file(path, data, asked, fault)

    def _file(self, path: str, data: bytes, asked: Asked, fault: Fault) -> None:
        tag = self.files.tag(path)
        headers = {"Content-Type": "application/octet-stream", **({"ETag": tag} if tag else {})}
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 0xFF]) + data[fault.flip + 1 :]
        span = asked.span
        wanted = asked.headers.get("if-range", "")
        if span is None or fault.ignore or (wanted and wanted != tag):
            self._send(200, data, headers | dict(fault.headers), fault)
            return
        start, end = span[0], min(span[1], len(data))
        if start >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, fault)
            return
        where = f"bytes {start + fault.shift}-{end + fault.shift - 1}/{len(data)}"
        self._send(206, data[start:end], headers | {"Content-Range": where} | dict(fault.headers), fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        chunked = bool(fault.extra or fault.missing)
        body = body[: len(body) - fault.missing] + b"x" * fault.extra
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if chunked:
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
            return
        stop = min(n for n in (len(body), fault.cut, fault.stall) if n is not None)
        for at in range(0, stop, _PIECE):
            piece = body[at : min(at + _PIECE, stop)]
            self.wfile.write(piece)
            with self.files.lock:
                self.files.sent += len(piece)
        if fault.stall is not None:
            self.wfile.flush()
            self.files.stalled.set()
            self.files.released.wait()
        if stop < len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _span(value: str, data: bytes | None) -> tuple[int, int] | None:
    found = _RANGE.fullmatch(value)
    if found is None:
        return None
    size = len(data) if data is not None else _ENDLESS
    return int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
