"""How a model's family writes thinking and tool calls, told from the markers in its chat template."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from akashllm.errors import BadRequest
from akashllm.server.chat import grammar
from akashllm.server.chat.families import FAMILIES, HERMES, THINKING, Family
from akashllm.server.chat.harmony import HarmonyParser
from akashllm.server.chat.pieces import CallReader, OutputParser, Piece
from akashllm.server.chat.stream import Marks, StreamParser
from akashllm.server.domain import Constraint, Tool, ToolChoice

__all__ = ["ChatFormat", "OutputParser", "Piece"]

_TAIL: Final = 400


@dataclass(frozen=True)
class ChatFormat:
    """The markers of one family.

    name      of the family: hermes, llama3, mistral ...; generic where the template shows no tool syntax
    thinking  the marks around thinking, None if the template knows none
    special   the vocabulary's special tokens with their ids, for grammars
    """

    family: Family
    thinking: Marks | None = None
    special: Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        """The family."""
        return self.family.name

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer of this family when they come as text rather than as the end token."""
        return self.family.stops

    @property
    def markers(self) -> frozenset[str]:
        """Special tokens the parser has to see: their text must be in what it is fed, no others'."""
        thinking = (self.thinking.open, self.thinking.close) if self.thinking else ()
        return frozenset((*self.family.markers, *thinking))

    @classmethod
    def detect(cls, template: str, special: Mapping[str, int] | None = None) -> ChatFormat:
        """The format whose markers the template has. `special`: texts and ids of the special tokens."""
        family = next((family for family in FAMILIES if family.matches(template)), HERMES)
        if family is HERMES and "<tool_call>" not in template:
            family = replace(HERMES, name="generic")
        marks = None if family.harmony else _thinking(template)
        return cls(family.fitted(template), marks, dict(special or {}))

    def thinks_inside(self, prompt_tail: str) -> bool:
        """Whether the prompt ends with thinking opened, so that the answer begins inside."""
        return self.thinking is not None and prompt_tail.rstrip().endswith(self.thinking.open)

    def parser(
        self,
        *,
        tools: Sequence[Tool] = (),
        think: bool | str | None = None,
        prompt_tail: str = "",
        rng: random.Random | None = None,
    ) -> OutputParser:
        """A parser for one answer.

        Without tools, tool syntax is plain text; a call of a tool that was not given is text too. `prompt_tail`
        is the end of the rendered prompt (a few hundred characters). `think` changes nothing here: markers are
        taken out in any case, and whether to show the thinking is for the caller.
        """
        del think
        reader = CallReader(tools, rng)
        if self.family.harmony:
            return HarmonyParser(reader=reader, prompt_tail=prompt_tail[-_TAIL:])
        return StreamParser(
            think=self.thinking,
            inside=self.thinks_inside(prompt_tail),
            tools=self.family.syntax if tools else None,
            reader=reader,
            dropped=self.family.dropped,
        )

    def constraint(
        self,
        tools: Sequence[Tool],
        tool_choice: ToolChoice,
        *,
        parallel: bool = True,
        think: bool | str | None = None,
        prompt_tail: str = "",
    ) -> Constraint | None:
        """The grammar that makes the model call: one of `tools` (required) or the named one; None otherwise.

        Arguments obey the tool's schema. Thinking before the call is left free as in `wrap_after_thinking`.
        Raises `BadRequest` for a named tool that is not there. Mode "none" is for the caller: leave the tools
        out of the prompt.
        """
        choice = tool_choice
        if choice.mode in {"auto", "none"}:
            return None
        chosen = [tool for tool in tools if choice.mode == "required" or tool.name == choice.name]
        if not chosen:
            what = f"the tool {choice.name!r}" if choice.name else "a tool"
            raise BadRequest(f"tool_choice asks for {what}, and the request has none such", param="tool_choice")
        lark = grammar.Lark(self.special or {})
        several = parallel and choice.mode == "required"
        constraint = lark.grammar(self.family.calls(lark, chosen, several))
        if self.family.harmony:
            return constraint
        return self.wrap_after_thinking(constraint, prompt_tail=prompt_tail, think=think)

    def wrap_after_thinking(
        self, constraint: Constraint, *, prompt_tail: str = "", think: bool | str | None = None
    ) -> Constraint:
        """The constraint for the answer, with thinking before it left free.

        Where the prompt opened the thinking it has to end first; otherwise the model may think unless `think`
        is false. Unchanged for formats without marks of thinking. Raises `BadRequest` for a GBNF grammar,
        which has to be turned into Lark before.
        """
        if self.family.harmony:
            return self._in_final_channel(constraint)
        inside = self.thinks_inside(prompt_tail)
        if self.thinking is None or not (inside or think):
            return constraint
        special = self.special or {}
        wrapped = grammar.after_thinking(constraint, self.thinking, special, inside=inside)
        if wrapped is None:
            raise BadRequest("a GBNF grammar cannot be combined with thinking", param="grammar")
        return wrapped

    def _in_final_channel(self, constraint: Constraint) -> Constraint:
        wrapped = grammar.in_final_channel(constraint, self.special or {})
        if wrapped is None:
            raise BadRequest("a GBNF grammar cannot be combined with this model's channels", param="grammar")
        return wrapped


def _thinking(template: str) -> Marks | None:
    return next((one for one in THINKING if one.close in template or one.open in template), None)


def looks_like_thinking(template: str) -> bool:
    """Whether the template has marks of thinking that can be told from the answer."""
    harmony = "<|channel|>" in template and "analysis" in template
    return harmony or _thinking(template) is not None


def looks_like_tools(template: str) -> bool:
    """Whether the template speaks of tools at all."""
    return re.search(r"\btools\b|tool_calls?\b", template) is not None
