"""vLLM itself, on a processor: the tests of the dialects and of the engines, run again over it.

All of them are in this one file, so that one worker starts one vLLM: it takes half a minute and 1.3 GB.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import msgspec
import ollama
import openai
import pytest

from akashllm.errors import BadRequest, ContextOverflow, Unsupported
from akashllm.server.domain import ChatPrompt, Embedding, TokenPrompt, ToolChoice
from akashllm.server.engines import framed
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.engines.vllm.engine import VllmEngine
from akashllm.server.settings import Settings
from tests.engine import test_answers, test_company, test_constraints, test_limits
from tests.engine.ask import Reply, ask, run, say, text, until
from tests.ollama import test_client as ollama_client
from tests.ollama import test_engine as ollama_engine
from tests.openai import test_engine as openai_engine
from tests.vllm import files, prompts, real
from tests.vllm.conftest import interpreter

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

ALIASES = ("llama3", "llama3.1", "nomic-embed-text")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> files.Files:
    """The model's files."""
    return files.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def running(made: files.Files) -> Iterator[tuple[str, real.Across, VllmEngine]]:
    """A service over vLLM: its address, and its engine for this thread's loops."""
    python = interpreter()
    assert python is not None
    engine = real.engine(made.folder, python)
    with real.serving(engine, Settings(model_aliases=ALIASES, log_level="error")) as (url, loop):
        asyncio.run_coroutine_threadsafe(engine.load(), loop).result(240)
        yield url, real.Across(engine, loop), engine


def adopt(target: type, module: ModuleType, without: tuple[str, ...] = ()) -> None:
    """Make a module's tests the class's own. `without` names those that are not about this engine."""
    names = [name for name in vars(module) if name.startswith("test_")]
    assert set(without) <= set(names)
    for name in names:
        if name not in without and not hasattr(target, name):
            setattr(target, name, staticmethod(getattr(module, name)))


@pytest.fixture
def tiny(running: tuple[str, real.Across, VllmEngine]) -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(base_url=running[0], timeout=120) as client:
        yield client


@pytest.fixture
def engine(running: tuple[str, real.Across, VllmEngine]) -> real.Across:
    """The engine."""
    return running[1]


class TestOpenAi:
    """The official client of OpenAI."""

    @pytest.fixture
    def real(self, running: tuple[str, Any, Any]) -> Iterator[openai.OpenAI]:
        """The client."""
        with openai.OpenAI(base_url=f"{running[0]}/v1", api_key="none", max_retries=0, timeout=120) as client:
            yield client

    def test_too_long(self, real: openai.OpenAI) -> None:
        """A prompt beyond the context is refused with OpenAI's code; nothing is cut."""
        for param, call in (
            ("messages", lambda: openai_engine.ask(real, "word " * 20_000)),
            ("prompt", lambda: real.completions.create(model="tiny", prompt="word " * 20_000)),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                call()
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)

    def test_embeddings(self, real: openai.OpenAI) -> None:
        """VLLM makes text or embeddings: it says so, and how to have the other."""
        with pytest.raises(openai.BadRequestError, match="AKASHLLM_TASK=embed") as caught:
            real.embeddings.create(model="tiny", input="hello")
        assert caught.value.code == "unsupported_parameter"


class TestOllama:
    """Ollama's routes."""


class TestOllamaClient:
    """The official client of Ollama."""

    @pytest.fixture
    def url(self, running: tuple[str, Any, Any]) -> str:
        """The address."""
        return running[0]

    @pytest.fixture
    def client(self, url: str) -> Iterator[ollama.Client]:
        """The client."""
        with ollama.Client(host=url, timeout=120) as found:
            yield found

    def test_models_are_shown_as_their_files_are(self, client: ollama.Client) -> None:
        """`show` tells format, type and figures of Hugging Face files."""
        client.generate("tiny")
        shown = client.show("llama3")
        assert shown.details is not None
        assert (shown.details.format, shown.details.quantization_level) == ("safetensors", "F16")
        assert shown.modelinfo is not None
        assert shown.modelinfo["llama.context_length"] == 2048
        assert set(shown.capabilities or []) == {"completion", "tools", "insert", "thinking"}
        assert [model.model for model in client.ps().models] == ["tiny:latest"]


class TestAnswers:
    """What an engine answers."""

    async def test_overflow(self, engine: real.Across) -> None:
        """A prompt beyond the context is refused with both numbers; vLLM wants room for one token more."""
        context = engine.info.context
        for length in (context, context + 1):
            with pytest.raises(ContextOverflow) as caught:
                await run(engine, ask(TokenPrompt(tokens=(300,) * length)))
            assert (caught.value.prompt_tokens, caught.value.context) == (length, context)
        reply = await run(engine, ask(TokenPrompt(tokens=(300,) * (context - 1)), ignore_eos=True))
        assert reply.done is not None
        assert (reply.reason, reply.done.usage.completion_tokens) == ("length", 1)

    async def test_the_context_is_not_shifted(self, engine: real.Across) -> None:
        """A request that may be shifted ends where its context does."""
        request = say("Count to 12.", context=20, ignore_eos=True, shift=True)
        reply = await run(engine, request)
        assert reply.done is not None
        assert (reply.reason, reply.done.usage.completion_tokens) == (
            "length",
            21 - reply.done.usage.prompt_tokens,
        )


class TestConstraints:
    """Structured output."""


class TestCompany:
    """Many at once."""

    async def test_a_slow_reader_loses_nothing(
        self, engine: real.Across, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reader that is held and let go on has the whole answer in the end."""
        monkeypatch.setattr(framed, "HIGH_WATER", 64)
        request = say("Count to 30.", ignore_eos=True, max_tokens=300)
        whole = await run(engine, request)
        again = await run(engine, request)
        assert (again.text, again.reason) == (whole.text, "length")

    async def test_what_is_cancelled_is_aborted(self, running: tuple[str, real.Across, VllmEngine]) -> None:
        """A request that is closed is vLLM's no longer: its cache is free again."""
        _, across, inner = running
        await run(across, say("Tell me a story.", ignore_eos=True, max_tokens=1500), tokens=3)
        await until(lambda: inner.stats().running == 0)
        await run(across, say("Hello", max_tokens=1))
        await until(lambda: inner.stats().kv_used < 100)


class TestLimits:
    """What does not fit."""


# Without those that also ask a model for text for embeddings, which vLLM does not make beside text.
adopt(TestOpenAi, openai_engine, without=("test_embeddings", "test_too_long"))
adopt(TestOllama, ollama_engine)
adopt(
    TestOllamaClient,
    ollama_client,
    without=(
        "test_embeddings_have_one_dimension",
        "test_the_asynchronous_client_is_answered_too",
        "test_models_are_listed_shown_and_running",
    ),
)
adopt(
    TestAnswers,
    test_answers,
    without=(
        "test_embeddings",
        "test_long_embeddings",
        "test_embeddings_beside_a_stream",
        "test_overflow",
        "test_shift",
    ),
)
adopt(TestConstraints, test_constraints)
# Those that start an engine of their own are about llama.cpp's slots, one about the size of its steps.
adopt(
    TestCompany,
    test_company,
    without=(
        "test_a_long_prompt_holds_up_nobody",
        *(
            name
            for name, test in vars(test_company).items()
            if name.startswith("test_") and "engine" not in inspect.signature(test).parameters
        ),
    ),
)
adopt(TestLimits, test_limits, without=("test_limits_of_embeddings",))


def test_the_smoke_test_holds(running: tuple[str, Any, Any]) -> None:
    """Every promise the smoke test knows is kept; embeddings, which this engine does not make, are skipped."""
    command = [sys.executable, "-m", "akashllm", "smoke-test", running[0], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    checks = json.loads(done.stdout)["results"]
    assert (done.returncode, [one for one in checks if one["verdict"] == "broken"]) == (0, [])
    held = {one["name"] for one in checks if one["verdict"] == "pass"}
    assert {"chat", "stream", "json-schema", "tool-call", "seed", "usage", "overlong-prompt"} <= held
    assert {one["verdict"] for one in checks if one["name"] == "embeddings"} == {"skipped"}


async def test_greedy_answers_are_those_of_llama_cpp(engine: real.Across, made: files.Files) -> None:
    """Both engines give the same tokens, text, calls and reasons for the same numbers in float32."""
    asked = prompts.requests()
    assert len(asked) >= 50
    llama = LlamaCppEngine(made.gguf, name="tiny:latest", slots=1)
    try:
        await llama.load()
        for request in asked:
            theirs, ours = await run(llama, request), await run(engine, request)
            assert _heard(ours) == _heard(theirs)
    finally:
        await llama.close()


def _heard(reply: Reply) -> tuple[Any, ...]:
    """Everything two engines can have in common about an answer."""
    assert reply.done is not None
    calls = [(call.name, call.arguments) for call in reply.calls]
    usage = reply.done.usage
    counts = (usage.prompt_tokens, usage.completion_tokens)
    return reply.done.context, reply.text, reply.thinking, calls, reply.reason, counts


class TestOthers:
    """vLLM's own renderer and parsers, and an adapter, over an engine of their own."""

    @pytest.fixture(scope="session")
    @staticmethod
    def other(made: files.Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Across]:
        """An engine that leaves chats to vLLM and has the adapter `noise`."""
        python = interpreter()
        assert python is not None
        adapter = files.make_adapter(tmp_path_factory.mktemp("lora") / "noise")
        engine = real.engine(
            made.folder,
            python,
            chats="vllm",
            tool_parser="hermes",
            reasoning_parser="qwen3",
            adapters={"noise:latest": str(adapter)},
        )
        settings = Settings(lora=(("noise:latest", str(adapter)),), log_level="error")
        with real.serving(engine, settings) as (_, loop):
            asyncio.run_coroutine_threadsafe(engine.load(), loop).result(240)
            yield real.Across(engine, loop)

    async def test_prompts_are_the_same(self, engine: real.Across, other: real.Across) -> None:
        """VLLM's renderer makes the same tokens of the same messages as this service does."""
        chats = [one for one in prompts.requests() if isinstance(one.prompt, ChatPrompt)]
        for request in chats:
            short = msgspec.structs.replace(request, max_tokens=1)
            ours, theirs = await run(engine, short), await run(other, short)
            assert _heard(ours)[0] == _heard(theirs)[0]

    async def test_vllm_reads_thinking_and_calls(self, other: real.Across) -> None:
        """Its parsers, named by the settings, tell thinking, calls and text apart."""
        thought = await run(other, say("What is 7+8?", prompt={"think": True}))
        assert (thought.thinking.strip()[:15], thought.text.strip()) == ("The user asks: ", "7 + 8 = 15")
        called = await run(
            other, say("What is the weather in Rome?", prompt={"tools": (prompts.WEATHER,), "think": False})
        )
        assert [(call.name, call.arguments) for call in called.calls] == [("get_weather", '{"city": "Rome"}')]
        assert called.reason == "tool_calls"

    async def test_a_forced_call_is_read_by_this_service(self, other: real.Across) -> None:
        """What `tool_choice` forces was shaped by this service's idea of the format, which reads it too."""
        named = ToolChoice(mode="named", name="get_weather")
        reply = await run(other, say("Hello", prompt={"tools": (prompts.WEATHER,), "tool_choice": named}))
        assert [call.name for call in reply.calls] == ["get_weather"]

    async def test_an_adapter_answers_under_its_name(self, other: real.Across) -> None:
        """The adapter's name gets another answer than the model's, and the model's is as it was."""
        plain = await run(other, text("The capital of Japan is", max_tokens=12))
        request = msgspec.structs.replace(text("The capital of Japan is", max_tokens=12), model="noise:latest")
        noisy = await run(other, request)
        assert noisy.text != plain.text
        assert (await run(other, text("The capital of Japan is", max_tokens=12))).text == plain.text


class TestEmbeddings:
    """A model for text, started to make embeddings."""

    @pytest.fixture(scope="session")
    @staticmethod
    def embedder(made: files.Files) -> Iterator[tuple[str, real.Across]]:
        """The engine."""
        python = interpreter()
        assert python is not None
        engine = real.engine(made.folder, python, task="embed")
        with real.serving(engine, Settings(log_level="error")) as (url, loop):
            asyncio.run_coroutine_threadsafe(engine.load(), loop).result(240)
            yield url, real.Across(engine, loop)

    def test_openai(self, embedder: tuple[str, real.Across]) -> None:
        """Vectors of length one, the same for the same text, one an input, cut to the dimensions asked."""
        with openai.OpenAI(base_url=f"{embedder[0]}/v1", api_key="none", max_retries=0) as client:
            found = client.embeddings.create(model="tiny", input=["a llama", "a galaxy", "a llama"])
            short = client.embeddings.create(model="tiny", input="a llama", dimensions=16)
        first, second, third = (item.embedding for item in found.data)
        assert math.isclose(math.hypot(*first), 1, rel_tol=1e-5)
        assert first == pytest.approx(third, abs=1e-6)
        assert first != second
        assert len(short.data[0].embedding) == 16
        assert found.usage.prompt_tokens > 3

    async def test_limits(self, embedder: tuple[str, real.Across]) -> None:
        """An input that is too long is cut, or refused where it may not be; text is not for this engine."""
        engine = embedder[1]
        long = ("word " * 4000,)
        assert (await engine.embed(Embedding(id="a", model="tiny", inputs=long))).prompt_tokens == 2048
        with pytest.raises(ContextOverflow):
            await engine.embed(Embedding(id="b", model="tiny", inputs=long, truncate=False))
        with pytest.raises(BadRequest, match="inputs"):
            await engine.embed(Embedding(id="c", model="tiny", inputs=()))
        with pytest.raises(Unsupported, match="does not generate text"):
            await run(engine, say("Hello"))
