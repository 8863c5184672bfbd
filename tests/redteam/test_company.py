"""Many clients at once, some of whom go away; embeddings beside answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections import Counter

import httpx
import pytest

from tests.redteam.conftest import HEADERS, KEY, Victim

QUESTIONS = (
    "What is the capital of Japan?",
    "Count to 12.",
    "What is 7+8?",
    "Repeat after me: river stone moon",
    "Why is the sky blue?",
    "Tell me a story.",
    "Who are you?",
    "Count to 15.",
    "Tell me a story about a cat.",
    "What is 3+4?",
    "Hello!",
    "Count to 9.",
    "How do you say dog in French?",
    "What is the capital of France?",
    "Count to 11.",
    "Tell me a story about a dog.",
)


def client(victim: Victim) -> httpx.AsyncClient:
    """A client that opens a connection for every request."""
    limits = httpx.Limits(max_connections=300, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=victim.url, headers=HEADERS, timeout=100, limits=limits)


async def test_nobody_gets_anothers_words(victim: Victim) -> None:
    """Of 200 requests at once, many given up on the way, each answer has its own prompt's word only."""
    draw = random.Random(3)
    delays = [draw.random() if draw.random() < 0.4 else None for _ in range(200)]
    async with client(victim) as http:

        async def one(place: int) -> str:
            word = f"canary-{place:04d}"
            body = {
                "model": "tiny",
                "prompt": f"{word}: count 1 2 3",
                "max_tokens": 1 + place % 60,
                "echo": True,
                "stream": place % 2 == 0,
            }
            task = asyncio.create_task(http.post("/v1/completions", json=body))
            delay = delays[place]
            if delay is not None:
                await asyncio.wait([task], timeout=delay)
                if task.cancel():
                    await asyncio.wait([task])
                    return "given up"
            answer = await task
            if answer.status_code == 503:
                return "refused" if int(answer.headers["retry-after"]) > 0 else "refused without a hint"
            whole = answer.text
            return "own" if whole.count("canary-") == 1 and word in whole else f"not its own: {whole[:200]}"

        seen = Counter(await asyncio.gather(*(one(place) for place in range(200))))
    assert set(seen) <= {"own", "given up", "refused"}
    assert seen["own"] >= 16
    assert seen["refused"] > 0


async def follow(http: httpx.AsyncClient, question: str, most: int | None = None) -> str:
    """The text of a greedy stream, or its first `most` chunks, after which the connection is cut."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 120,
        "stream": True,
    }
    parts: list[str] = []
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                parts += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
            if most is not None and len(parts) >= most:
                break
    return "".join(parts)


async def test_cutting_half_leaves_the_others_their_words(victim: Victim) -> None:
    """Of 16 greedy streams 8 connections are cut on the way; the others say what they say alone."""
    async with client(victim) as http:
        alone = [await follow(http, question) for question in QUESTIONS]
        together = await asyncio.gather(
            *(
                follow(http, question, 2 + place % 5 if place % 2 else None)
                for place, question in enumerate(QUESTIONS)
            )
        )
    assert together[::2] == alone[::2]
    assert all(whole.startswith(part) for whole, part in zip(alone, together, strict=True))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_client_that_goes_away_frees_its_slot(victim: Victim, stream: bool, half: bool) -> None:
    """Closing the connection, or only its sending half, ends the request, streamed or not."""
    body = {"model": "tiny", "prompt": "x", "n": 8, "max_tokens": 2000, "ignore_eos": True, "stream": stream}
    data = json.dumps(body).encode()
    host, port = victim.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while not victim.used():
            pass
        if half:
            connection.shutdown(socket.SHUT_WR)
            while victim.used():
                pass


async def test_embeddings_nobody_waits_for_are_not_made(victim: Victim) -> None:
    """Hours of embedding that were given up do not stand before the next request for one vector."""
    async with client(victim) as http:
        much = {"model": "tiny", "input": ["a b c d " * 400] * 1000}
        with contextlib.suppress(httpx.ReadTimeout):
            await http.post("/v1/embeddings", json=much, timeout=1.0)
        answer = await http.post("/v1/embeddings", json={"model": "tiny", "input": "hello"})
    assert len(answer.json()["data"]) == 1
