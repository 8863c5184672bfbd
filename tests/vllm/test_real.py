"""vLLM itself, on a processor: the tests of the dialects and of the engines, run again over it.

All of them are in this one file, so that one worker starts one vLLM: it takes half a minute and 1.3 GB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import ollama
import openai
import pytest

from akashllm.errors import ContextOverflow
from akashllm.server.domain import TokenPrompt
from akashllm.server.engines.vllm.engine import VllmEngine
from akashllm.server.settings import Settings
from tests.engine import test_answers, test_constraints, test_limits
from tests.engine.ask import ask, run, say
from tests.ollama import test_client as ollama_client
from tests.ollama import test_engine as ollama_engine
from tests.openai import test_engine as openai_engine
from tests.vllm import files, real
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


class TestLimits:
    """What does not fit."""


# Without those that also ask a model for text for embeddings, which vLLM does not make beside text.
adopt(TestOpenAi, openai_engine, without=("test_embeddings", "test_too_long"))
adopt(TestOllama, ollama_engine)
adopt(
    TestOllamaClient,
    ollama_client,
    without=("test_embeddings_have_one_dimension", "test_the_asynchronous_client_is_answered_too"),
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
adopt(TestLimits, test_limits, without=("test_limits_of_embeddings",))
