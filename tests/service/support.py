"""A real server on a loopback socket over a scripted engine, and clients that speak bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from akashllm.server.run import Server, listen
from akashllm.server.runtime import Runtime
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine

KEY = "canary-4f1d0b7e9c2a"
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Service:
    """A running server: where it is, and what is inside."""

    port: int
    engine: ScriptedEngine
    server: Server

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def runtime(self) -> Runtime:
        """What is between its routes and its engine."""
        runtime: Runtime = self.server.app.state.runtime
        return runtime

    def client(self, **kwargs: Any) -> httpx.AsyncClient:
        """A client of it."""
        return httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, **kwargs)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection to it."""
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def serving(
    engine: ScriptedEngine | None = None, *, pure: bool = False, **settings: Any
) -> AsyncIterator[Service]:
    """A server in this event loop."""
    engine = engine or ScriptedEngine()
    server = Server(Settings(port=0, **{"drain_timeout": 1.0, **settings}), engine, pure=pure)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    started = asyncio.Event()
    ended = asyncio.create_task(server.until_stopped(listener, lambda _: started.set()))
    await started.wait()
    try:
        yield Service(port, engine, server)
    finally:
        server.should_exit = True
        await ended
        listener.close()


@contextlib.contextmanager
def serving_apart(
    engine: ScriptedEngine | None = None, *, pure: bool = False, **settings: Any
) -> Iterator[Service]:
    """A server in a thread of its own, for tests that only send and read."""
    found: list[Service] = []
    ready, stop = threading.Event(), threading.Event()

    async def main() -> None:
        async with serving(engine, pure=pure, **settings) as service:
            found.append(service)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        stop.set()
        thread.join(20)


@dataclass
class Answer:
    """A response taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def parse(raw: bytes) -> Answer:
    """The first response in `raw`; chunks are put together."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole += body[: int(size, 16)]
            body = body[int(size, 16) + 2 :]
        body = whole
    return Answer(int(lines[0].split()[1]), headers, body)


def exchange(port: int, data: bytes, *, timeout: float = 10) -> bytes:
    """Send bytes, read until the server closes, is silent after a whole answer, or time is up."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        return response(connection)


def response(connection: socket.socket) -> bytes:
    """Read until one response is whole or the server closes."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while not complete(received):
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
    return received


def complete(raw: bytes) -> bool:
    """Whether `raw` holds a whole response."""
    head, blank, body = raw.partition(b"\r\n\r\n")
    if not blank:
        return False
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    for line in lowered.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return lowered.startswith((b"http/1.1 1", b"http/1.1 204", b"http/1.1 304"))


def ask(port: int, data: bytes) -> Answer:
    """`exchange`, taken apart."""
    return parse(exchange(port, data))


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A POST request as bytes, with the key unless told otherwise."""
    fields = {"Host": "127.0.0.1", "Authorization": f"Bearer {KEY}", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def until(condition: Any, *, within: float = 5) -> None:
    """Wait for something that another task makes true."""
    for _ in range(round(within / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"it did not become true within {within} s")
