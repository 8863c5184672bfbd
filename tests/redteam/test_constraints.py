"""Schemas and grammars that are meant to kill, hang or fill the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.redteam.conftest import Victim


def chain(length: int, link: Callable[[dict[str, str]], dict[str, Any]]) -> dict[str, Any]:
    """Definitions each of which refers to the next."""
    names = [f"#/$defs/a{place}" for place in range(length + 1)]
    defs: dict[str, Any] = {f"a{place}": link({"$ref": names[place + 1]}) for place in range(length)}
    return {"$defs": defs | {f"a{length}": {"type": "integer"}}, "$ref": names[0]}


def multiples(*numbers: int) -> dict[str, Any]:
    """A number that is a multiple of all."""
    return {"allOf": [{"type": "integer", "multipleOf": number} for number in numbers]}


ENDLESS = multiples(999983, 999979, 999961, 999959, 999953)
SCHEMAS = {
    "a chain of 5000 references": chain(5000, lambda ref: ref),
    "a chain of 2000 intersections": chain(2000, lambda ref: {"allOf": [ref, {"minimum": 1}]}),
    "multiples of large primes": ENDLESS,
    "8000 optional properties": {
        "type": "object",
        "properties": {f"k{place}": {"type": "string"} for place in range(8000)},
    },
}
GRAMMARS = {
    "a chain of 5000 rules": "".join(f"r{n} ::= r{n + 1}\n" for n in range(5000))
    + 'r5000 ::= "a"\nroot ::= r0',
    "a text of 2**24 letters": "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(24))
    + 'r24 ::= "a"\nroot ::= r0',
    "50,000 parentheses": "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000,
}


def shaped(schema: dict[str, Any]) -> dict[str, Any]:
    """The parameter that asks for a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_deadly_schema_is_refused(victim: Victim, name: str) -> None:
    """What would overflow a stack, fill the memory or never end is a 400 in both dialects."""
    answer = victim.ask(**shaped(SCHEMAS[name]))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"
    body = {"model": "tiny", "prompt": "Hi", "stream": False, "format": SCHEMAS[name]}
    answer = victim.http.post("/api/generate", json=body)
    assert answer.status_code == 400
    assert "constraint" in answer.json()["error"]


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_deadly_grammar_is_refused(victim: Victim, name: str) -> None:
    """The same for llama.cpp's notation."""
    answer = victim.ask(grammar=GRAMMARS[name])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "grammar"


def test_a_deadly_tool_is_refused(victim: Victim) -> None:
    """The parameters of a tool that has to be called are a schema like any other."""
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMAS["a chain of 5000 references"]}}
    assert victim.ask(tools=[tool], tool_choice="required").status_code == 400


def test_others_do_not_wait_for_a_constraint(victim: Victim) -> None:
    """A plain request is answered while constraints that will never compile are being tried."""
    with ThreadPoolExecutor(3) as pool:
        attacks = [
            pool.submit(victim.ask, **shaped(ENDLESS | {"description": f"attack {place}"}))
            for place in range(3)
        ]
        assert victim.ask(temperature=0).json()["choices"][0]["message"]["content"] == "7 + 8 = 15"
        assert not all(attack.done() for attack in attacks)
        # On a busy machine the last one has waited for so long that its status went out with a keep-alive byte.
        assert {attack.result().json()["error"]["param"] for attack in attacks} == {"response_format"}


def test_a_constraint_that_is_slow_to_follow_ends_or_is_given_up(victim: Victim) -> None:
    """A text of 250,000 letters that has to come as it is costs its own request, nobody else's."""
    answer = victim.ask(**shaped({"const": "x" * 250_000}), max_tokens=30)
    assert answer.status_code in {200, 400}


def test_a_good_schema_is_obeyed_afterwards(victim: Victim) -> None:
    """The process that tries constraints is replaced when one has killed it."""
    victim.ask(**shaped(chain(5001, lambda ref: ref)))
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    answer = victim.ask(**shaped(schema), temperature=0, max_tokens=60)
    assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"])["sum"], int)
