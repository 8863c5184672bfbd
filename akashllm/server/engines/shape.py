"""What may become a constraint: bounded in size and depth, in one of the three forms llguidance compiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from llguidance import LLMatcher

from akashllm.errors import BadRequest
from akashllm.server.chat.closing import closed
from akashllm.server.domain import Constraint
from akashllm.server.engines.trial import brief

MAX_DEPTH = 64
MAX_SIZE = 256 * 1024
"""Bytes of a schema, grammar or expression."""

SPACE = r"[ \t\n]{0,24}"
BOUNDED: Mapping[str, Any] = {"whitespace_pattern": SPACE}
"""White space between JSON tokens has an end: a model that likes it would otherwise never come to the point."""


def checked(
    constraint: Constraint, lark: Callable[[str], str], options: Mapping[str, Any] = BOUNDED
) -> Constraint:
    """The constraint as a schema with llguidance's `options`, in Lark, or a regex. Raises `BadRequest`.

    `lark` turns GBNF into Lark.
    """
    value = constraint.value
    _check_size(value)
    match constraint.kind:
        case "json_object":
            return Constraint(kind="json_schema", value=_checked_schema('{"type":"object"}', options))
        case "json_schema":
            return Constraint(kind="json_schema", value=_checked_schema(value, options))
        case "gbnf":
            _check_brackets(value)
            return Constraint(kind="lark", value=lark(value))
        case "lark" | "regex":
            return constraint


def grammar(constraint: Constraint) -> str:
    """A `checked` constraint in llguidance's own form."""
    if constraint.kind == "json_schema":
        return str(LLMatcher.grammar_from_json_schema(constraint.value))
    if constraint.kind == "regex":
        return str(LLMatcher.grammar_from_regex(constraint.value))
    return str(LLMatcher.grammar_from_lark(constraint.value))


def _check_size(value: str) -> None:
    if len(value.encode("utf-8", "replace")) > MAX_SIZE:
        message = f"the constraint is longer than {MAX_SIZE} bytes"
        raise BadRequest(message, param="constraint")


def _checked_schema(text: str, options: Mapping[str, Any]) -> str:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the JSON Schema is not JSON: {brief(str(error))}"
        raise BadRequest(message, param="constraint") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise BadRequest("a JSON Schema is an object", param="constraint")
    level: list[Any] = [schema]
    for _ in range(2 * MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                reference = value.get("$ref")
                if isinstance(reference, str) and not reference.startswith("#"):
                    raise BadRequest(
                        "a JSON Schema may only refer to itself ($ref beginning with #)", param="constraint"
                    )
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return json.dumps({**closed(schema), "x-guidance": options})
    message = f"the JSON Schema is nested deeper than {MAX_DEPTH} levels"
    raise BadRequest(message, param="constraint")


def _check_brackets(grammar: str) -> None:
    depth = 0
    for character in grammar:
        if character in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                message = f"the grammar is nested deeper than {MAX_DEPTH} levels"
                raise BadRequest(message, param="constraint")
        elif character in ")]}":
            depth -= 1
