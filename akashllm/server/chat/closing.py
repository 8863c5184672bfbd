"""Schemas as their authors mean them: an object has the properties it lists.

JSON Schema allows any others beside them, and a model that may invent keys does. llama.cpp, and so Ollama,
takes a missing `additionalProperties` for false (llama.cpp, grammars/README.md, "JSON Schemas -> GBNF"); so do
we.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_SAID: Final = ("additionalProperties", "unevaluatedProperties", "patternProperties")
"""Keywords by which a schema says itself what else an object may have."""
_LISTS: Final = ("allOf", "anyOf", "oneOf")
_JOINED: Final = (*_LISTS, "$ref", "if", "dependentSchemas")
_DEFINITIONS: Final = ("$defs", "definitions")
_NAMED: Final = ("properties", "patternProperties", *_DEFINITIONS)
_SINGLE: Final = ("items", "contains", "additionalProperties", "additionalItems", "unevaluatedProperties")

Schema = Mapping[str, Any]
Place = tuple[str, str | int | None]
"""A keyword, and what is under it: a name, an index, or the schema itself."""


def closed(schema: Schema) -> dict[str, Any]:
    """`schema` with `additionalProperties: false` wherever it is left out beside `properties`.

    Schemas that describe one object together (`allOf`, or `anyOf` beside `properties`) stay open, and so do the
    definitions they refer to: each knows only a part of the properties.
    """
    definitions = {
        f"#/{word}/{name}": inner
        for word in _DEFINITIONS
        if isinstance(schema.get(word), dict)
        for name, inner in schema[word].items()
        if isinstance(inner, dict)
    }
    waiting = list(_shared(schema, alone=True))
    parts: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in definitions:
            return dict(schema)
        if name not in parts:
            parts.add(name)
            waiting += _shared(definitions[name], alone=False)
    return _close(schema, alone=True, parts=parts)


def _close(schema: Schema, *, alone: bool, parts: set[str] | None = None) -> dict[str, Any]:
    """`alone`: no other schema describes the same value. `parts`: definitions for which that does not hold."""
    result = dict(schema)
    for (word, place), inner, inner_alone in _inner(schema, alone=alone):
        part = parts is not None and word in _DEFINITIONS and f"#/{word}/{place}" in parts
        value = _close(inner, alone=inner_alone and not part)
        if place is None:
            result[word] = value
            continue
        if result[word] is schema[word]:
            result[word] = schema[word].copy()
        result[word][place] = value
    if alone and isinstance(schema.get("properties"), dict) and not _has(schema, *_SAID, *_JOINED):
        result["additionalProperties"] = False
    return result


def _shared(schema: Schema, *, alone: bool) -> Iterator[str]:
    """What is referred to beside another schema for the same value."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and not (alone and not _has(schema, "properties", *_LISTS)):
        yield reference
    for _, inner, inner_alone in _inner(schema, alone=alone):
        yield from _shared(inner, alone=inner_alone)


def _inner(schema: Schema, *, alone: bool) -> Iterator[tuple[Place, Schema, bool]]:
    """The schemas within `schema`, and whether each alone describes its value.

    What stands under `not` and `if` tests a value instead of making one, and is left as it is.
    """
    for word in _SINGLE:
        if isinstance(schema.get(word), dict):
            yield (word, None), schema[word], True
    for word in ("then", "else"):
        if isinstance(schema.get(word), dict):
            yield (word, None), schema[word], False
    for word in _NAMED:
        if isinstance(schema.get(word), dict):
            for name, inner in schema[word].items():
                if isinstance(inner, dict):
                    yield (word, name), inner, True
    lists = [word for word in _LISTS if isinstance(schema.get(word), list)]
    only = alone and len(lists) == 1 and not _has(schema, "properties", "$ref", "if")
    for word in ("prefixItems", *lists):
        several = schema.get(word)
        if isinstance(several, list):
            lone = word == "prefixItems" or (only and (word != "allOf" or len(several) == 1))
            for place, inner in enumerate(several):
                if isinstance(inner, dict):
                    yield (word, place), inner, lone


def _has(schema: Schema, *words: str) -> bool:
    return any(word in schema for word in words)
