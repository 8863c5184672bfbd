"""The families of formats: one table, the more specific before the more general.

Each is recognised by strings that only its templates have. What they write is taken from the templates the
models are published with (llama.cpp keeps many in models/templates).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from akashllm.server.chat.grammar import Calls, harmony_calls, json_calls, named_calls, tagged_calls
from akashllm.server.chat.spans import read_gemma, read_glm, tagged
from akashllm.server.chat.stream import Marks, ToolSyntax


def _deepseek(words: str) -> str:
    """DeepSeek's markers have a full-width bar, and a low block for the space."""
    return f"<\N{FULLWIDTH VERTICAL LINE}{words.replace(' ', chr(0x2581))}\N{FULLWIDTH VERTICAL LINE}>"


_CALLS_BEGIN: Final = _deepseek("tool calls begin")
_CALLS_END: Final = _deepseek("tool calls end")
_CALL_BEGIN: Final = _deepseek("tool call begin")
_CALL_END: Final = _deepseek("tool call end")
_CALL_SEP: Final = _deepseek("tool sep")

THINKING: Final = (
    Marks("<think>", "</think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    Marks("<|channel>thought", "<channel|>"),
)
"""Marks of thinking: Qwen, DeepSeek and most others; Magistral; Command; Seed; Kimi; Gemma 4."""


@dataclass(frozen=True)
class Family:
    """One way to write calls.

    signs    strings a template of this family has, all of them
    syntax   how the parser finds calls
    calls    how a grammar writes them
    dropped  markers around the answer that mean nothing to a client
    extra    further special tokens within calls
    """

    name: str
    signs: tuple[str, ...]
    syntax: ToolSyntax
    calls: Calls
    dropped: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    harmony: bool = False

    def matches(self, template: str) -> bool:
        """Whether the template has all signs of the family."""
        return all(sign in template for sign in self.signs)

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers, with the special tokens within."""
        return (*self.syntax.opens, *self.syntax.closers, *self.syntax.ends, *self.dropped, *self.extra)

    def fitted(self, template: str) -> Family:
        """The family with the line breaks this very template puts around calls."""
        if self.name in {"hermes", "generic"} and not re.search(r"<tool_call>(?:\\n|\n)", template):
            return replace(self, calls=_hermes(""))
        if self.name == "mistral" and "[TOOL_CALLS] [" in template:
            return replace(self, calls=json_calls("[TOOL_CALLS] [", "]", between=", "))
        if self.name == "deepseek" and "```json" not in template:
            return replace(self, calls=_deepseek_calls(f"{_CALL_BEGIN}", _CALL_SEP, _CALL_END))
        return self


def _hermes(line: str) -> Calls:
    return json_calls(
        f"<tool_call>{line}", f"{line}</tool_call>", between=f"{line}</tool_call>\n<tool_call>{line}"
    )


def _deepseek_calls(before: str, name_end: str, after: str) -> Calls:
    return named_calls(before, name_end, after, first=_CALLS_BEGIN, last=_CALLS_END)


def _functions(outer: str) -> ToolSyntax:
    return ToolSyntax(
        opens=(f"<{outer}>", "<function="),
        closers=(f"</{outer}>",),
        ends=("</function>", f"</{outer}>"),
        read=tagged(outer, "<function=", "<parameter="),
    )


def _function_calls(outer: str) -> Calls:
    return tagged_calls(
        first=f"<{outer}>\n<function=",
        name_end=">\n",
        key="<parameter=",
        key_end=">\n",
        value_end="\n</parameter>\n",
        last=f"</function>\n</{outer}>",
        between="\n",
    )


HERMES: Final = Family(
    name="hermes",
    signs=("<tool_call>",),
    syntax=ToolSyntax(opens=("<tool_call>",), closers=("</tool_call>",)),
    calls=_hermes("\n"),
    stops=("<|im_end|>",),
)
"""Qwen, Hermes, Granite 4, the bundled model, and whatever shows no syntax of its own."""

FAMILIES: Final = (
    Family(
        name="harmony",
        signs=("<|channel|>", "<|message|>", "<|start|>"),
        syntax=ToolSyntax(opens=()),
        calls=harmony_calls,
        extra=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"),
        harmony=True,
    ),
    Family(
        name="minimax",
        signs=("<minimax:tool_call>",),
        syntax=ToolSyntax(
            opens=("<minimax:tool_call>",),
            ends=("</minimax:tool_call>",),
            read=tagged("minimax:tool_call", '<invoke name="', '<parameter name="'),
        ),
        calls=tagged_calls(
            first='<minimax:tool_call>\n<invoke name="',
            name_end='">\n',
            key='<parameter name="',
            key_end='">',
            value_end="</parameter>\n",
            last="</invoke>\n</minimax:tool_call>",
            between="\n",
        ),
    ),
    Family(
        name="seed",
        signs=("<seed:tool_call>",),
        syntax=_functions("seed:tool_call"),
        calls=_function_calls("seed:tool_call"),
    ),
    Family(
        name="glm",
        signs=("<arg_key>", "<arg_value>"),
        syntax=ToolSyntax(opens=("<tool_call>",), ends=("</tool_call>",), read=read_glm),
        calls=tagged_calls(
            first="<tool_call>",
            name_end="\n",
            key="<arg_key>",
            key_end="</arg_key>\n<arg_value>",
            value_end="</arg_value>\n",
            last="</tool_call>",
            between="\n",
        ),
        stops=("<|observation|>", "<|user|>"),
    ),
    Family(
        name="qwen3-coder",
        signs=("<function=", "<parameter=", "<tool_call>"),
        syntax=_functions("tool_call"),
        calls=_function_calls("tool_call"),
        stops=("<|im_end|>",),
    ),
    Family(
        name="deepseek",
        signs=(_CALL_BEGIN,),
        syntax=ToolSyntax(
            opens=(_CALLS_BEGIN, _CALL_BEGIN),
            closers=("```", _CALL_END, _CALLS_END),
            header=re.compile(
                rf"(?:{_CALL_BEGIN}\s*)?(?:function{_CALL_SEP})?([\w.\-]+)\s*(?:{_CALL_SEP})?\s*(?:```json)?"
            ),
        ),
        calls=_deepseek_calls(f"{_CALL_BEGIN}function{_CALL_SEP}", "\n```json\n", f"\n```{_CALL_END}"),
        extra=(_CALL_SEP,),
    ),
    Family(
        name="kimi",
        signs=("<|tool_call_begin|>",),
        syntax=ToolSyntax(
            opens=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
            closers=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
            header=re.compile(
                r"(?:<\|tool_call_begin\|>\s*)?(?:functions\.)?([\w.\-]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>"
            ),
        ),
        calls=named_calls(
            "<|tool_call_begin|>functions.",
            ":0<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
            first="<|tool_calls_section_begin|>",
            last="<|tool_calls_section_end|>",
        ),
        extra=("<|tool_call_argument_begin|>",),
    ),
    Family(
        name="mistral-args",
        signs=("[TOOL_CALLS]", "[ARGS]"),
        syntax=ToolSyntax(
            opens=("[TOOL_CALLS]",),
            header=re.compile(r"([\w.\-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?"),
        ),
        calls=named_calls("[TOOL_CALLS]", "[ARGS]", ""),
        extra=("[ARGS]", "[CALL_ID]"),
    ),
    Family(
        name="mistral",
        signs=("[TOOL_CALLS]",),
        syntax=ToolSyntax(
            opens=("[TOOL_CALLS]",),
            header=re.compile(r"([\w.\-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?"),
        ),
        calls=json_calls("[TOOL_CALLS][", "]", between=", "),
        extra=("[ARGS]", "[CALL_ID]"),
    ),
    Family(
        name="command",
        signs=("<|START_ACTION|>",),
        syntax=ToolSyntax(opens=("<|START_ACTION|>",), closers=("<|END_ACTION|>",)),
        calls=json_calls(
            "<|START_ACTION|>[\n    ",
            "\n]<|END_ACTION|>",
            between=",\n    ",
            name_key="tool_name",
            arguments_key="parameters",
        ),
        dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Family(
        name="gemma4",
        signs=("<|tool_call>", "<tool_call|>"),
        syntax=ToolSyntax(opens=("<|tool_call>",), ends=("<tool_call|>",), read=read_gemma),
        calls=named_calls("<|tool_call>call:", "", "<tool_call|>"),
        extra=('<|"|>',),
    ),
    Family(
        name="nemotron",
        signs=("<TOOLCALL>",),
        syntax=ToolSyntax(opens=("<TOOLCALL>",), closers=("</TOOLCALL>",)),
        calls=json_calls("<TOOLCALL>[", "]</TOOLCALL>", between=", "),
    ),
    Family(
        name="phi4",
        signs=("<|tool_call|>", "<|/tool_call|>"),
        syntax=ToolSyntax(opens=("<|tool_call|>",), closers=("<|/tool_call|>",)),
        calls=json_calls("<|tool_call|>[", "]<|/tool_call|>", between=", "),
    ),
    Family(
        name="granite3",
        signs=("<|tool_call|>",),
        syntax=ToolSyntax(opens=("<|tool_call|>", "<tool_call>")),
        calls=json_calls("<|tool_call|>[", "]", between=", "),
    ),
    HERMES,
    Family(
        name="llama3",
        signs=("<|start_header_id|>", "tool"),
        syntax=ToolSyntax(opens=("<|python_tag|>",), closers=(";", "<|eom_id|>", "<|eot_id|>"), bare=True),
        calls=json_calls("", "", between=None, arguments_key="parameters"),
        stops=("<|eom_id|>", "<|eot_id|>"),
    ),
    Family(
        name="functools",
        signs=("functools[",),
        syntax=ToolSyntax(opens=("functools",)),
        calls=json_calls("functools[", "]", between=", "),
    ),
)
