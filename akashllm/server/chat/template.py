"""From messages to the text a model was trained on: the chat template of a GGUF file, rendered.

Rendering happens in the engine's child process. `render_segments` is the one to tokenise from: its segments
keep a client's control tokens from being recognised (`masking`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from akashllm.errors import BadRequest, EngineFailed
from akashllm.server.chat import bounds
from akashllm.server.chat.builtin import builtin_template
from akashllm.server.chat.masking import THINKING_MARKS, Mask, Segment, guess_control, texts
from akashllm.server.chat.sandbox import ChatEnvironment, TemplateRaised
from akashllm.server.chat.variables import (
    AS_OBJECTS,
    Calls,
    check_messages,
    merge_system,
    merge_turns,
    template_messages,
    template_tools,
    thinking_variables,
)
from akashllm.server.domain import Message, Tool, ToolCall

_NEEDLE: Final = "Needle7381"

_Change = Callable[[Sequence[Message]], Sequence[Message]]


@functools.cache
def _environment() -> ChatEnvironment:
    """One environment a process: between renderings it keeps nothing but the meter, which is per thread."""
    return ChatEnvironment()


class ChatTemplate:
    """A compiled chat template.

    `control` are the texts of the vocabulary's control and user-defined tokens; without them, what looks like
    one in the template's source is taken. Raises `EngineFailed` if the source does not compile.
    """

    def __init__(
        self, source: str, *, bos: str = "", eos: str = "", control: Collection[str] | None = None
    ) -> None:
        self.source = source
        self.bos = bos
        self.eos = eos
        given = guess_control(source) if control is None else frozenset(control)
        self.control = given | {token for token in (bos, eos) if token}
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:
            raise EngineFailed(
                f"the model's chat template cannot be used: {_reason(error)}",
                hint="Serve the model with another chat template, or another file of the model.",
            ) from error

    @classmethod
    def from_metadata(
        cls,
        metadata: Mapping[str, Any],
        *,
        bos: str = "",
        eos: str = "",
        control: Collection[str] | None = None,
        tools: bool = False,
    ) -> ChatTemplate:
        """The template of a GGUF file's metadata, or a built-in one for the architecture.

        `tools` takes the template named `tool_use` where the file has one (Command R, Hermes 3).
        """
        source = metadata.get("tokenizer.chat_template.tool_use") if tools else None
        source = source or metadata.get("tokenizer.chat_template")
        if not isinstance(source, str) or not source.strip():
            source = builtin_template(str(metadata.get("general.architecture", "")))
        return cls(source, bos=bos, eos=eos, control=control)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = True,
        think: bool | str | None = None,
        continue_final: bool = False,
    ) -> str:
        """The prompt's text. Raises `BadRequest` with the template's own words if it refuses the messages."""
        segments = self.render_segments(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            think=think,
            continue_final=continue_final,
        )
        return "".join(segment.text for segment in segments)

    def render_segments(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        add_generation_prompt: bool = True,
        think: bool | str | None = None,
        continue_final: bool = False,
    ) -> list[Segment]:
        """The prompt in parts to tokenise one by one: one part, unless a client wrote a control token.

        Raises `BadRequest` with the template's own words if it refuses the messages, `EngineFailed` if the
        template itself fails or asks for more time or memory than any chat needs.
        """
        check_messages(messages, continue_final=continue_final)
        variables = {
            "add_generation_prompt": add_generation_prompt and not continue_final,
            **thinking_variables(think=think),
        }
        first: TemplateRaised | None = None
        for change in self._changes(messages):
            try:
                return self._attempt(change(messages), tools, variables, continue_final=continue_final)
            except TemplateRaised as error:
                first = first or error
        raise BadRequest(
            f"the model's chat template refuses these messages: {first}", param="messages"
        ) from first

    def _changes(self, messages: Sequence[Message]) -> list[_Change]:
        """Ways to put the messages, best first; the next is tried when the template refuses one."""
        has_system = any(message.role in {"system", "developer"} for message in messages)
        as_they_are: _Change = tuple
        changes: list[_Change] = [merge_turns]
        if has_system:
            changes = [merge_system, merge_turns, lambda given: merge_turns(merge_system(given))]
        if has_system and not self._shows_system:
            return [merge_system, lambda given: merge_turns(merge_system(given))]
        if any(message.thinking and message.tool_calls for message in messages):
            changes.append(_without_thinking)
        return [as_they_are, *changes]

    def _attempt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        variables: Mapping[str, Any],
        *,
        continue_final: bool,
    ) -> list[Segment]:
        plain_messages = template_messages(messages, self.source, calls=self._calls)
        plain_tools = template_tools(tools)
        client = texts([plain_messages, plain_tools])
        mask = Mask(self.control, avoid=[self.source, *client], keep=THINKING_MARKS)
        hidden = [mask.hide_value(item, keep=item["role"] == "assistant") for item in plain_messages]
        if continue_final:
            hidden[-1]["content"] = f"{hidden[-1]['content'] or ''}{mask.cut}"
        text = self._run(hidden, mask.hide_value(plain_tools) or self._no_tools, variables)
        if continue_final:
            text = mask.before_cut(text)
        return mask.reveal(text)

    def _run(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: Mapping[str, Any]
    ) -> str:
        meter = self._environment.meter
        parts: list[str] = []
        size = 0
        meter.start(bounds.SECONDS)
        try:
            for part in self._template.generate(
                messages=messages,
                tools=tools,
                documents=None,
                bos_token=self.bos,
                eos_token=self.eos,
                **variables,
            ):
                size += len(part)
                bounds.check_text(size)
                parts.append(part)
        except TemplateRaised:
            raise
        except Exception as error:
            raise EngineFailed(
                f"the model's chat template failed: {_reason(error)}",
                hint="Serve the model with another chat template, or send simpler messages.",
            ) from error
        finally:
            meter.stop()
        return "".join(parts)

    def probe(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        calls: Calls = AS_OBJECTS,
        **variables: Any,
    ) -> str | None:
        """What messages of ours render to, or None if the template fails on them: to find out, not to use."""
        items = template_messages(messages, self.source, calls=calls)
        try:
            return self._run(items, template_tools(tools) or None, {"add_generation_prompt": True, **variables})
        except (TemplateRaised, EngineFailed):
            return None

    @functools.cached_property
    def _shows_system(self) -> bool:
        """Whether a system message appears in the prompt, or at least is refused in words."""
        messages = (Message(role="system", content=_NEEDLE), Message(role="user", content="Hi"))
        return _NEEDLE in (self.probe(messages) or self.probe(messages, tools=(_TOOL,)) or "")

    @functools.cached_property
    def _no_tools(self) -> list[dict[str, Any]] | None:
        """What stands for no tools: null, or an empty list where a template counts on a list."""
        return [] if self.probe(_HELLO) is None and self.probe(_HELLO, tools=(_TOOL,)) is not None else None

    @functools.cached_property
    def _calls(self) -> Calls:
        """How past calls go in: the first way this template does not fail on or garble."""
        for calls in _WAYS:
            text = self.probe(_CALL, calls=calls, tools=(_TOOL,)) or ""
            # An object that is printed as it is shows Python's quotes; a text that is quoted again, escapes.
            object_shown = calls.arguments == "object" and _NEEDLE in text and f"'{_NEEDLE}'" not in text
            if object_shown or f'"{_NEEDLE}"' in text:
                return calls
        return _WAYS[0]


_WAYS: Final = (AS_OBJECTS, Calls("text", ""), Calls("object", None), Calls("text", None))
_HELLO: Final = (Message(role="user", content="Hi"),)
_TOOL: Final = Tool(name="lookup", description="Look it up", parameters={"type": "object", "properties": {}})
_CALL: Final = (
    Message(role="user", content="Hi"),
    Message(
        role="assistant",
        tool_calls=(ToolCall(id="abcdefgh1", name="lookup", arguments=f'{{"key": "{_NEEDLE}"}}'),),
    ),
    Message(role="tool", content="1", tool_name="lookup", tool_call_id="abcdefgh1"),
)


def _without_thinking(messages: Sequence[Message]) -> Sequence[Message]:
    """Thinking left out next to tool calls: gpt-oss refuses both with content."""
    return [replace(m, thinking="") if m.tool_calls else m for m in messages]


def _reason(error: Exception) -> str:
    return str(error).strip()[:500] or type(error).__name__
