"""Fetching a large file over bad connections: in parts at once, resumed, verified, shared by its callers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

import httpx

from akashllm.digests import Sha256
from akashllm.errors import DigestMismatch, DownloadFailed
from akashllm.server.models.filling import Filling, Progress
from akashllm.server.models.partial import Partial
from akashllm.server.models.source import Changed, Patience, Source, Unranged, checked_url, new_client

PARTS = 4
SEGMENT = 64 << 20
_RESTARTS = 3


async def download(
    url: str,
    into: Path,
    *,
    digest: Sha256 | None = None,
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    parts: int = PARTS,
    segment: int = SEGMENT,
    patience: Patience | None = None,
    client: httpx.AsyncClient | None = None,
) -> Path:
    """Fetch `url` into the file `into` and return that path once it holds all of it, verified.

    digest, size    what was promised; without a digest the server's word for the size is all there is
    headers         sent to the origin of `url`; Authorization and cookies are not sent anywhere else
    parts           requests at once, each for at most `segment` bytes
    client          follows no redirects; None: one is made for this call

    Several callers of one target share one download, in this process and, by a lock, across processes. A
    cancelled call keeps what has come beside the target, as `.NAME.partial`; the next one goes on there. If
    `into` exists (in the promised size), it is taken as it is: nothing unverified ever gets that name.

    Raises `DownloadFailed` (with `status` where a server refused), `DigestMismatch` after removing the file,
    and `BadName` for an address that is none.
    """
    checked_url(url)
    into = Path.cwd() / into
    key = (id(asyncio.get_running_loop()), into, digest)
    shared = _running.get(key)
    if shared is None:
        job = _Job(url, into, digest, size, headers, max(1, parts), max(1, segment), patience or Patience())
        shared = _running[key] = _Shared(key, job, client)
    await shared.join(progress)
    return into


class _Shared:
    """One download and everyone who waits for it. It is cancelled when the last of them is."""

    def __init__(
        self, key: tuple[int, Path, Sha256 | None], job: _Job, client: httpx.AsyncClient | None
    ) -> None:
        self._key = key
        self._watchers: list[Progress] = []
        self._waiting = 0
        job.told = self._tell
        self._job = job
        self._task = asyncio.create_task(job.run(client), name=f"download {job.into.name}")
        self._task.add_done_callback(self._over)

    async def join(self, progress: Progress | None) -> None:
        """Wait for the end."""
        self._waiting += 1
        if progress is not None:
            self._watchers.append(progress)
        try:
            await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if progress is not None:
                self._watchers.remove(progress)
            if not self._waiting and not self._task.done():
                # Whoever comes now starts anew, and waits for the lock until this one has written its record.
                self._forget()
                self._task.cancel()
                await asyncio.wait([self._task])

    def _tell(self, done: int, total: int | None) -> None:
        for watcher in list(self._watchers):
            watcher(done, total)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._forget()
        if not task.cancelled():
            task.exception()

    def _forget(self) -> None:
        if _running.get(self._key) is self:
            del _running[self._key]


_running: dict[tuple[int, Path, Sha256 | None], _Shared] = {}


class _Job:
    """The work itself, once for all callers."""

    def __init__(
        self,
        url: str,
        into: Path,
        digest: Sha256 | None,
        size: int | None,
        headers: Mapping[str, str] | None,
        parts: int,
        segment: int,
        patience: Patience,
    ) -> None:
        self.into = into
        self.told: Progress = lambda _done, _total: None
        self._url = url
        self._digest = digest
        self._size = size
        self._headers = headers
        self._parts = parts
        self._segment = segment
        self._patience = patience

    async def run(self, client: httpx.AsyncClient | None) -> None:
        """Fetch, verify, name."""
        if self._there():
            return
        source = hashlib.sha256(str(checked_url(self._url).copy_with(query=None)).encode()).hexdigest()
        async with Partial.locked(self.into, source=source, digest=self._digest) as partial:
            if partial is None:
                return
            if client is not None:
                await self._into(partial, client)
                return
            async with new_client(self._patience, parts=self._parts) as own:
                await self._into(partial, own)

    def _there(self) -> bool:
        """Whether the file has its name already. One of another size than promised is no use to anyone."""
        try:
            found = self.into.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if self._size is not None and found.st_size != self._size:
            self.into.unlink()
            return False
        return True

    async def _into(self, partial: Partial, client: httpx.AsyncClient) -> None:
        resumed = partial.resumed
        await self._fill(partial, client)
        try:
            await partial.finish(self._digest)
        except DigestMismatch:
            if not resumed:
                partial.discard()
                raise
            # What an earlier run left may be at fault, not the source: once more, from nothing.
            partial.reset()
            await self._fill(partial, client)
            try:
                await partial.finish(self._digest)
            except DigestMismatch:
                partial.discard()
                raise

    async def _fill(self, partial: Partial, client: httpx.AsyncClient) -> None:
        """Until every byte is there: anew where the file changes, without ranges where the server lies."""
        source = Source(client, self._url, self.into.name, self._headers)
        filling = Filling(partial, source, size=self._size, patience=self._patience, told=self.told)
        ranged = True
        for _ in range(_RESTARTS + 1):
            try:
                if ranged:
                    await filling.in_parts(self._parts, self._segment)
                else:
                    await filling.whole()
            except Changed:
                partial.reset()
            except Unranged:
                ranged = False
                partial.reset()
            else:
                return
        raise DownloadFailed(
            f"{self.into.name} keeps changing on {source.host} while it is fetched", hint="try again later"
        )
