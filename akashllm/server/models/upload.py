"""A file that a client sends: straight to the disk, hashed on the way, named if it is what was announced."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial

from akashllm.digests import Sha256
from akashllm.errors import BadRequest, DigestMismatch, TooLarge
from akashllm.server.models.partial import undisturbed
from akashllm.server.models.store import ModelStore
from akashllm.server.settings import PREFIX

_PIECE = 1 << 20
"""Bytes that are written at once: network chunks are small and a thread costs more than they do."""


async def receive(
    store: ModelStore, digest: Sha256, chunks: AsyncIterator[bytes], *, declared: int | None, most: int
) -> None:
    """Put what `chunks` brings into the store.

    `declared` is the size the client gave, None if it gave none. Raises `TooLarge` beyond `most` bytes,
    `BadRequest` if the content has another digest, and `StoreFailed`; nothing is left behind then.
    """
    if declared is not None:
        if declared > most:
            raise _too_large(most)
        await asyncio.to_thread(store.volume.need, declared)
    with store.volume.explained():
        writer = await undisturbed(lambda: store.incoming(digest).__enter__())
        try:
            async for piece in _pieces(chunks, most):
                await undisturbed(partial(writer.write, piece))
        except BaseException:
            kind, error, trace = sys.exc_info()
            await undisturbed(lambda: writer.__exit__(kind, error, trace))
            raise
        try:
            await undisturbed(lambda: writer.__exit__(None, None, None))
        except DigestMismatch as error:
            raise BadRequest(error.message) from error
    await asyncio.to_thread(store.opened, digest)


async def _pieces(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    gathered = bytearray()
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > most:
            raise _too_large(most)
        gathered += chunk
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the file is larger than {most} bytes, the limit {PREFIX}MAX_BLOB_BYTES sets")
