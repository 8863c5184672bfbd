"""Functions the model may call: `tools` and `tool_choice`, and their older forms."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import ModelInfo, Tool, ToolCall, ToolChoice
from akashllm.server.wire.openai.reading import Fields, invalid, missing, wrong_type

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
"""OpenAI's rule, with the dots, colons and length that tools from MCP servers have."""


class Tooling(msgspec.Struct, frozen=True, kw_only=True):
    """What the request says about tools. `legacy`: the older `functions` and `function_call` were used."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    legacy: bool = False


def read_tooling(body: Fields, info: ModelInfo) -> Tooling:
    """Tools and the choice among them. Where both forms are sent, the newer one counts."""
    legacy = not body.array("tools") and bool(body.array("functions"))
    tools = tuple(_functions(body)) if legacy else tuple(_tools(body))
    key = "function_call" if legacy or (not tools and body.get("tool_choice") is None) else "tool_choice"
    tools, choice = _choice(body, key, tools)
    if choice.mode == "none":
        return Tooling()
    if not tools:
        if choice.mode == "auto":
            return Tooling()
        raise invalid(key, "needs tools: send them in 'tools'")
    if info.capabilities and "tools" not in info.capabilities:
        raise Unsupported(
            "this model does not support tools", param="functions" if legacy else "tools", hint="leave them out"
        )
    return Tooling(
        tools=tools,
        choice=choice,
        parallel=body.boolean("parallel_tool_calls", default=True) and not legacy,
        legacy=legacy,
    )


def _tools(body: Fields) -> list[Tool]:
    found = []
    for fields in body.objects("tools"):
        form = fields.string("type") or "function"
        if form != "function":
            raise Unsupported(
                f"'{fields.at('type')}' must be function: other kinds of tools cannot be run here",
                param=fields.at("type"),
                code="unsupported_value",
            )
        found.append(_function(fields.required_object("function")))
    return found


def _functions(body: Fields) -> list[Tool]:
    return [_function(fields) for fields in body.objects("functions")]


def _function(fields: Fields) -> Tool:
    name = fields.required_string("name")
    if not _NAME.fullmatch(name):
        raise invalid(
            fields.at("name"), "must be 1 to 128 letters, digits, underscores, hyphens, dots or colons"
        )
    parameters = fields.object("parameters")
    schema = dict(parameters.values) if parameters is not None else {}
    try:
        msgspec.msgpack.encode(schema)
    except OverflowError as error:
        # Schemas travel to the engine's process as they are, and integers there have 64 bits.
        raise invalid(fields.at("parameters"), "has an integer of more than 64 bits") from error
    return Tool(
        name=name,
        description=fields.string("description") or "",
        parameters=schema,
        strict=fields.boolean("strict"),
    )


def _choice(body: Fields, key: str, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that remain allowed, and the mode."""
    value = body.get(key)
    if value is None:
        return tools, ToolChoice()
    if isinstance(value, str):
        match value:
            case "auto":
                return tools, ToolChoice()
            case "none":
                return tools, ToolChoice(mode="none")
            case "required":
                return tools, ToolChoice(mode="required")
        raise invalid(key, "must be auto, none, required or an object that names a function")
    if not isinstance(value, dict):
        raise wrong_type(key, "a string or an object", value)
    fields = Fields(value, key)
    if key == "function_call":
        return tools, _named(fields, tools)
    form = fields.required_string("type")
    if form == "allowed_tools":
        # The documentation nests the two fields; the first release of the API had them beside `type`.
        allowed = fields.object("allowed_tools") or fields
        names = {_allowed_name(entry) for entry in allowed.objects("tools")}
        absent = names - {tool.name for tool in tools}
        if absent:
            raise invalid(allowed.at("tools"), f"names {min(absent)!r}, which is not among 'tools'")
        mode = allowed.choice("mode", ("auto", "required")) or "auto"
        kept = tuple(tool for tool in tools if tool.name in names)
        return kept, ToolChoice(mode="required" if mode == "required" else "auto")
    if form != "function":
        raise invalid(fields.at("type"), "must be function or allowed_tools", code="unsupported_value")
    return tools, _named(fields.required_object("function"), tools)


def _allowed_name(entry: Fields) -> str:
    return (entry.object("function") or entry).required_string("name")


def _named(fields: Fields, tools: tuple[Tool, ...]) -> ToolChoice:
    name = fields.required_string("name")
    if name not in {tool.name for tool in tools}:
        raise invalid(fields.at("name"), f"is {name[:128]!r}, which is not among the tools of this request")
    return ToolChoice(mode="named", name=name)


def read_calls(message: Fields) -> tuple[ToolCall, ...]:
    """The calls an assistant message made, in either form."""
    calls = []
    for fields in message.objects("tool_calls"):
        function = fields.required_object("function")
        calls.append(
            ToolCall(
                id=fields.string("id") or "",
                name=function.required_string("name"),
                arguments=_arguments(function),
            )
        )
    older = message.object("function_call")
    if older is not None:
        calls.append(ToolCall(id="", name=older.required_string("name"), arguments=_arguments(older)))
    return tuple(calls)


def _arguments(function: Fields) -> str:
    """JSON text of an object. Some clients send the object itself; no text at all means no arguments."""
    value: Any = function.get("arguments")
    if value is None:
        raise missing(function.at("arguments"))
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    if not isinstance(value, str):
        raise wrong_type(function.at("arguments"), "a string of JSON", value)
    if not value.strip():
        return "{}"
    try:
        decoded = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        param = function.at("arguments")
        raise BadRequest(f"'{param}' is not valid JSON: {error}", param=param, code="invalid_value") from error
    if not isinstance(decoded, dict):
        raise invalid(function.at("arguments"), "must be the JSON text of an object")
    return value
