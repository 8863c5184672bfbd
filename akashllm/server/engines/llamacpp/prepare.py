"""From a neutral request to a job: template, tokens, constraint; all checks that need the model.

This runs on threads beside the decode loop, so that a slow template or grammar holds up nobody else.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from akashllm.errors import BadRequest, ContextOverflow, Unsupported
from akashllm.server.chat.formats import ChatFormat
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
from akashllm.server.engines.llamacpp.constraint import Constraints
from akashllm.server.engines.llamacpp.job import Choice, Job
from akashllm.server.engines.llamacpp.model import MIN_CONTEXT, Model
from akashllm.server.engines.llamacpp.sampling import Sampler

MAX_CHOICES = 128
MAX_STOPS = 64
MAX_STOP = 1024
"""Characters of one stop string."""
MAX_LOGPROBS = 100
MAX_BIAS = 4096
TAIL = 400
"""Characters of the rendered prompt that are told to the service."""


class Preparer:
    """Makes jobs for one model. Every method may be called from any thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._vocabulary = vocabulary = model.vocabulary
        self.constraints = Constraints(vocabulary)
        self._templates: dict[bool, tuple[ChatTemplate, ChatFormat, list[bytes]]] = {}

    def job(self, key: int, request: Generation) -> Job:
        """A job ready to be scheduled. Raises `BadRequest`."""
        if not self._model.generates:
            raise Unsupported("this model makes embeddings and does not generate text")
        self._check(request)
        limit = self._model.context_length
        if request.context is not None:
            limit = max(MIN_CONTEXT, min(limit, request.context))
        vocabulary = self._vocabulary
        pieces, tail, stops = vocabulary.shown, None, request.stop
        constraint = self.constraints.checked(request.constraint) if request.constraint is not None else None
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt):
            _, form, pieces = self._template(tools=bool(prompt.tools))
            stops = (*stops, *form.stops)
            tokens, tail = self._chat(prompt, request, limit)
            constraint = _shape(form, prompt, constraint, tail)
        else:
            tokens = self._tokens(prompt)
        if not tokens:
            tokens = [vocabulary.bos if vocabulary.bos >= 0 else vocabulary.eos]
            if tokens[0] < 0:
                raise BadRequest("the prompt is empty", hint="send at least one token", param="prompt")
        if len(tokens) > limit:
            raise ContextOverflow(len(tokens), limit, param="prompt")
        job = Job(
            key=key,
            request=request,
            prompt=array("i", tokens),
            limit=limit,
            pieces=pieces,
            spelled=vocabulary.spelled,
            ends=vocabulary.ends,
            stops=stops,
            tail=tail,
        )
        matcher = self.constraints.compile(constraint) if constraint is not None else None
        for index in range(request.n):
            sampler = Sampler(request.sampling, tokens, index=index, context=limit, newline=vocabulary.newline)
            guide = self.constraints.guide(matcher) if matcher is not None else None
            job.choices.append(Choice(job, index, sampler, guide))
        return job

    def _template(self, *, tools: bool) -> tuple[ChatTemplate, ChatFormat, list[bytes]]:
        """The template for chats with or without tools, its format, and the bytes of tokens its parser sees."""
        found = self._templates.get(tools)
        if found is None:
            vocabulary = self._vocabulary
            template = ChatTemplate.from_metadata(
                self._model.metadata,
                bos=vocabulary.text(vocabulary.bos),
                eos=vocabulary.text(vocabulary.eos),
                control=frozenset(vocabulary.special),
                tools=tools,
            )
            form = ChatFormat.detect(template.source, vocabulary.special)
            pieces = list(vocabulary.shown)
            for marker in form.markers & vocabulary.special.keys():
                token = vocabulary.special[marker]
                pieces[token] = vocabulary.spelled[token]
            found = self._templates[tools] = template, form, pieces
        return found

    def _check(self, request: Generation) -> None:
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
            _within("a token id in logit_bias", token, 0, self._vocabulary.size - 1, "logit_bias")

    def _tokens(self, prompt: TextPrompt | TokenPrompt | InfillPrompt) -> list[int]:
        vocabulary = self._vocabulary
        if isinstance(prompt, TextPrompt):
            return vocabulary.tokenize(prompt.text, special=True, bos=True)
        if isinstance(prompt, TokenPrompt):
            vocabulary.check(prompt.tokens)
            return list(prompt.tokens)
        if vocabulary.infill is None:
            raise Unsupported("this model cannot fill in the middle of a text", param="suffix")
        before, after, middle = vocabulary.infill
        head = vocabulary.tokenize(prompt.prefix, special=False, bos=False)
        tail = vocabulary.tokenize(prompt.suffix, special=False, bos=False)
        start = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos >= 0 else []
        return [*start, before, *head, after, *tail, middle]

    def _chat(self, prompt: ChatPrompt, request: Generation, limit: int) -> tuple[list[int], str]:
        self._vocabulary.check(prompt.prefix_tokens)
        tokens, tail = self._render(prompt, prompt.messages)
        if len(tokens) <= limit or not prompt.drop_oldest:
            return tokens, tail
        room = limit - min(limit // 4, request.max_tokens if request.max_tokens is not None else limit)
        droppable = [place for place, message in enumerate(prompt.messages[:-1]) if message.role not in _KEPT]
        # Fewer messages never give a longer prompt: the smallest number to drop is found by halving.
        low, high = 1, len(droppable)
        while low < high:
            middle = (low + high) // 2
            tokens, tail = self._render(prompt, _without(prompt.messages, droppable[:middle]))
            if len(tokens) <= room:
                high = middle
            else:
                low = middle + 1
        return self._render(prompt, _without(prompt.messages, droppable[:low]))

    def _render(self, prompt: ChatPrompt, messages: Sequence[Message]) -> tuple[list[int], str]:
        template, _, _ = self._template(tools=bool(prompt.tools))
        tools = () if prompt.tool_choice.mode == "none" else prompt.tools
        segments = template.render_segments(
            messages, tools=tools, think=prompt.think, continue_final=prompt.continue_final
        )
        vocabulary = self._vocabulary
        tokens = list(prompt.prefix_tokens)
        # Most templates begin with the text of BOS themselves; a second one spoils the answer.
        if vocabulary.add_bos and vocabulary.bos >= 0 and not tokens:
            bos = vocabulary.text(vocabulary.bos)
            if not (segments and segments[0].text.startswith(bos)):
                tokens.append(vocabulary.bos)
        for segment in segments:
            tokens += vocabulary.tokenize(segment.text, special=segment.special, bos=False)
        return tokens, "".join(segment.text for segment in segments[-3:])[-TAIL:]


def _shape(form: ChatFormat, prompt: ChatPrompt, asked: Constraint | None, tail: str) -> Constraint | None:
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


_KEPT = frozenset({"system", "developer"})


def _without(messages: Sequence[Message], places: Sequence[int]) -> list[Message]:
    gone = set(places)
    return [message for place, message in enumerate(messages) if place not in gone]


def _within(what: str, value: int, least: int, most: int, param: str | None = None) -> None:
    if not least <= value <= most:
        message = f"{what} is {value}: it has to be from {least} to {most}"
        raise BadRequest(message, param=param or what)
