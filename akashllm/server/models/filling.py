"""Filling a partial file from a source: in several parts at once, or in one go where ranges cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import httpx

from akashllm.errors import DigestMismatch, DownloadFailed
from akashllm.server.models.partial import Partial, gib
from akashllm.server.models.ranges import content_range
from akashllm.server.models.source import Again, Changed, Patience, Source, Unranged

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the size of the whole, None until it is known."""

FIRST = 1 << 20
"""Bytes of the first request, which finds out how large the file is and whether ranges are understood."""

_BUFFER = 1 << 20
"""Bytes of a part in memory before they are written."""

_FORWARD = 256 << 10
"""Bytes of one attempt that make it count as a step forward."""

_PAGES = frozenset({"text/html", "application/xhtml+xml"})

_sleep = asyncio.sleep


class Filling:
    """One file on its way. `size` is what was promised; `told` is called as bytes come."""

    def __init__(
        self, partial: Partial, source: Source, *, size: int | None, patience: Patience, told: Progress
    ) -> None:
        self._partial = partial
        self._source = source
        self._promised = size
        self._patience = patience
        self._told = told
        self._name = partial.into.name

    async def in_parts(self, parts: int, segment: int) -> None:
        """Every missing byte, `parts` requests at once of `segment` bytes at most.

        Raises `Changed` or `Unranged` where what has come is of no use; `DownloadFailed`, `DigestMismatch`.
        """
        partial = self._partial
        if not partial.complete:
            known = partial.done.missing(partial.size, FIRST) if partial.size is not None else []
            await self._fetch(*(known[0] if known else (0, min(FIRST, segment))))
        assert partial.size is not None
        self._told(partial.done.total, partial.size)
        pieces = iter(partial.done.missing(partial.size, segment))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(parts):
                    group.create_task(self._work(pieces))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _work(self, pieces: Iterator[tuple[int, int]]) -> None:
        for start, end in pieces:
            await self._fetch(start, end)
            await self._partial.keep()

    async def _fetch(self, start: int, end: int) -> None:
        """`[start, end)`, in as many requests as it takes."""
        done = self._partial.done

        async def attempt() -> None:
            while (at := done.first_missing(start, end)) < min(end, self._partial.size or end):
                await self._piece(at, end)

        await patiently(
            self._patience, attempt, lambda: done.first_missing(start, end) - start, hint=self._hint
        )

    def _hint(self) -> str:
        have = self._partial.done.total
        return f"try again later: the {gib(have)} that have come are kept" if have else "try again later"

    async def _piece(self, start: int, end: int) -> None:
        """One request for `[start, end)`; a server may send less, from the same start on."""
        partial, source = self._partial, self._source
        headers = {"range": f"bytes={start}-{end - 1}"}
        if partial.validator.startswith('"'):
            headers["if-range"] = partial.validator
        async with source.get(headers) as response:
            if response.status_code == 416:
                raise Unranged if partial.size is None else Changed
            if response.status_code == 200:
                await self._learn(response, _length(response))
                raise Unranged
            span = content_range(response.headers.get("content-range", ""))
            if span is None or span[0] != start or span[1] > end or span[2] is None:
                raise Unranged
            stop = span[1]
            if _length(response) not in {None, stop - start}:
                raise Unranged
            await self._learn(response, span[2])
            at = await self._take(response, start, stop)
            if at < stop:
                raise Again(f"{source.host} sends less of {self._name} than it says")

    async def _take(self, response: httpx.Response, at: int, stop: int | None) -> int:
        """Write what comes from `at` on; where it ended. What came before a fault is kept."""
        buffer = bytearray()
        try:
            async for piece in response.aiter_raw():
                if stop is not None and at + len(buffer) + len(piece) > stop:
                    raise Unranged
                buffer += piece
                if len(buffer) >= _BUFFER:
                    at = await self._put(at, buffer)
        finally:
            at = await self._put(at, buffer)
        return at

    async def _put(self, at: int, buffer: bytearray) -> int:
        if buffer:
            await self._partial.write(at, bytes(buffer))
            at += len(buffer)
            buffer.clear()
            self._told(self._partial.done.total, self._partial.size)
        return at

    async def whole(self) -> None:
        """The file in one go, from its first byte, as often as patience allows."""
        await patiently(self._patience, self._whole)

    async def _whole(self) -> None:
        partial, source = self._partial, self._source
        partial.reset()
        async with source.get() as response:
            if response.status_code != 200:
                raise Again(f"{source.host} answers with a part where all of {self._name} was asked for")
            size = _length(response)
            await self._learn(response, size)
            size = self._promised if size is None else size
            try:
                at = await self._take(response, 0, size)
            except Unranged:
                raise Again(f"{source.host} sends more of {self._name} than it says") from None
            if size is not None and at < size:
                raise Again(f"{source.host} sends less of {self._name} than it says")
            partial.size = at

    async def _learn(self, response: httpx.Response, size: int | None) -> None:
        """Compare what an answer says of the file with what is known; the first one's word is kept."""
        partial, host = self._partial, self._source.host
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() in _PAGES:
            raise DownloadFailed(
                f"{host} answers with a web page instead of {self._name}",
                hint="the address may be that of the page about the file, or a log-in is needed",
            )
        if response.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise DownloadFailed(f"{host} sends {self._name} compressed, which was not asked for")
        if size is not None and self._promised is not None and size != self._promised:
            raise self._wrong_size(size)
        validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
        if partial.size is None:
            partial.validator = validator
            if size is not None:
                await partial.check_space(size)
                partial.size = size
        elif size != partial.size or (validator and partial.validator and validator != partial.validator):
            raise Changed

    def _wrong_size(self, size: int) -> DigestMismatch:
        return DigestMismatch(
            f"{self._name} has {size} bytes on {self._source.host} where {self._promised} were promised",
            hint="the file was replaced there: name another revision",
        )


async def patiently(
    patience: Patience,
    attempt: Callable[[], Awaitable[None]],
    got: Callable[[], int] = lambda: 0,
    hint: Callable[[], str] = lambda: "try again later",
) -> None:
    """Repeat `attempt` while it is worth it; `got` counts bytes: a step forward starts the count anew.

    Raises `DownloadFailed` with `hint` at the end of the patience.
    """
    failures, before = 0, got()
    while True:
        try:
            await attempt()
        except Again as fault:
            now = got()
            failures = 1 if now - before >= _FORWARD else failures + 1
            before = now
            if failures >= patience.attempts or (fault.after or 0.0) > patience.longest:
                raise DownloadFailed(
                    fault.reason, hint=hint(), status=fault.status, retry_after=fault.after
                ) from fault
            await _sleep(patience.wait(failures, fault.after))
        else:
            return


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
