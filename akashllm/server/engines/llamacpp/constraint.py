"""Structured output: grammars, schemas and expressions through llguidance, within bounds.

llama.cpp's own grammar sampler is never used: it aborts, hangs or recurses to death on input a client can send.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from threading import Lock
from typing import Any

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark
from llguidance.llamacpp import lltokenizer_from_vocab

from akashllm.errors import BadRequest
from akashllm.server.chat.closing import closed
from akashllm.server.domain import Constraint
from akashllm.server.engines.llamacpp.sampling import Row
from akashllm.server.engines.llamacpp.vocabulary import Vocabulary

MAX_DEPTH = 64
MAX_SIZE = 256 * 1024
"""Bytes of a schema, grammar or expression."""

_CACHED = 32

_JSON_OPTIONS = {"whitespace_pattern": r"[ \t\n]{0,24}"}
"""White space between JSON tokens has an end: a model that likes it would otherwise never come to the point."""


class Guide:
    """The state of one choice within a constraint."""

    __slots__ = ("_mask", "_matcher", "_size")

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher = matcher
        self._size = size

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; far cheaper than the whole mask."""
        return bool(self._matcher.validate_tokens([token]))

    def restrict(self, row: Row) -> None:
        """Make everything that may not come next impossible, in place."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        row[: self._size][bits[: self._size] == 0] = -np.inf
        row[self._size :] = -np.inf

    def take(self, token: int) -> None:
        """Go on with `token`. Raises `BadRequest` if the constraint has become too complex to follow."""
        if not self._matcher.consume_token(token):
            message = f"the constraint cannot be followed any further: {_brief(self._matcher.get_error())}"
            raise BadRequest(message, param="constraint")


class Constraints:
    """Compiles `checked` constraints for one vocabulary; the last ones are kept."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def warm(self) -> LLTokenizer:
        """Build the token trie, which takes a second for a large vocabulary."""
        with self._lock:
            if self._tokenizer is None:
                ends = sorted(self._vocabulary.ends)
                self._tokenizer = lltokenizer_from_vocab(self._vocabulary.raw, eos_token=ends or None)
            return self._tokenizer

    def compile(self, constraint: Constraint) -> LLMatcher:
        """A matcher at its beginning, to be copied for each choice. Raises `BadRequest`."""
        tokenizer = self.warm()
        with self._lock:
            found = self._compiled.get(constraint)
            if found is not None:
                self._compiled.move_to_end(constraint)
                return found
        matcher = LLMatcher(
            tokenizer, _grammar(constraint), log_level=0, limits=LLParserLimits(verbose_errors=False)
        )
        if matcher.is_error():
            message = f"the constraint cannot be used: {_brief(matcher.get_error())}"
            raise BadRequest(message, hint="simplify the schema or grammar", param="constraint")
        with self._lock:
            self._compiled[constraint] = matcher
            while len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return matcher

    def guide(self, matcher: LLMatcher) -> Guide:
        """A guide for one choice."""
        return Guide(matcher.deep_copy(), self._vocabulary.size)


def checked(constraint: Constraint) -> Constraint:
    """The constraint as a schema with bounded white space, in Lark, or a regex. Raises `BadRequest`."""
    value = constraint.value
    _check_size(value)
    match constraint.kind:
        case "json_object":
            return Constraint(kind="json_schema", value=_checked_schema('{"type":"object"}'))
        case "json_schema":
            return Constraint(kind="json_schema", value=_checked_schema(value))
        case "gbnf":
            return Constraint(kind="lark", value=_lark(value))
        case "lark" | "regex":
            return constraint


def _lark(gbnf: str) -> str:
    _check_brackets(gbnf)
    try:
        return gbnf_to_lark(gbnf)
    except Exception as error:
        # The converter has its own exceptions and lets others through.
        message = f"the grammar cannot be used: {_brief(str(error))}"
        raise BadRequest(message, hint="check its syntax", param="constraint") from error


def _grammar(constraint: Constraint) -> str:
    if constraint.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(constraint.value)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    return LLMatcher.grammar_from_lark(constraint.value)


def _check_size(value: str) -> None:
    if len(value.encode("utf-8", "replace")) > MAX_SIZE:
        message = f"the constraint is longer than {MAX_SIZE} bytes"
        raise BadRequest(message, param="constraint")


def _checked_schema(text: str) -> str:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the JSON Schema is not JSON: {_brief(str(error))}"
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
            return json.dumps({**closed(schema), "x-guidance": _JSON_OPTIONS})
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


def _brief(text: str) -> str:
    """The first line of an error, without the dump of the grammar that follows."""
    line = text.strip().splitlines()[0] if text.strip() else "unknown error"
    return line[:300]
