"""From the text of a chat's answer to text, thinking and tool calls: by this service's parsers, or vLLM's.

This service's own know a family's format from its template and are what the llama.cpp engine uses, so both
engines read alike. vLLM's, named by the settings, read where the template shows no format that is known here,
or where the settings say so; but never what a tool_choice forced: that was constrained to this service's own
idea of the format.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager

from akashllm.server.chat.formats import ChatFormat
from akashllm.server.chat.pieces import CallReader, OutputParser, Piece, read_json
from akashllm.server.chat.variables import template_tools, thinking_variables
from akashllm.server.domain import ChatPrompt
from akashllm.server.engines.vllm.options import Options


@dataclass
class _Call:
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class VllmReader:
    """One of vLLM's parsers as an `OutputParser`. Its calls come in parts and are told once they are whole.

    It reads token ids beside the text: `note` takes those that belong to the next text.
    """

    def __init__(self, parser: Any, request: Any, prompt: ChatPrompt, prompt_tokens: list[int]) -> None:
        self._parser = parser
        self._request = request
        self._prompt_tokens: list[int] | None = prompt_tokens
        self._tokens: list[int] = []
        self._calls: dict[int, _Call] = {}
        self._reader = CallReader(prompt.tools)

    def note(self, tokens: Iterable[int]) -> None:
        """Take the ids of what is fed next."""
        self._tokens.extend(tokens)

    def feed(self, text: str) -> list[Piece]:
        """What is certain by now."""
        return self._take(text, finished=False)

    def end(self) -> list[Piece]:
        """What was held back, and the calls."""
        pieces = self._take("", finished=True)
        for index in sorted(self._calls):
            part = self._calls[index]
            text = "".join(part.arguments)
            call = self._reader.call(part.name, read_json(text or "{}"))
            pieces.append(Piece("tool_call", call=call) if call is not None else Piece("text", text))
        self._calls.clear()
        return pieces

    def _take(self, text: str, *, finished: bool) -> list[Piece]:
        tokens, self._tokens = self._tokens, []
        delta = self._parser.parse_delta(text, tokens, self._request, self._prompt_tokens, finished=finished)
        self._prompt_tokens = None
        pieces: list[Piece] = []
        if delta is None:
            return pieces
        if delta.reasoning:
            pieces.append(Piece("thinking", delta.reasoning))
        if delta.content:
            pieces.append(Piece("text", delta.content))
        for part in delta.tool_calls or ():
            call = self._calls.setdefault(part.index, _Call())
            if part.function is not None:
                call.name += part.function.name or ""
                call.arguments.append(part.function.arguments or "")
        return pieces


class Readers:
    """Chooses the reader of an answer. Raises `ValueError` if vLLM has no parser of a name, or it is unfit."""

    def __init__(self, options: Options, tokenizer: Any, model_config: Any) -> None:
        self._tokenizer = tokenizer
        self._model_config = model_config
        self._options = options
        self._class: Any = None
        if options.tool_parser or options.reasoning_parser:
            # From 0.32 on vLLM tells by the tokenizer which of a model's formats it is.
            newer = "tokenizer" in inspect.signature(ParserManager.get_parser).parameters
            try:
                self._class = ParserManager.get_parser(
                    tool_parser_name=options.tool_parser or None,
                    reasoning_parser_name=options.reasoning_parser or None,
                    enable_auto_tools=bool(options.tool_parser),
                    **({"tokenizer": tokenizer} if newer else {}),
                )
            except TypeError as error:
                raise ValueError(str(error)) from error

    def vllm_reads(self, prompt: ChatPrompt, form: ChatFormat) -> bool:
        """Whether one of vLLM's parsers reads the answer to `prompt`."""
        options = self._options
        if self._class is None or options.chats == "own" or prompt.tool_choice.mode in {"required", "named"}:
            return False
        tools = bool(prompt.tools) and prompt.tool_choice.mode == "auto"
        if tools and not options.tool_parser:
            # vLLM's parser of thinking alone would leave the calls in the text.
            return False
        if options.chats == "vllm":
            return True
        if form.family.harmony:
            return False
        if tools:
            return form.name == "generic"
        return form.thinking is None and bool(options.reasoning_parser)

    def hides_special(self, prompt: ChatPrompt) -> bool:
        """Whether special tokens are to be left out of the text for vLLM's parser."""
        _, request = self._make(prompt)
        return bool(request.skip_special_tokens)

    def reader(self, prompt: ChatPrompt, form: ChatFormat, tail: str, prompt_tokens: list[int]) -> OutputParser:
        """A reader for one answer."""
        if not self.vllm_reads(prompt, form):
            tools = () if prompt.tool_choice.mode == "none" else prompt.tools
            return form.parser(tools=tools, think=prompt.think, prompt_tail=tail)
        parser, request = self._make(prompt)
        return VllmReader(parser, request, prompt, prompt_tokens)

    def _make(self, prompt: ChatPrompt) -> tuple[Any, Any]:
        tools = template_tools(prompt.tools) if prompt.tool_choice.mode == "auto" else []
        kwargs = thinking_variables(think=prompt.think)
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": ""}], "chat_template_kwargs": kwargs}
        if tools:
            fields |= {"tools": tools, "tool_choice": "auto"}
        request = ChatCompletionRequest(**fields)
        parser = self._class(
            self._tokenizer,
            request.tools,
            model_config=self._model_config,
            chat_template_kwargs=kwargs,
        )
        return parser, parser.adjust_request(request)
