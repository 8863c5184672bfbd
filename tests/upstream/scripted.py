"""An upstream that says what a test tells it to, byte by byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(eq=False)
class Scripted:
    """`answers` maps a path to an answer or to a function of the request; other paths are 404.

    An answer is an object, a status with a body, or the pieces of a streamed body: an event is waited for, and
    None ends the body where it is.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closes its connection in the middle of an answer."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by every request."""
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was sent to a path."""
        return [one.body for one in self.asked if one.path == path]

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Drop everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(method, path, headers, json.loads(body) if body else {})
        self.asked.append(asked)
        self.arrived.set()
        answer = self.answers.get(path, (404, b'{"error":{"message":"File Not Found","code":404}}'))
        answer = answer(asked) if callable(answer) else answer
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        if isinstance(answer, dict):
            answer = (200, json.dumps(answer).encode())
        if isinstance(answer, tuple):
            status, content = answer
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n{more}\r\n".encode() + content
            )
            await writer.drain()
            return True
        writer.write(f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{more}\r\n".encode())
        await self._stream(answer, reader, writer)
        return False

    async def _stream(
        self, pieces: Iterable[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        closed = asyncio.create_task(reader.read(1))
        try:
            for piece in pieces:
                if isinstance(piece, asyncio.Event):
                    waiting = asyncio.create_task(piece.wait())
                    await asyncio.wait({waiting, closed}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                elif piece is None:
                    return
                else:
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                if closed.done():
                    self.gone.set()
                    return
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)


def sse(*chunks: object, done: bool = True) -> list[bytes]:
    """Chunks as server-sent events, with the end mark."""
    frames = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return [*frames, b"data: [DONE]\n\n"] if done else frames


def lines(*objects: object) -> list[bytes]:
    """Objects as lines."""
    return [json.dumps(one).encode() + b"\n" for one in objects]


def chunk(
    content: str | None = None, *, index: int = 0, finish: str | None = None, **delta: Any
) -> dict[str, Any]:
    """A chunk of a chat."""
    said = delta if content is None else {"content": content, **delta}
    return {"choices": [{"index": index, "delta": said, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
HELLO = sse(chunk(role="assistant", content=""), chunk("Hel"), chunk("lo"), chunk(finish="stop"), USAGE)

TEMPLATE = "{% if tools %}<tool_call>{% endif %}{{ messages }}"


def openai_like(owner: str, chat: Any = HELLO, **answers: Any) -> Scripted:
    """A server of OpenAI's dialect: llama-server, vLLM, or one that says nothing of itself."""
    model = {"id": "m", "object": "model", "owned_by": owner, "max_model_len": 100}
    found: dict[str, Any] = {
        "/v1/models": {"object": "list", "data": [model | {"meta": {"n_vocab": 50, "n_ctx_train": 200}}]},
        "/v1/chat/completions": chat,
    }
    if owner == "llamacpp":
        found["/props"] = {"chat_template": TEMPLATE, "default_generation_settings": {"n_ctx": 100}}
    return Scripted(found | {f"/{path}": answer for path, answer in answers.items()})


OLLAMA_HELLO = lines(
    {"model": "m:1b", "message": {"role": "assistant", "content": "Hel"}, "done": False},
    {"model": "m:1b", "message": {"role": "assistant", "content": "lo"}, "done": False},
    {
        "model": "m:1b",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 7,
        "prompt_eval_duration": 70,
        "eval_count": 3,
        "eval_duration": 30,
    },
)
SHOW: dict[str, Any] = {
    "details": {"format": "gguf", "family": "llama", "quantization_level": "Q4_K_M"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 200, "general.parameter_count": 5},
    "capabilities": ["completion", "tools", "thinking", "insert"],
    "template": "{{ .Prompt }}",
}


def ollama_like(chat: Any = OLLAMA_HELLO, **answers: Any) -> Scripted:
    """A server that answers as Ollama does, a few megabytes of model loaded."""
    running = {"model": "m:1b", "size": 9, "size_vram": 8, "context_length": 100}
    tag = {"name": "m:1b", "model": "m:1b", "size": 5, "digest": "a" * 64}
    found: dict[str, Any] = {
        "/api/version": {"version": "0.33.0"},
        "/api/tags": {"models": [tag]},
        "/api/ps": {"models": [running]},
        "/api/show": SHOW,
        "/api/chat": chat,
    }
    return Scripted(found | {f"/{path}": answer for path, answer in answers.items()})


@contextlib.asynccontextmanager
async def listening(upstream: Scripted) -> AsyncIterator[Scripted]:
    """The upstream on a port, until the block ends."""
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
