"""Grammars that make a model write well-formed calls, in llguidance's Lark dialect (its docs/syntax.md).

A marker that is one token of the vocabulary stands as `<[id]>`, any other as a string: a token that llguidance
holds for special never matches a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from akashllm.server.chat.closing import closed
from akashllm.server.chat.stream import Marks
from akashllm.server.domain import Constraint, Tool

Special = Mapping[str, int]
"""Texts of the vocabulary's special tokens, with their ids."""
Calls = Callable[["Lark", Sequence[Tool], bool], str]
"""Adds the rules for calls of the tools (several if allowed) and gives the expression that stands for them."""

_SLASH: Final = re.compile(r"\\.|[/\n]", re.DOTALL)
_AS_WRITTEN: Final = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


class Lark:
    """A grammar under construction."""

    def __init__(self, special: Special) -> None:
        self._special = special
        self._rules: list[str] = []

    def literal(self, text: str) -> str:
        """An expression for `text`, special tokens in it as such."""
        found = [(text.find(token), -len(token), token) for token in self._special if token and token in text]
        if not found:
            return json.dumps(text, ensure_ascii=False) if text else ""
        at, _, token = min(found)
        parts = (self.literal(text[:at]), f"<[{self._special[token]}]>", self.literal(text[at + len(token) :]))
        return " ".join(part for part in parts if part)

    def rule(self, body: str, options: str = "") -> str:
        """A new rule; its name."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def json(self, schema: Mapping[str, Any]) -> str:
        """A rule for JSON of that schema, spaced as models write it."""
        return self.rule(f"%json {json.dumps({**closed(schema), 'x-guidance': _AS_WRITTEN})}")

    def text_until(self, mark: str) -> str:
        """A rule for any text that ends with the first `mark`."""
        if mark in self._special:
            return self.rule(rf"/(.|\n)*/ {self.literal(mark)}")
        return self.rule(r"/(.|\n)*/", f"[suffix={json.dumps(mark, ensure_ascii=False)}]")

    def grammar(self, start: str) -> Constraint:
        """The finished grammar."""
        return Constraint(kind="lark", value="\n".join([f"start: {start}", *self._rules]))


def object_schema(tool: Tool) -> dict[str, Any]:
    """The tool's parameters, as the schema of an object in any case."""
    return {"type": "object", **tool.parameters}


def json_calls(
    before: str,
    after: str,
    *,
    between: str | None,
    name_key: str = "name",
    arguments_key: str = "arguments",
) -> Calls:
    """Calls as JSON objects after `before`, closed by `after`; more after `between` (None: one only)."""

    def calls(lark: Lark, tools: Sequence[Tool], several: bool) -> str:  # noqa: FBT001 - one shape for all
        one = lark.rule(
            " | ".join(
                " ".join(
                    (
                        lark.literal(f'{{"{name_key}": {json.dumps(tool.name)}, "{arguments_key}": '),
                        lark.json(object_schema(tool)),
                        '"}"',
                    )
                )
                for tool in tools
            )
        )
        more = f" ({lark.literal(between)} {one})*" if several and between else ""
        return " ".join(part for part in (lark.literal(before), one + more, lark.literal(after)) if part)

    return calls


def named_calls(
    before: str, name_end: str, after: str, *, first: str = "", last: str = "", between: str = ""
) -> Calls:
    """Calls as a name and then JSON: `first` (`before` NAME `name_end` JSON `after`)* `last`."""

    def calls(lark: Lark, tools: Sequence[Tool], several: bool) -> str:  # noqa: FBT001
        one = lark.rule(
            " | ".join(
                " ".join(
                    part
                    for part in (
                        lark.literal(before + tool.name + name_end),
                        lark.json(object_schema(tool)),
                        lark.literal(after),
                    )
                    if part
                )
                for tool in tools
            )
        )
        more = f"({lark.literal(between)} {one})*" if between else f"{one}*"
        parts = (lark.literal(first), one, more if several else "", lark.literal(last))
        return " ".join(part for part in parts if part)

    return calls


def tagged_calls(
    *, first: str, name_end: str, key: str, key_end: str, value_end: str, last: str, between: str
) -> Calls:
    """Calls as tags: `first` NAME `name_end` (`key` KEY `key_end` VALUE `value_end`)* `last`."""

    def calls(lark: Lark, tools: Sequence[Tool], several: bool) -> str:  # noqa: FBT001
        one = lark.rule(" | ".join(tagged(lark, tool) for tool in tools))
        return f"{one} ({lark.literal(between)} {one})*" if several else one

    def tagged(lark: Lark, tool: Tool) -> str:
        schema = object_schema(tool)
        required = schema.get("required") or ()
        parts = [lark.literal(first + tool.name + name_end)]
        for name, value in dict(schema.get("properties") or {}).items():
            if isinstance(value, dict) and value.get("type") == "string" and "enum" not in value:
                rest = lark.text_until(value_end)
            else:
                own = value if isinstance(value, dict) else {}
                shared = _shared(schema)
                rest = f"{_choice(lark, own) or lark.json({**shared, **own})} {lark.literal(value_end)}"
            whole = f"({lark.literal(key + name + key_end)} {rest})"
            parts.append(whole if name in required else whole + "?")
        return " ".join([*parts, lark.literal(last)])

    return calls


def _shared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Definitions that a property's schema may refer to."""
    return {word: schema[word] for word in ("$defs", "definitions") if word in schema}


def _choice(lark: Lark, schema: Mapping[str, Any]) -> str:
    """Strings of an enumeration stand bare between tags."""
    values = schema.get("enum")
    if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
        return ""
    return "(" + " | ".join(lark.literal(one) for one in values) + ")"


def harmony_calls(lark: Lark, tools: Sequence[Tool], several: bool) -> str:  # noqa: ARG001, FBT001
    """One call on gpt-oss's commentary channel; the model may think on the analysis channel before."""
    header = "<|channel|>commentary to=functions."
    named = named_calls(header, " <|constrain|>json<|message|>", "")
    return f"{_analysis(lark)} {named(lark, tools, False)}"


def in_final_channel(constraint: Constraint, special: Special) -> Constraint | None:
    """The constraint for gpt-oss's final channel. None for a GBNF grammar."""
    lark = Lark(special)
    inner = _inner(lark, constraint)
    if inner is None:
        return None
    return lark.grammar(f"{_analysis(lark)} {lark.literal('<|channel|>final<|message|>')} {inner}")


def _analysis(lark: Lark) -> str:
    thought = f"{lark.literal('<|channel|>analysis<|message|>')} {lark.text_until('<|end|>')}"
    return f"({thought} {lark.literal('<|start|>assistant')})?"


def after_thinking(
    constraint: Constraint, marks: Marks, special: Special, *, inside: bool
) -> Constraint | None:
    """The constraint, once thinking is over: free text up to the closing mark, then what was asked.

    `inside`: the prompt has opened the thinking already; else the model may think first, or not. None for a
    GBNF grammar, which cannot be part of another: it has to be turned into Lark before.
    """
    lark = Lark(special)
    inner = _inner(lark, constraint)
    if inner is None:
        return None
    thought = f"{lark.text_until(marks.close)} {lark.rule('SPACE?')}"
    start = f"{thought} {inner}" if inside else f"({lark.literal(marks.open)} {thought})? {inner}"
    finished = lark.grammar(start)
    return Constraint(kind="lark", value=finished.value + "\nSPACE: /[ \\t\\r\\n]{1,8}/")


def _inner(lark: Lark, constraint: Constraint) -> str | None:
    if constraint.kind == "json_object":
        return lark.rule('%json {"type": "object"}')
    if constraint.kind == "json_schema":
        return lark.rule(f"%json {constraint.value}")
    if constraint.kind == "regex":
        return lark.rule(f"/{_SLASH.sub(_escaped, constraint.value)}/")
    if constraint.kind == "lark":
        return lark.rule(f"%lark {{\n{constraint.value}\n}}")
    return None


def _escaped(found: re.Match[str]) -> str:
    return {"/": "\\/", "\n": "\\n"}.get(found[0], found[0])
