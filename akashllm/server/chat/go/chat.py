"""A TEMPLATE as the engine's child uses it: in the place of the Jinja template, with the same care.

Control tokens a client writes stay text (`chat.masking`), and faults become what the service answers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from akashllm.errors import BadRequest, EngineFailed
from akashllm.server.chat.formats import looks_like_thinking
from akashllm.server.chat.go.faults import GoTemplateError
from akashllm.server.chat.go.printing import escaped_in_json
from akashllm.server.chat.go.template import GoTemplate
from akashllm.server.chat.masking import THINKING_MARKS, Mask, Segment, guess_control, texts
from akashllm.server.chat.variables import check_messages
from akashllm.server.domain import Capability, Message, Tool

_JSON_ESCAPES: Final = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"}


def check(source: str) -> None:
    """Raise `BadRequest` in Ollama's words if a TEMPLATE cannot be read."""
    try:
        GoTemplate(source)
    except GoTemplateError as error:
        raise BadRequest(f"template error: {error}", param="template") from error


def capabilities(source: str) -> tuple[Capability, ...]:
    """What a model can do by its TEMPLATE: `tools`, `insert`, `thinking`. Nothing if it cannot be read."""
    try:
        names = GoTemplate(source).names
    except GoTemplateError:
        return ()
    found: list[Capability] = []
    if "tools" in names:
        found.append("tools")
    if "suffix" in names:
        found.append("insert")
    if names & {"thinking", "think"} and looks_like_thinking(source):
        found.append("thinking")
    return tuple(found)


class GoChatTemplate:
    """A TEMPLATE with the interface of `ChatTemplate`.

    `control` are the texts of the vocabulary's control tokens. `param` is the field of the request in which a
    client wrote the template; faults are its own then (`BadRequest`), otherwise the model's (`EngineFailed`).
    """

    def __init__(
        self, source: str, *, control: Collection[str] | None = None, param: str | None = None
    ) -> None:
        self.source = source
        self._control = guess_control(source) if control is None else frozenset(control)
        self._param = param
        try:
            self._template = GoTemplate(source)
        except GoTemplateError as error:
            raise self._refusal(error) from error

    @property
    def infills(self) -> bool:
        """Whether the template can put a suffix."""
        return "suffix" in self._template.names

    def render_segments(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        think: bool | str | None = None,
        continue_final: bool = False,
    ) -> list[Segment]:
        """The prompt in parts to tokenise one by one, as `ChatTemplate.render_segments`."""
        check_messages(messages, continue_final=continue_final)
        plain_messages, plain_tools = (
            [_plain(message) for message in messages],
            [_schema(tool) for tool in tools],
        )
        mask = self._mask([plain_messages, plain_tools])
        hidden = [mask.hide_value(one, keep=one["role"] == "assistant") for one in plain_messages]
        if continue_final:
            hidden[-1]["content"] += mask.cut
        with escaped_in_json(_escapes(mask)):
            try:
                text = self._template.chat(hidden, mask.hide_value(plain_tools), think=think)
            except GoTemplateError as error:
                raise self._refusal(error) from error
        if continue_final:
            text = mask.before_cut(text)
        return mask.reveal(text)

    def render_infill(self, prefix: str, suffix: str) -> list[Segment]:
        """The prompt to fill in between two texts."""
        mask = self._mask([prefix, suffix])
        try:
            return mask.reveal(self._template.infill(mask.hide(prefix), mask.hide(suffix)))
        except GoTemplateError as error:
            raise self._refusal(error) from error

    def _mask(self, client: Any) -> Mask:
        return Mask(self._control, avoid=[self.source, *texts(client)], keep=THINKING_MARKS)

    def _refusal(self, error: GoTemplateError) -> BadRequest | EngineFailed:
        if self._param is not None:
            return BadRequest(f"template error: {error}", param=self._param)
        return EngineFailed(
            f"the model's template failed: {error}",
            hint="Create the model again with another TEMPLATE, or send simpler messages.",
        )


def _escapes(mask: Mask) -> Mapping[int, str]:
    """What Go's JSON makes of `<`, `>` and `&` where they are hidden."""
    return {ord(mask.hide(char)): code for char, code in _JSON_ESCAPES.items() if mask.hide(char) != char}


def _plain(message: Message) -> dict[str, Any]:
    return {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content,
        "thinking": message.thinking,
        "images": ["[img]" for _ in message.images],
        "tool_name": message.tool_name or "",
        "tool_call_id": message.tool_call_id or "",
        "tool_calls": [
            {"id": call.id, "index": at, "name": call.name, "arguments": _arguments(call.arguments)}
            for at, call in enumerate(message.tool_calls)
        ],
    }


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _schema(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
