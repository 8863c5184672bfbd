"""Structured output: the shape that was asked for, and what cannot be asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time

import jsonschema
import pytest

from akashllm.errors import BadRequest
from akashllm.server.domain import Constraint, Delta, Sampling
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from tests.engine.ask import run, say

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
WARM = Sampling(temperature=1.5, seed=11)


def schema(value: object) -> Constraint:
    """A constraint to a JSON Schema."""
    return Constraint(kind="json_schema", value=json.dumps(value))


@pytest.mark.parametrize("seed", range(4))
async def test_schema(engine: LlamaCppEngine, seed: int) -> None:
    """A schema is obeyed however hot the model is."""
    request = say(
        "Tell me a story.",
        constraint=schema(PERSON),
        sampling=Sampling(temperature=1.5, seed=seed),
        max_tokens=300,
    )
    reply = await run(engine, request)
    assert reply.reason == "stop"
    jsonschema.validate(json.loads(reply.text), PERSON)


async def test_schema_with_choices(engine: LlamaCppEngine) -> None:
    """Each of several choices obeys on its own."""
    reply = await run(engine, say("Hi", constraint=schema(PERSON), sampling=WARM, n=3, max_tokens=300))
    for index in range(3):
        jsonschema.validate(json.loads(reply.texts[index]), PERSON)


async def test_json_object(engine: LlamaCppEngine) -> None:
    """JSON mode gives an object."""
    question = "Li Hua is 33 years old and lives in Paris. Respond using JSON."
    reply = await run(engine, say(question, constraint=Constraint(kind="json_object"), max_tokens=100))
    assert json.loads(reply.text) == {"name": "Li Hua", "age": 33, "city": "Paris"}


@pytest.mark.parametrize("pattern", ["[0-9]{4}-[0-9]{2}-[0-9]{2}", "(yes|no)", "[a-z]{5,9}!"])
async def test_regex(engine: LlamaCppEngine, pattern: str) -> None:
    """A regular expression is matched to its end."""
    reply = await run(engine, say("When?", constraint=Constraint(kind="regex", value=pattern), sampling=WARM))
    assert re.fullmatch(pattern, reply.text)


async def test_gbnf(engine: LlamaCppEngine) -> None:
    """A grammar in llama.cpp's notation is obeyed."""
    grammar = 'root ::= item (", " item)* "."\nitem ::= "ab" | "cd" [0-9]\n'
    reply = await run(
        engine, say("List.", constraint=Constraint(kind="gbnf", value=grammar), sampling=WARM, max_tokens=60)
    )
    if reply.reason == "stop":
        assert re.fullmatch(r"(ab|cd[0-9])(, (ab|cd[0-9]))*\.", reply.text)
    else:
        assert re.match(r"(ab|cd[0-9])(, (ab|cd[0-9]))*", reply.text)


async def test_lark(engine: LlamaCppEngine) -> None:
    """A grammar in Lark is obeyed."""
    constraint = Constraint(kind="lark", value='start: "say " WORD\nWORD: /[a-z]{3}/')
    assert re.fullmatch("say [a-z]{3}", (await run(engine, say("Say.", constraint=constraint))).text)


async def test_constraint_with_thinking(engine: LlamaCppEngine) -> None:
    """With thinking on, the model thinks freely and answers in shape."""
    request = say("What is 7+8?", prompt={"think": True}, constraint=schema(PERSON), max_tokens=300)
    reply = await run(engine, request)
    assert reply.thinking
    jsonschema.validate(json.loads(reply.text), PERSON)


async def test_ignored_end_under_constraint(engine: LlamaCppEngine) -> None:
    """Where nothing can follow, an answer ends even if it may not."""
    constraint = Constraint(kind="regex", value="(yes|no)")
    reply = await run(engine, say("Is it?", constraint=constraint, ignore_eos=True, max_tokens=20))
    assert reply.text in {"yes", "no"}


DEEP = '{"a":' * 1000 + "1" + "}" * 1000


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(kind="json_schema", value="{"),
        Constraint(kind="json_schema", value="[" * 100_000),
        Constraint(kind="json_schema", value=DEEP),
        Constraint(kind="json_schema", value='{"$ref": "http://127.0.0.1:1/x"}'),
        Constraint(kind="json_schema", value='{"$ref": "file:///etc/passwd"}'),
        Constraint(kind="json_schema", value='{"$ref": "#/nowhere"}'),
        Constraint(kind="json_schema", value='{"type": "nonsense"}'),
        Constraint(kind="json_schema", value="7"),
        Constraint(kind="json_schema", value='{"type": "object", "x": "' + "y" * 300_000 + '"}'),
        Constraint(kind="regex", value="("),
        Constraint(kind="regex", value="(?P>name)"),
        Constraint(kind="regex", value="a" * 1_000_000),
        Constraint(kind="gbnf", value="root ::= ("),
        Constraint(kind="gbnf", value="root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000),
        Constraint(kind="gbnf", value="root ::= nowhere"),
        Constraint(kind="gbnf", value='root ::= "\\'),
        Constraint(kind="gbnf", value=""),
        Constraint(kind="lark", value="nonsense {{{"),
        Constraint(kind="lark", value="start: " + "(" * 5000 + '"a"' + ")" * 5000),
    ],
    ids=lambda constraint: f"{constraint.kind}:{constraint.value[:24]}",
)
async def test_impossible_constraints(engine: LlamaCppEngine, constraint: Constraint) -> None:
    """What cannot be a constraint is refused, quickly, and the engine is as it was."""
    pid = engine.pid
    began = time.monotonic()
    with pytest.raises(BadRequest) as caught:
        await run(engine, say("Hello!", constraint=constraint, max_tokens=5))
    assert time.monotonic() - began < 5
    assert caught.value.param == "constraint"
    assert len(str(caught.value)) < 600
    assert engine.pid == pid


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint(kind="regex", value="(a+)+$"),
        Constraint(kind="regex", value="(((a{0,500}){0,500}){0,500})"),
        Constraint(kind="json_schema", value='{"$ref": "#"}'),
        Constraint(kind="json_schema", value='{"type": "array", "minItems": 1000000000}'),
        Constraint(kind="json_schema", value='{"type": "string", "pattern": "(((a{0,500}){0,500}){0,500})"}'),
        Constraint(kind="json_schema", value='{"type": "string", "format": "regex"}'),
        schema({"enum": [f"value {number}" for number in range(10_000)]}),
        Constraint(kind="gbnf", value="root ::= root"),
        Constraint(kind="gbnf", value='root ::= root "a" | "a"'),
        Constraint(kind="gbnf", value='root ::= "a"{1000000}'),
    ],
    ids=lambda constraint: f"{constraint.kind}:{constraint.value[:24]}",
)
async def test_hard_constraints(engine: LlamaCppEngine, constraint: Constraint) -> None:
    """What is hard is followed or refused; a stream beside it goes on, and the engine is as it was."""
    pid = engine.pid

    async def attack() -> None:
        with contextlib.suppress(BadRequest):
            await run(engine, say("Hello!", constraint=constraint, max_tokens=5))

    longest = 0.0
    task = asyncio.create_task(attack())
    last = time.monotonic()
    async for event in engine.generate(say("Tell me a story.", ignore_eos=True, max_tokens=60)):
        if isinstance(event, Delta):
            longest = max(longest, time.monotonic() - last)
            last = time.monotonic()
    await task
    assert longest < 5
    assert engine.pid == pid
