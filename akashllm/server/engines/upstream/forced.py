"""A call the model must make, where the upstream cannot make it: as the shape of a JSON answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import ChatPrompt, Message, Tool, ToolCall

_INSTRUCTION = (
    "Answer by calling one of the functions below. Write one JSON object and nothing else: "
    '{"name": the name of the function, "arguments": an object with its arguments}.\n'
)


def wanted(prompt: ChatPrompt) -> tuple[Tool, ...]:
    """The tools of which one must be called; none where the model may choose not to."""
    choice = prompt.tool_choice
    if choice.mode not in {"required", "named"}:
        return ()
    tools = tuple(tool for tool in prompt.tools if choice.mode == "required" or tool.name == choice.name)
    if not tools:
        what = f"the tool {choice.name!r}" if choice.name else "a tool"
        raise BadRequest(f"tool_choice asks for {what}, and the request has none such", param="tool_choice")
    return tools


def schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """The JSON Schema of a call of one of the tools, its arguments as the tool says."""
    calls = {f"call{index}": _call(tool, f"#/$defs/call{index}") for index, tool in enumerate(tools)}
    references = [{"$ref": f"#/$defs/{name}"} for name in calls]
    top = references[0] if len(references) == 1 else {"anyOf": references}
    return top | {"$defs": calls}


def _call(tool: Tool, place: str) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object"}
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": _moved(parameters, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(value: Any, place: str) -> Any:
    """A schema whose references to itself lead to where it now stands."""
    if isinstance(value, list):
        return [_moved(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(item, place) for key, item in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = place + reference[1:]
    return moved


def instructed(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The messages with the tools told in the system message, for an upstream that is given no tools."""
    told = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters} for tool in tools
    ]
    text = _INSTRUCTION + msgspec.json.encode(told).decode()
    if messages and messages[0].role == "system":
        first = msgspec.structs.replace(messages[0], content=f"{messages[0].content}\n\n{text}")
        return (first, *messages[1:])
    return (Message(role="system", content=text), *messages)


def read(text: str, tools: Sequence[Tool]) -> ToolCall | None:
    """The call that an answer of that shape is; None if it was cut off or is something else."""
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("arguments"), dict):
        return None
    if value.get("name") not in {tool.name for tool in tools}:
        return None
    return ToolCall(id=new_id(), name=value["name"], arguments=msgspec.json.encode(value["arguments"]).decode())


def new_id() -> str:
    """An id for a call that came without one."""
    return f"call_{secrets.token_hex(6)}"
