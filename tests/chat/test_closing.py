"""Which objects of a schema are closed, and that what the schema allows can still be written."""

from __future__ import annotations

from typing import Any

import pytest

from akashllm.server.chat.closing import closed

A: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
SHUT = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, SHUT),
        ({"properties": {"x": A}, "required": ["x"]}, {"properties": {"x": SHUT}, "required": ["x"]}),
        ({"type": "array", "items": A}, {"type": "array", "items": SHUT}),
        ({"prefixItems": [A]}, {"prefixItems": [SHUT]}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}),
        ({"allOf": [A], "default": {}}, {"allOf": [SHUT], "default": {}}),
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, {"$ref": "#/$defs/A", "$defs": {"A": SHUT}}),
        (
            {"type": "object", "properties": {}},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
        ({"properties": {"properties": A}}, {"properties": {"properties": SHUT}}),
    ],
)
def test_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """An object that lists its properties has no others, wherever it is."""
    found = closed(schema)
    if "properties" in schema:
        expected = {**expected, "additionalProperties": False}
    assert found == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "integer"}},
        {**A, "patternProperties": {"^b": {"type": "string"}}},
        {**A, "unevaluatedProperties": False},
        {"allOf": [A, {"properties": {"b": {"type": "string"}}}]},
        {**A, "anyOf": [{"properties": {"b": {"type": "string"}}}]},
        {**A, "allOf": [{"$ref": "#/$defs/B"}], "$defs": {"B": {"allOf": [{"$ref": "#/$defs/C"}]}, "C": A}},
        {"not": A},
        {"enum": [A], "const": A, "default": A},
        {"allOf": [{"$ref": "#/properties/x"}, A], "properties": {"x": A}},
    ],
)
def test_open(schema: dict[str, Any]) -> None:
    """What speaks for itself, describes one object in several parts, or is data, is left as it is."""
    assert closed(schema) == schema


def test_input_is_kept() -> None:
    """The caller's schema is not changed."""
    schema = {"properties": {"x": {"properties": {}}}, "anyOf": [{"properties": {}}]}
    before = repr(schema)
    closed(schema)
    assert repr(schema) == before


def test_long_chains_are_cheap() -> None:
    """Definitions that refer to each other in a long chain are each looked at a bounded number of times."""
    size = 5000
    chain = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at - 1}"}, {}]} for at in range(1, size)}
    definitions = {**chain, "d0": A}
    found = closed({"allOf": [{"$ref": f"#/$defs/d{size - 1}"}, {}], "$defs": definitions})
    assert found["$defs"]["d0"] == A
