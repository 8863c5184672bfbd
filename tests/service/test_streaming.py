"""Streams: early errors, late errors, silence, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from akashllm.errors import Busy
from akashllm.server.domain import Event, Generation
from akashllm.testing.engine import Reply, ScriptedEngine
from tests.service.support import Service, complete, exchange, parse, post, serving, until

GENERATE = "/api/generate"
CHAT = "/v1/chat/completions"

WAYS = [
    pytest.param(GENERATE, True, id="ollama-stream"),
    pytest.param(GENERATE, False, id="ollama-whole"),
    pytest.param(CHAT, True, id="openai-stream"),
    pytest.param(CHAT, False, id="openai-whole"),
]


def body(path: str, prompt: str, *, stream: bool) -> bytes:
    """A request's body in the dialect of the path."""
    if path == GENERATE:
        return json.dumps({"model": "tiny", "prompt": prompt, "stream": stream}).encode()
    messages = [{"role": "user", "content": prompt}]
    return json.dumps({"model": "tiny", "messages": messages, "stream": stream}).encode()


@contextlib.asynccontextmanager
async def silence_proxy(port: int, patience: float) -> AsyncIterator[int]:
    """A proxy that cuts a connection on which the server says nothing for `patience` seconds."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, sink = await asyncio.open_connection("127.0.0.1", port)

        async def up() -> None:
            while data := await reader.read(65536):
                sink.write(data)

        feeding = asyncio.create_task(up())
        try:
            while True:
                async with asyncio.timeout(patience):
                    data = await upstream.read(65536)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        except TimeoutError:
            pass
        finally:
            feeding.cancel()
            for end in (sink, writer):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


@pytest.mark.parametrize(("path", "stream"), WAYS)
async def test_an_early_error_has_its_status(path: str, stream: bool) -> None:
    """What fails before the first byte is an error with its own status and headers, not a stream."""
    engine = ScriptedEngine({"no": Reply(error=Busy("not now", retry_after=7))})
    async with serving(engine) as service, service.client() as client:
        response = await client.post(path, content=body(path, "no", stream=stream))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "7"
        assert response.headers["content-type"].startswith("application/json")
        error = response.json()["error"]
        assert (error if path == GENERATE else error["message"]) == "not now"


@pytest.mark.parametrize("parser", ["httptools", "h11"])
async def test_a_long_silence_is_filled(parser: str) -> None:
    """A first token that takes longer than a proxy's patience arrives, and the bodies still parse."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"slow": Reply("it came", gate=gate)})
    async with (
        serving(engine, heartbeat=0.05, pure=parser == "h11") as service,
        silence_proxy(service.port, 0.5) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client,
    ):
        ways = [(path, stream) for path in (GENERATE, CHAT) for stream in (True, False)]
        asking = [
            asyncio.create_task(client.post(path, content=body(path, "slow", stream=stream)))
            for path, stream in ways
        ]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in asking)
        gate.set()
        for (path, stream), response in zip(ways, await asyncio.gather(*asking), strict=True):
            assert response.status_code == 200
            assert said(path, stream, response) == "it came"


def said(path: str, stream: bool, response: httpx.Response) -> str:
    """The text of an answer that began with keep-alive bytes."""
    if path == GENERATE:
        assert response.text.startswith(" ")
        return "".join(json.loads(line)["response"] for line in response.text.splitlines())
    if not stream:
        assert response.text.startswith(" ")
        return str(response.json()["choices"][0]["message"]["content"])
    assert ": keep-alive\n\n" in response.text
    frames = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert frames.pop() == "[DONE]"
    choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_without_heartbeat_the_proxy_cuts() -> None:
    """The proxy of the test above does cut a silent connection: the heartbeat is what saves it."""
    engine = ScriptedEngine({"slow": Reply("never", gate=asyncio.Event())})
    async with (
        serving(engine, heartbeat=60.0) as service,
        silence_proxy(service.port, 0.2) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(GENERATE, content=body(GENERATE, "slow", stream=True))


async def test_official_clients_read_through_a_silence() -> None:
    """The ollama and openai packages understand a response that begins with keep-alive bytes."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"slow": Reply("it came", gate=gate)})
    messages: Any = [{"role": "user", "content": "slow"}]
    async with serving(engine, heartbeat=0.05) as service:
        theirs: Any = ollama.AsyncClient(service.url)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:

            async def streamed() -> str:
                stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
                return "".join(
                    [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                )

            async def whole() -> str:
                answer = await client.chat.completions.create(model="tiny", messages=messages)
                return answer.choices[0].message.content or ""

            async def native() -> str:
                return "".join(
                    [
                        part["message"]["content"]
                        async for part in await theirs.chat("tiny", messages, stream=True)
                    ]
                )

            async def native_whole() -> str:
                return (await theirs.chat("tiny", messages))["message"]["content"] or ""

            asked = [asyncio.create_task(ask()) for ask in (streamed, whole, native, native_whole)]
            await asyncio.sleep(0.4)
            gate.set()
            assert await asyncio.gather(*asked) == ["it came"] * 4
        await theirs.close()


@pytest.mark.parametrize(("path", "stream"), WAYS)
async def test_an_engine_that_dies_says_so_in_band(path: str, stream: bool) -> None:
    """An engine that dies after the first word ends the stream with an error in its dialect; the next works."""
    engine = ScriptedEngine({"die": Reply("one two three", die_after=2)})
    async with serving(engine) as service, service.client() as client:
        response = await client.post(path, content=body(path, "die", stream=stream))
        if stream:
            assert response.status_code == 200
            ends = response.text.strip().splitlines()
            if path == GENERATE:
                last = json.loads(ends[-1])
                assert "the engine stopped" in last["error"]
                assert not any('"done":true' in line for line in ends)
            else:
                assert ends[-1] == "data: [DONE]"
                assert "the engine stopped" in json.loads(ends[-3][6:])["error"]["message"]
        else:
            assert response.status_code == 500
        again = await client.post(path, content=body(path, "hello", stream=False))
        assert again.status_code == 200


@pytest.mark.parametrize("path", [GENERATE, CHAT])
async def test_an_error_after_a_heartbeat_is_a_json_document(path: str) -> None:
    """A whole answer that fails after keep-alive bytes went out is still one JSON document with an error."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"late": Reply("x", gate=gate, die_after=0)})
    async with (
        serving(engine, heartbeat=0.05) as service,
        service.client() as client,
        client.stream("POST", path, content=body(path, "late", stream=False)) as response,
    ):
        gate.set()
        assert response.status_code == 200
        await response.aread()
        assert response.text.startswith(" ")
        assert "error" in response.json()


async def test_a_bug_mid_stream_is_not_shown() -> None:
    """An unexpected exception ends a stream with plain words; its own stay in the log."""

    class Broken(ScriptedEngine):
        async def generate(self, request: Generation) -> AsyncIterator[Event]:
            async for event in super().generate(request):
                yield event
                if len(self.requests) and type(event).__name__ == "Delta":
                    raise KeyError("secret detail")

    async with serving(Broken()) as service, service.client() as client:
        response = await client.post(GENERATE, content=body(GENERATE, "hi", stream=True))
        assert "internal error" in response.text
        assert "secret detail" not in response.text
        response = await client.post(GENERATE, content=body(GENERATE, "hi", stream=False))
        assert response.status_code == 500
        assert "secret detail" not in response.text
        assert response.headers["x-request-id"]


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("parser", ["httptools", "h11"])
@pytest.mark.parametrize(("path", "stream"), WAYS)
async def test_a_client_that_leaves_frees_its_slot(path: str, stream: bool, how: str, parser: str) -> None:
    """Closing, resetting or half-closing the connection cancels the request, streamed or not."""
    engine = ScriptedEngine({"wait": Reply("one two", gate=asyncio.Event(), gate_after=1)})
    async with serving(engine, concurrency=1, pure=parser == "h11") as service:
        _, writer = await service.open()
        writer.write(post(path, body(path, "wait", stream=stream)))
        await until(lambda: service.runtime.admission.used == 1 and engine.requests)
        if how == "reset":
            writer.transport.abort()
        elif how == "half-close":
            writer.write_eof()
        else:
            writer.close()
        await until(lambda: service.runtime.admission.used == 0, within=1)
        assert len(engine.cancelled) == 1
        writer.close()
        async with service.client() as client:
            assert (await client.post(path, content=body(path, "next", stream=stream))).status_code == 200


async def test_leaving_before_the_first_token_or_in_the_queue() -> None:
    """A client that leaves while it waits, for a token or for a slot, leaves no trace."""
    engine = ScriptedEngine({"wait": Reply("one", gate=asyncio.Event())})
    async with serving(engine, concurrency=1, queue=8) as service:
        connections = []
        for _ in range(5):
            _, writer = await service.open()
            writer.write(post(GENERATE, body(GENERATE, "wait", stream=True)))
            connections.append(writer)
        await until(lambda: service.runtime.admission.waiting == 4)
        for writer in connections[1:]:
            writer.close()
        await until(lambda: service.runtime.admission.waiting == 0)
        assert service.runtime.admission.used == 1
        connections[0].close()
        await until(lambda: service.runtime.admission.used == 0)
        assert len(engine.requests) == 1


async def test_many_leavers_leak_nothing() -> None:
    """Two hundred clients that leave at different moments leave no task, slot or generator behind."""
    count = itertools.count()
    engine = ScriptedEngine(lambda _: Reply("a b c d", gate=asyncio.Event(), gate_after=next(count) % 4))
    async with serving(engine, concurrency=4, queue=64) as service:
        before = len(asyncio.all_tasks())
        for _ in range(10):
            writers = []
            for index in range(20):
                _, writer = await service.open()
                path = (GENERATE, CHAT)[index % 2]
                writer.write(post(path, body(path, "x", stream=index % 3 > 0)))
                writers.append(writer)
            await until(lambda: service.runtime.admission.used == 4)
            for writer in writers:
                writer.transport.abort()
            await until(lambda: service.runtime.admission.used == 0 and service.runtime.admission.waiting == 0)
        await until(lambda: len(asyncio.all_tasks()) <= before)
        assert engine.stats().running == 0


async def test_a_reader_that_stalls_is_cut() -> None:
    """A client that does not read holds a bounded buffer for a bounded time; then its slot is free."""
    engine = ScriptedEngine({"much": Reply(pieces=("x" * 65536,) * 2000)})
    async with serving(engine, write_timeout=0.3) as service:
        reader, writer = await service.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined] # the stream's transport is a read transport
        writer.write(post(GENERATE, body(GENERATE, "much", stream=True)))
        await until(lambda: service.runtime.admission.used == 1)
        await until(lambda: service.runtime.admission.used == 0)
        assert len(engine.cancelled) == 1
        assert engine.stats().completion_tokens < 2000
        await until(lambda: not service.server.server_state.connections)
        writer.close()
        del reader


async def test_every_delta_is_sent_at_once() -> None:
    """A word that is ready is on the wire while the next one is still being made."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"two": Reply("one two", gate=gate, gate_after=1)})
    async with serving(engine) as service:
        reader, writer = await service.open()
        writer.write(post(GENERATE, body(GENERATE, "two", stream=True)))
        received = await reader.readuntil(b'"response":"one"')
        assert b"application/x-ndjson" in received
        gate.set()
        while not complete(received):
            received += await reader.read(65536)
        assert b'"response":" two"' in received
        writer.close()


@pytest.mark.parametrize("keep", ["close", "keep-alive"])
def test_http_1_0_has_no_chunks(guarded: Service, keep: str) -> None:
    """A client of HTTP/1.0 reads until the connection ends; what has a length may keep the connection."""
    request = post("/api/generate", b'{"model":"tiny","prompt":"hi"}', Connection=keep)
    raw = exchange(guarded.port, request.replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"transfer-encoding" not in head.lower()
    assert json.loads(body.splitlines()[-1])["done"] is True
    whole = exchange(
        guarded.port, b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: %s\r\n\r\n" % keep.encode()
    )
    assert whole.endswith(b"Ollama is running")


async def test_framing_survives_any_text() -> None:
    """Text that looks like framing, line separators and emoji come through both dialects unchanged."""
    text = 'a\n\ndata: [DONE]\n\n\r\n\u2028\u2029\x00"\\ \U0001f600 {"error":1} </s>'
    engine = ScriptedEngine({"odd": Reply(pieces=tuple(text))})
    async with serving(engine) as service, service.client() as client:
        response = await client.post(GENERATE, content=body(GENERATE, "odd", stream=True))
        lines = [json.loads(line) for line in response.content.split(b"\n") if line]
        assert "".join(line["response"] for line in lines) == text
        response = await client.post(CHAT, content=body(CHAT, "odd", stream=True))
        frames = [json.loads(part[6:]) for part in response.content.split(b"\n\n") if part[:7] == b"data: {"]
        choices = [choice for frame in frames for choice in frame["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == text


async def test_answers_do_not_cross() -> None:
    """Two hundred requests at once each get their own answer, though many of them leave half-way."""
    async with serving(concurrency=8, queue=400) as service, service.client() as client:

        async def ask(number: int) -> None:
            path, stream = (GENERATE, CHAT)[number % 2], number % 3 > 0
            content = body(path, f"canary-{number}-end", stream=stream)
            if number % 5 == 0:
                _, writer = await service.open()
                writer.write(post(path, content))
                await asyncio.sleep(0)
                writer.transport.abort()
                return
            text = (await client.post(path, content=content)).text
            assert f"canary-{number}-end" in text
            assert text.count("canary-") == 1

        await asyncio.gather(*(ask(number) for number in range(200)))


async def test_shutdown_ends_streams_with_words() -> None:
    """A request that outlives the drain time ends with an error in its dialect, and the engine is closed."""
    engine = ScriptedEngine({"wait": Reply("one two", gate=asyncio.Event(), gate_after=1)})
    async with serving(engine, drain_timeout=0.0) as service:
        connections = [await service.open() for _ in range(2)]
        for (_, writer), stream in zip(connections, (True, False), strict=True):
            writer.write(post(CHAT, body(CHAT, "wait", stream=stream)))
        await until(lambda: service.runtime.admission.used == 2)
        service.server.should_exit = True
        streamed = await connections[0][0].read()
        whole = await connections[1][0].read()
        for _, writer in connections:
            writer.close()
    assert b"shutting down" in streamed
    assert streamed.rstrip().endswith(b"0") or b"[DONE]" in streamed
    assert parse(whole).status == 503
    assert engine.closed


async def test_shutdown_lets_requests_finish() -> None:
    """A request that ends within the drain time ends well, while new connections are refused."""
    gate = asyncio.Event()
    engine = ScriptedEngine({"wait": Reply("it came", gate=gate)})
    async with serving(engine, drain_timeout=10.0) as service, service.client() as client:
        asking = asyncio.create_task(client.post(GENERATE, content=body(GENERATE, "wait", stream=False)))
        await until(lambda: service.runtime.admission.used == 1)
        service.server.should_exit = True
        await until(lambda: service.server.app.state.stopping)
        with pytest.raises(OSError, match=r"refused|Connect|reset"):
            await service.open()
        gate.set()
        response = await asking
        assert response.json()["response"] == "it came"
