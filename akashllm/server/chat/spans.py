"""Calls that are not JSON: XML-like tags, and Gemma's own notation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from akashllm.server.chat.pieces import CallReader, read_json
from akashllm.server.domain import ToolCall

_NAME: Final = re.compile(r"[\w.\-]{1,128}")
_GEMMA: Final = re.compile(
    r"<\|tool_call>\s*call:([\w.\-]{1,128})\s*(\{.*\})\s*(?:<tool_call\|>)?\s*", re.DOTALL
)
_GEMMA_QUOTE: Final = '<|"|>'
_GEMMA_KEY: Final = re.compile(r"([{,]\s*)([A-Za-z_][\w\-]*)\s*:")

ReadSpan = Callable[[str, CallReader], list[ToolCall] | None]


def tagged(outer: str, call: str, parameter: str) -> ReadSpan:
    """A reader of `<OUTER><CALL NAME><PARAMETER KEY>value</PARAMETER></CALL></OUTER>`, the outer tag optional.

    `call` and `parameter` are what stands before a name: `<function=`, or `<invoke name="`, whose names are
    followed by `">` instead of `>`. A value is text where the tool's schema says string, else JSON.
    """
    name_end = '">' if call.endswith('"') else ">"
    call_close, parameter_close = (f"</{re.split('[ =]', tag[1:])[0]}>" for tag in (call, parameter))

    def read(text: str, reader: CallReader) -> list[ToolCall] | None:
        head, *blocks = text.split(call)
        if not blocks:
            return _json_instead(head, reader)
        if head.strip() not in {"", f"<{outer}>"}:
            return None
        calls = [_block(block, reader) for block in blocks]
        found = [one for one in calls if one is not None]
        return found if len(found) == len(calls) else None

    def _block(block: str, reader: CallReader) -> ToolCall | None:
        name, _, rest = block.partition(name_end)
        body, _, after = rest.partition(call_close)
        before, *parts = body.partition(f"</{outer}>")[0].split(parameter)
        if before.strip() or after.strip() not in {"", f"</{outer}>"}:
            return None
        arguments: dict[str, Any] = {}
        for part in parts:
            key, found, rest = part.partition(name_end)
            value, _, after = rest.partition(parameter_close)
            if not found or after.strip():
                return None
            arguments[key] = _value(_one_line_break_off(value), name, key, reader)
        return reader.call(name, arguments)

    return read


def _json_instead(text: str, reader: CallReader) -> list[ToolCall] | None:
    """Models of these families fall back to JSON between the outer markers."""
    start, end = text.find("{"), text.rfind("}")
    return reader.calls(read_json(text[start : end + 1])) if 0 <= start < end else None


def read_glm(text: str, reader: CallReader) -> list[ToolCall] | None:
    """`<tool_call>NAME`, then `<arg_key>KEY</arg_key>`, `<arg_value>VALUE</arg_value>` ... `</tool_call>`."""
    head, *parts = text.removeprefix("<tool_call>").removesuffix("</tool_call>").split("<arg_key>")
    name = head.strip()
    if not _NAME.fullmatch(name):
        return _json_instead(head, reader)
    arguments: dict[str, Any] = {}
    for part in parts:
        key, found, rest = part.partition("</arg_key>")
        before, _, rest = rest.partition("<arg_value>")
        value, _, after = rest.partition("</arg_value>")
        if not found or before.strip() or after.strip():
            return None
        arguments[key.strip()] = _value(value, name, key.strip(), reader)
    call = reader.call(name, arguments)
    return [call] if call else None


def read_gemma(text: str, reader: CallReader) -> list[ToolCall] | None:
    """`<|tool_call>call:NAME{key:<|"|>text<|"|>,other:1}<tool_call|>`: JSON with bare keys, its own quotes."""
    found = _GEMMA.fullmatch(text)
    if found is None:
        return None
    parts = found[2].split(_GEMMA_QUOTE)
    parts[::2] = [_GEMMA_KEY.sub(r'\1"\2":', part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    call = reader.call(found[1], read_json("".join(parts)))
    return [call] if call else None


def _one_line_break_off(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def _value(text: str, name: str, key: str, reader: CallReader) -> Any:
    types = _types(name, key, reader)
    if types == {"string"}:
        return text
    value = read_json(text)
    if value is None and text.strip() != "null":
        return text
    if "string" in types and not (types & _json_types(value)):
        return text
    return value


def _types(name: str, key: str, reader: CallReader) -> set[str]:
    tool = reader.tools.get(name)
    properties = tool.parameters.get("properties") if tool else None
    schema = properties.get(key) if isinstance(properties, dict) else None
    if not isinstance(schema, dict):
        return set()
    if all(isinstance(item, str) for item in schema.get("enum", [0])):
        return {"string"}
    kind = schema.get("type")
    return {kind} if isinstance(kind, str) else {one for one in kind or () if isinstance(one, str)}


def _json_types(value: object) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"}
    return {"array"} if isinstance(value, list) else {"object"} if isinstance(value, dict) else {"null"}
