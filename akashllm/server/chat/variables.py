"""Messages and tools as a chat template expects them: the dicts Hugging Face transformers passes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from msgspec.structs import replace

from akashllm.errors import BadRequest
from akashllm.server.domain import Message, Tool

Arguments = Literal["object", "text"]


class Calls(NamedTuple):
    """How a template wants past calls: arguments as object or JSON text, empty content as text or null."""

    arguments: Arguments
    content: Literal[""] | None


_SHORT_IDS: Final = re.compile(r"length 9|\|\s*length\s*!=\s*9")


AS_OBJECTS: Final = Calls("object", "")


def check_messages(messages: Sequence[Message], *, continue_final: bool) -> None:
    """Raises `BadRequest` where there is nothing to render, or nothing to continue."""
    if not messages:
        raise BadRequest("there are no messages to render", param="messages")
    if continue_final and messages[-1].role != "assistant":
        raise BadRequest("the message to continue is not the assistant's", param="messages")


def template_messages(
    messages: Sequence[Message], source: str, *, calls: Calls = AS_OBJECTS
) -> list[dict[str, Any]]:
    """The messages as plain dicts, in the dialect the template's source shows it understands."""
    names: dict[str, str] = {}
    out: list[dict[str, Any]] = []
    for message in messages:
        names.update({call.id: call.name for call in message.tool_calls})
        out.append(_template_message(message, source, names, calls))
    return out


def _template_message(message: Message, source: str, names: dict[str, str], calls: Calls) -> dict[str, Any]:
    role = message.role
    if role == "developer" and "developer" not in source:
        role = "system"
    item: dict[str, Any] = {"role": role, "content": message.content}
    if message.thinking:
        item["reasoning_content"] = item["thinking"] = message.thinking
    if message.tool_calls:
        item["tool_calls"] = [
            {
                "id": _call_id(call.id, source),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments, calls.arguments)},
            }
            for call in message.tool_calls
        ]
        item["content"] = message.content or calls.content
    if role == "tool":
        name = message.tool_name or names.get(message.tool_call_id or "")
        if name:
            item["name"] = item["tool_name"] = name
        if message.tool_call_id:
            item["tool_call_id"] = _call_id(message.tool_call_id, source)
    return item


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools in OpenAI's shape."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]


def _arguments(text: str, wanted: Arguments) -> Any:
    if wanted == "text":
        return text
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _call_id(call_id: str, source: str) -> str:
    """Mistral's templates refuse ids that are not nine letters and digits."""
    if not _SHORT_IDS.search(source) or re.fullmatch(r"[A-Za-z0-9]{9}", call_id):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def thinking_variables(*, think: bool | str | None) -> dict[str, Any]:
    """What templates read: `enable_thinking` (Qwen), `thinking` (DeepSeek, Granite), an effort (gpt-oss)."""
    if think is None:
        return {}
    if isinstance(think, str):
        return {"enable_thinking": True, "thinking": True, "reasoning_effort": think}
    return {"enable_thinking": think, "thinking": think}


def merge_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The system messages put in front of the first user message, for templates that know no system role."""
    system = "\n\n".join(m.content for m in messages if m.role in {"system", "developer"} and m.content)
    rest = [m for m in messages if m.role not in {"system", "developer"}]
    if not system:
        return tuple(rest)
    for at, message in enumerate(rest):
        if message.role == "user":
            text = f"{system}\n\n{message.content}" if message.content else system
            rest[at] = replace(message, content=text)
            return tuple(rest)
    return (Message(role="user", content=system), *rest)


def merge_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbouring user messages made one, for templates that insist on alternation; assistants likewise."""
    out: list[Message] = []
    for message in messages:
        last = out[-1] if out else None
        same = last is not None and last.role == message.role and message.role in {"user", "assistant"}
        if same and last is not None and not (last.tool_calls or message.tool_calls):
            text = "\n\n".join(part for part in (last.content, message.content) if part)
            out[-1] = replace(last, content=text, images=last.images + message.images)
        else:
            out.append(message)
    return tuple(out)
