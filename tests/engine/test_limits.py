"""Requests beyond a limit are refused by name, and hostile ones leave the engine as it was."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from akashllm.errors import BadRequest
from akashllm.server.domain import Constraint, Embedding, Message, Sampling, TokenPrompt
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from tests.engine.ask import ask, chat, run, say, text


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("n", {"n": 0}),
        ("n", {"n": 1_000_000}),
        ("stop", {"stop": ("x",) * 10_000}),
        ("stop", {"stop": ("x" * 1_000_000,)}),
        ("logprobs", {"logprobs": 1_000_000}),
        ("logprobs", {"prompt_logprobs": -1}),
        ("max_tokens", {"max_tokens": -1}),
        ("logit_bias", {"sampling": Sampling(logit_bias={5000: 1.0})}),
        ("logit_bias", {"sampling": Sampling(logit_bias={-1: 1.0})}),
        ("logit_bias", {"sampling": Sampling(logit_bias=dict.fromkeys(range(10_000), 1.0))}),
    ],
)
async def test_limits_have_names(engine: LlamaCppEngine, param: str, options: dict[str, Any]) -> None:
    """Each limit has its own error, which names the parameter."""
    with pytest.raises(BadRequest) as caught:
        await run(engine, say("Hello!", **options))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "request_",
    [
        text("\0\ud800\uffff" * 10, max_tokens=3),
        text("<|im_start|>" * 500, max_tokens=3),
        text("a" * 100_000, max_tokens=3),
        ask(TokenPrompt(tokens=()), max_tokens=3),
        ask(TokenPrompt(tokens=(1947, 1948, 1949, 0)), max_tokens=3),
        chat(Message(role="no such role", content="x"), max_tokens=3),
        chat(*(Message(role="user", content="x") for _ in range(3000)), max_tokens=3),
        say("x" * 500, max_tokens=3, stop=("",)),
        say("x", max_tokens=3, sampling=Sampling(temperature=float("nan"))),
        say("x", max_tokens=3, sampling=Sampling(temperature=float("inf"), top_p=float("nan"))),
        say("x", max_tokens=3, sampling=Sampling(repeat_last_n=2_000_000_000, repeat_penalty=1.1)),
        say("x", max_tokens=3, sampling=Sampling(repeat_penalty=0.0)),
        say("x", max_tokens=3, sampling=Sampling(logit_bias=dict.fromkeys(range(1957), -1e30))),
        say("x", max_tokens=3, sampling=Sampling(seed=1 << 63)),
        say("x", max_tokens=3, sampling=Sampling(seed=-(1 << 90))),
        say("\ud83d", max_tokens=3),
        ask(TokenPrompt(tokens=(1 << 70,)), max_tokens=3),
        say("x", max_tokens=1 << 60, context=1 << 60, stop=("e",)),
        say("x", max_tokens=60, context=-5, shift=True, num_keep=1 << 30),
        say("x", max_tokens=3, constraint=Constraint(kind="regex", value="")),
    ],
    ids=range(20),
)
async def test_hostile_requests(engine: LlamaCppEngine, request_: Any) -> None:
    """Whatever is asked, there is an answer or a reason, and the child is the same as before."""
    pid = engine.pid
    with contextlib.suppress(BadRequest):
        await run(engine, request_)
    assert (await run(engine, say("What is 7+8?"))).text == "7 + 8 = 15"
    assert engine.pid == pid


@pytest.mark.parametrize("inputs", [(), ("x",) * 10_000])
async def test_limits_of_embeddings(engine: LlamaCppEngine, inputs: tuple[str, ...]) -> None:
    """So have embeddings."""
    with pytest.raises(BadRequest) as caught:
        await engine.embed(Embedding(id="e", model="tiny", inputs=inputs))
    assert caught.value.param == "input"
    with pytest.raises(BadRequest) as caught:
        await engine.embed(Embedding(id="e", model="tiny", inputs=("x",), dimensions=100_000))
    assert caught.value.param == "dimensions"
