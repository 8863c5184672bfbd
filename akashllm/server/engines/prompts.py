"""From a request to the tokens of its prompt, the same for every engine whose child renders and tokenises.

All of it runs on threads beside the decode loop, so that a slow template holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from akashllm.errors import BadRequest, ContextOverflow, Unsupported
from akashllm.server.chat.formats import ChatFormat
from akashllm.server.chat.go.chat import GoChatTemplate
from akashllm.server.chat.masking import Segment
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    Generation,
    InfillPrompt,
    Message,
    TextPrompt,
    TokenPrompt,
)

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_STOP = 1024
"""Characters of one stop string."""
MAX_LOGPROBS = 100
MAX_BIAS = 4096
TAIL = 400
"""Characters of the rendered prompt that are told to the service."""

MUCH = 1 << 17
"""Characters of text from which a request is prepared apart from short ones; _MANY: messages."""
_MANY = 256

_KEPT = frozenset({"system", "developer"})


class Vocabulary(Protocol):
    """What has to be known of a model's tokens. Absent ones are -1."""

    size: int
    bos: int
    eos: int
    add_bos: bool
    """Whether a chat's prompt begins with BOS even where its template does not write it."""

    @property
    def special(self) -> Mapping[str, int]:
        """Texts the tokenizer takes for single tokens, with their ids."""
        ...

    @property
    def infill(self) -> tuple[int, ...] | None:
        """Prefix, suffix and middle tokens, if the model knows how to fill in."""
        ...

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Tokens of `text`. `bos` adds what the model wants around a prompt."""
        ...

    def text(self, token: int) -> str:
        """A token spelled out; empty for -1."""
        ...

    def check(self, tokens: Iterable[int]) -> None:
        """Raises `BadRequest` for ids outside the vocabulary."""
        ...


class Prompted(NamedTuple):
    """A prompt's tokens; for a chat also the end of its text and its format."""

    tokens: list[int]
    tail: str | None = None
    form: ChatFormat | None = None


Template = ChatTemplate | GoChatTemplate


class Prompts:
    """Makes prompts for one model.

    `metadata` has the model's own template under GGUF's names; `template`, a Modelfile's in Go's syntax, is
    used in its place. Raises `EngineFailed` if that cannot be read.
    """

    def __init__(self, vocabulary: Vocabulary, metadata: Mapping[str, Any], template: str = "") -> None:
        self._vocabulary = vocabulary
        self._metadata = metadata
        self._go = self._read(template, None) if template else None
        self._templates: dict[bool, tuple[Template, ChatFormat]] = {}

    def prompt(self, request: Generation, limit: int) -> Prompted:
        """The prompt of a request that may have `limit` tokens. Raises `BadRequest`."""
        asked = request.prompt
        if isinstance(asked, ChatPrompt):
            template, form = self._template(asked)
            tokens, tail = self._chat(template, asked, request, limit)
            made = Prompted(tokens, tail, form)
        else:
            made = Prompted(self._tokens(asked))
        if not made.tokens:
            vocabulary = self._vocabulary
            first = vocabulary.bos if vocabulary.bos >= 0 else vocabulary.eos
            if first < 0:
                raise BadRequest("the prompt is empty", hint="send at least one token", param="prompt")
            made = made._replace(tokens=[first])
        if len(made.tokens) > limit:
            raise ContextOverflow(len(made.tokens), limit, param="prompt")
        return made

    def _read(self, source: str, param: str | None) -> GoChatTemplate:
        return GoChatTemplate(source, control=frozenset(self._vocabulary.special), param=param)

    def _template(self, prompt: ChatPrompt) -> tuple[Template, ChatFormat]:
        """The template of a chat and how such chats are written."""
        vocabulary, tools = self._vocabulary, bool(prompt.tools)
        if prompt.template:
            asked = self._read(prompt.template, "template")
            return asked, ChatFormat.detect(asked.source, vocabulary.special)
        found = self._templates.get(tools)
        if found is None:
            template: Template = self._go or ChatTemplate.from_metadata(
                self._metadata,
                bos=vocabulary.text(vocabulary.bos),
                eos=vocabulary.text(vocabulary.eos),
                control=frozenset(vocabulary.special),
                tools=tools,
            )
            form = ChatFormat.detect(template.source, vocabulary.special)
            found = self._templates[tools] = template, form
        return found

    def _tokens(self, prompt: TextPrompt | TokenPrompt | InfillPrompt) -> list[int]:
        vocabulary = self._vocabulary
        if isinstance(prompt, TextPrompt):
            return vocabulary.tokenize(prompt.text, special=True, bos=True)
        if isinstance(prompt, TokenPrompt):
            vocabulary.check(prompt.tokens)
            return list(prompt.tokens)
        go = self._read(prompt.template, "template") if prompt.template else self._go
        if go is not None and go.infills:
            return self._joined(go.render_infill(prompt.prefix, prompt.suffix), [])
        if vocabulary.infill is None:
            raise Unsupported("this model cannot fill in the middle of a text", param="suffix")
        before, after, middle = vocabulary.infill
        head = vocabulary.tokenize(prompt.prefix, special=False, bos=False)
        tail = vocabulary.tokenize(prompt.suffix, special=False, bos=False)
        start = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos >= 0 else []
        return [*start, before, *head, after, *tail, middle]

    def _chat(
        self, template: Template, prompt: ChatPrompt, request: Generation, limit: int
    ) -> tuple[list[int], str]:
        self._vocabulary.check(prompt.prefix_tokens)
        tokens, tail = self._render(template, prompt, prompt.messages)
        if len(tokens) <= limit or not prompt.drop_oldest:
            return tokens, tail
        room = limit - min(limit // 4, request.max_tokens if request.max_tokens is not None else limit)
        droppable = [place for place, message in enumerate(prompt.messages[:-1]) if message.role not in _KEPT]
        # Fewer messages never give a longer prompt: the smallest number to drop is found by halving.
        low, high = 1, len(droppable)
        while low < high:
            middle = (low + high) // 2
            tokens, tail = self._render(template, prompt, _without(prompt.messages, droppable[:middle]))
            if len(tokens) <= room:
                high = middle
            else:
                low = middle + 1
        return self._render(template, prompt, _without(prompt.messages, droppable[:low]))

    def _render(
        self, template: Template, prompt: ChatPrompt, messages: Sequence[Message]
    ) -> tuple[list[int], str]:
        tools = () if prompt.tool_choice.mode == "none" else prompt.tools
        segments = template.render_segments(
            messages, tools=tools, think=prompt.think, continue_final=prompt.continue_final
        )
        tokens = self._joined(segments, list(prompt.prefix_tokens))
        return tokens, "".join(segment.text for segment in segments[-3:])[-TAIL:]

    def _joined(self, segments: Sequence[Segment], tokens: list[int]) -> list[int]:
        """The tokens of a prompt's parts after those that stand before it."""
        vocabulary = self._vocabulary
        # Most templates begin with the text of BOS themselves; a second one spoils the answer.
        if vocabulary.add_bos and vocabulary.bos >= 0 and not tokens:
            bos = vocabulary.text(vocabulary.bos)
            if not (segments and segments[0].text.startswith(bos)):
                tokens.append(vocabulary.bos)
        for segment in segments:
            tokens += vocabulary.tokenize(segment.text, special=segment.special, bos=False)
        return tokens


def shape(form: ChatFormat, prompt: ChatPrompt, asked: Constraint | None, tail: str) -> Constraint | None:
    """The constraint of a chat: the call its tool_choice wants, or what was asked for after any thinking."""
    call = form.constraint(
        prompt.tools,
        prompt.tool_choice,
        parallel=prompt.parallel_tool_calls,
        think=prompt.think,
        prompt_tail=tail,
    )
    if call is not None or asked is None:
        return call
    return form.wrap_after_thinking(asked, prompt_tail=tail, think=prompt.think)


def check(request: Generation, vocabulary_size: int) -> None:
    """Raises `BadRequest` where a number is outside what any engine is asked to do."""
    _within("n", request.n, 1, MAX_CHOICES)
    _within("the number of stop strings", len(request.stop), 0, MAX_STOPS, "stop")
    for stop in request.stop:
        _within("the length of a stop string", len(stop), 0, MAX_STOP, "stop")
    _within("logprobs", request.logprobs or 0, 0, MAX_LOGPROBS)
    _within("prompt_logprobs", request.prompt_logprobs or 0, 0, MAX_LOGPROBS, "logprobs")
    if request.max_tokens is not None:
        _within("max_tokens", request.max_tokens, 0, 1 << 62)
    _within("the number of biased tokens", len(request.sampling.logit_bias), 0, MAX_BIAS, "logit_bias")
    for token in request.sampling.logit_bias:
        _within("a token id in logit_bias", token, 0, vocabulary_size - 1, "logit_bias")


def check_ids(tokens: Iterable[int], size: int) -> None:
    """Raises `BadRequest` for ids outside a vocabulary of that size: libraries abort on them."""
    for token in tokens:
        if not 0 <= token < size:
            message = f"token id {token} is outside the vocabulary of this model (0 to {size - 1})"
            raise BadRequest(message, hint="send ids of this model's own tokenizer", param="prompt")


def slow(request: Generation) -> bool:
    """Whether preparing it may take seconds, for which others are not to wait: a grammar, or much text."""
    match request.prompt:
        case ChatPrompt(messages=messages, tools=tools):
            if tools or len(messages) > _MANY:
                return True
            size = sum(len(message.content) + len(message.thinking) for message in messages)
        case TextPrompt(text=text):
            size = len(text)
        case InfillPrompt(prefix=prefix, suffix=suffix):
            size = len(prefix) + len(suffix)
        case _:
            size = 0
    return request.constraint is not None or size > MUCH


def _without(messages: Sequence[Message], places: Sequence[int]) -> list[Message]:
    gone = set(places)
    return [message for place, message in enumerate(messages) if place not in gone]


def _within(what: str, value: int, least: int, most: int, param: str | None = None) -> None:
    if not least <= value <= most:
        message = f"{what} is {value}: it has to be from {least} to {most}"
        raise BadRequest(message, param=param or what)
