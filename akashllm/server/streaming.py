"""Responses that are produced while they are sent: NDJSON, SSE, and JSON that may take minutes.

What all three keep:

- An error before the first byte is a real status, raised to the application's handlers. An error after it
  goes in-band, in the words of the dialect.
- A byte goes out at least every `heartbeat` seconds while nothing is produced, because a proxy cuts a silent
  connection (Akash's ingress after 60 s). The first one commits to status 200.
- A client that goes away closes the source at once, and so does one that does not read: a chunk that cannot
  be written for `write_timeout` seconds ends the connection.

One task watches for the client, one timer for silence; a chunk costs neither a task nor a timer.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from akashllm.errors import Busy, ServiceError

logger = logging.getLogger(__name__)

Encoder = Callable[[ServiceError], bytes]
"""A dialect's error, as bytes that fit where the stream is."""


def ndjson(request: Request, items: AsyncIterator[bytes], *, error: Encoder) -> Response:
    """Newline-delimited JSON. Each item is one whole line with its newline; `error` encodes one too.

    The keep-alive byte is a space without a newline: it precedes the next line, where JSON allows it
    (ollama-python parses every line, so an empty line would break it).
    """
    return _Live(request, items, error=error, media_type="application/x-ndjson", beat=b" ")


def sse(request: Request, items: AsyncIterator[bytes], *, error: Encoder) -> Response:
    """Server-sent events. Each item is whole frames; `error` encodes the frames that end a broken stream."""
    return _Live(request, items, error=error, media_type="text/event-stream", beat=b": keep-alive\n\n")


async def whole(
    request: Request,
    result: Awaitable[bytes],
    *,
    error: Encoder,
    heartbeat: float | None = None,
    media_type: str = "application/json; charset=utf-8",
    beat: bytes | Callable[[], bytes] = b" ",
) -> Response:
    """One JSON document, however long it takes: spaces go out while it is made, once 15 s have passed.

    `error` encodes a JSON document as well, for a failure after that. `heartbeat` is in seconds, by default the
    setting's. A document of another type brings its own bytes to keep the line warm.
    """
    return _Live(
        request,
        _once(result),
        error=error,
        media_type=media_type,
        beat=beat,
        pending=result,
        whole=True,
        heartbeat=heartbeat,
    )


async def _once(result: Awaitable[bytes]) -> AsyncIterator[bytes]:
    yield await result


class _Live(Response):
    """Sends what `items` yields, keeps the line warm, and ends when either side does."""

    def __init__(
        self,
        request: Request,
        items: AsyncIterator[bytes],
        *,
        error: Encoder,
        media_type: str,
        beat: bytes | Callable[[], bytes],
        pending: Awaitable[bytes] | None = None,
        whole: bool = False,
        heartbeat: float | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        headers = {"content-type": media_type}
        if not whole:
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self.init_headers(headers)
        settings = request.app.state.settings
        self._state = request.app.state
        self._heartbeat: float = heartbeat or settings.heartbeat
        self._write_timeout: float = settings.write_timeout
        self._items = items
        self._pending = pending
        self._error = error
        self._beat_bytes = beat
        self._whole = whole
        self._started = False
        self._ended = False
        self._gone = False
        self._writing_since: float | None = None
        self._beating: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run to the end of the source, the client or the patience."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._send = send
        self._abort: Callable[[], None] | None = scope.get("akashllm.abort")
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(min(self._heartbeat, self._write_timeout), self._tick)
        watching = self._loop.create_task(self._watch(receive))
        try:
            await self._produce()
        except asyncio.CancelledError:
            if self._gone:
                task.uncancel()
            elif getattr(self._state, "stopping", False):
                task.uncancel()
                await self._fail(Busy("the service is shutting down", retry_after=10))
            else:
                raise
        finally:
            self._ended = True
            self._timer.cancel()
            watching.cancel()
            if self._beating is not None:
                self._beating.cancel()
            await self._close()

    async def _produce(self) -> None:
        try:
            if self._whole:
                async for item in self._items:
                    await self._emit(item, more=False)
                return
            async for item in self._items:
                await self._emit(item)
        except ServiceError as error:
            await self._fail(error)
        except Exception:
            if not self._started:
                raise
            logger.exception("a stream failed after it had begun")
            await self._fail(ServiceError("internal error: the answer is incomplete"))
        else:
            await self._emit(b"", more=False)

    async def _fail(self, error: ServiceError) -> None:
        """With its status if nothing has been sent, in-band otherwise."""
        if not self._started:
            raise error
        if not self._ended:
            await self._emit(self._error(error), more=False)

    async def _emit(self, body: bytes, *, more: bool = True) -> None:
        async with self._lock:
            self._writing_since = self._loop.time()
            if not more:
                self._ended = True
            if not self._started:
                await self._begin(None if more or not self._whole else len(body))
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._writing_since = None
            self._last = self._loop.time()

    async def _begin(self, length: int | None) -> None:
        self._started = True
        headers = self.raw_headers
        if length is not None:
            headers = [*headers, (b"content-length", str(length).encode())]
        await self._send({"type": "http.response.start", "status": self.status_code, "headers": headers})

    def _tick(self) -> None:
        """Beat if silent for a heartbeat, give up if a write has hung; look again when either may be due."""
        now = self._loop.time()
        if self._writing_since is not None:
            if now - self._writing_since >= self._write_timeout:
                logger.warning("a client did not read for %g s: closing", self._write_timeout)
                self._leave()
                if self._abort is not None:
                    self._abort()
                return
            due = self._writing_since + self._write_timeout
        elif now - self._last >= self._heartbeat:
            self._beating = self._loop.create_task(self._beat())
            due = now + min(self._heartbeat, self._write_timeout)
        else:
            due = min(self._last + self._heartbeat, now + self._write_timeout)
        self._timer = self._loop.call_at(due, self._tick)

    async def _beat(self) -> None:
        async with self._lock:
            if self._ended:
                return
            self._writing_since = self._loop.time()
            if not self._started:
                await self._begin(None)
            beat = self._beat_bytes if isinstance(self._beat_bytes, bytes) else self._beat_bytes()
            await self._send({"type": "http.response.body", "body": beat, "more_body": True})
            self._writing_since = None
            self._last = self._loop.time()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._task.cancel()

    async def _close(self) -> None:
        """Close the source, which cancels what it asked for; a result that never ran is disposed of."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()
        if inspect.iscoroutine(self._pending):
            self._pending.close()
