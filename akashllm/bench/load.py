"""A load generator for OpenAI-style streams, lean enough to share a core with what it measures.

Tokens are counted from the server's `usage`, for servers differ in how many they put in a chunk; a server that
sends no usage (llama_cpp.server, whose chunks are one token each) has its chunks counted.
TTFT is the time from the last byte of the request to the first piece of text; the inter-token latency of one
stream is (end - first piece) / (tokens - 1). All times are seconds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Sample:
    """One stream: when it was sent, first seen and done (monotonic), and the tokens the server counted."""

    sent: float
    first: float
    done: float
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    text: str

    @property
    def ttft(self) -> float:
        """Seconds to the first piece of text."""
        return self.first - self.sent

    @property
    def itl(self) -> float:
        """Mean seconds between tokens."""
        return (self.done - self.first) / max(1, self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Summary:
    """Many streams: output tokens a second over all of them, and the latencies' percentiles in seconds.

    `cpu_per_token`, in seconds, is for who can see the server's processes to fill in.
    """

    streams: int
    tokens_per_second: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    cached: float
    cpu_per_token: float = 0.0


async def stream(url: str, body: dict[str, Any], key: str | None = None) -> Sample:
    """One streamed POST. Raises RuntimeError with the server's words when it is refused or breaks off."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)
    data = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    writer.write(
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n{auth}"
        f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    try:
        await writer.drain()
        sent = time.monotonic()
        return await _read(reader, sent)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, sent: float) -> Sample:
    status = (await reader.readline()).split(b" ", 2)
    while (await reader.readline()).strip():
        pass
    if status[1:2] != [b"200"]:
        raise RuntimeError(f"refused: {b' '.join(status)!r} {(await reader.read(2000))!r}")
    first = 0.0
    text: list[str] = []
    usage: dict[str, Any] = {}
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if chunk.get("error"):
            raise RuntimeError(f"broke off: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            piece = choice.get("text") or (choice.get("delta") or {}).get("content")
            if piece:
                first = first or time.monotonic()
                text.append(piece)
    done = time.monotonic()
    details = usage.get("prompt_tokens_details") or {}
    tokens = usage.get("completion_tokens", len(text))
    return Sample(
        sent,
        first or done,
        done,
        tokens,
        usage.get("prompt_tokens", 0),
        details.get("cached_tokens") or 0,
        "".join(text),
    )


async def load(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, key: str | None = None
) -> list[Sample]:
    """Send `bodies` with `clients` streams open at any time; each client takes the next when its last ends."""
    waiting = iter(bodies)
    samples: list[Sample] = []

    async def client() -> None:
        for body in waiting:
            sample = await stream(url, body, key)
            samples.append(sample)

    await asyncio.gather(*(client() for _ in range(clients)))
    return samples


def summarise(samples: Sequence[Sample]) -> Summary:
    """The figures of one run."""
    wall = max(s.done for s in samples) - min(s.sent for s in samples)
    prompts = sum(s.prompt_tokens for s in samples)
    return Summary(
        streams=len(samples),
        tokens_per_second=sum(s.tokens for s in samples) / wall,
        ttft_p50=_percentile([s.ttft for s in samples], 50),
        ttft_p99=_percentile([s.ttft for s in samples], 99),
        itl_p50=_percentile([s.itl for s in samples], 50),
        itl_p99=_percentile([s.itl for s in samples], 99),
        cached=sum(s.cached_tokens for s in samples) / prompts if prompts else 0.0,
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
