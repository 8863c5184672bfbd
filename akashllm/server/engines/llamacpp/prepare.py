"""From a neutral request to a job: template, tokens, constraint; all checks that need the model.

This runs on threads beside the decode loop, so that a slow template or grammar holds up nobody else.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from akashllm.errors import BadRequest, ContextOverflow, Unsupported
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import ChatPrompt, Generation, InfillPrompt, Message, TextPrompt, TokenPrompt
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
TAIL = 64
"""Characters of the rendered prompt that are told to the service."""


class Preparer:
    """Makes jobs for one model. Every method may be called from any thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._vocabulary = model.vocabulary
        self.constraints = Constraints(model.vocabulary)
        self._bos = model.vocabulary.text(model.vocabulary.bos) or "\0"
        eos = model.vocabulary.text(model.vocabulary.eos)
        control = model.vocabulary.markers
        self._template, self._tool_template = (
            ChatTemplate.from_metadata(model.metadata, bos=self._bos, eos=eos, control=control, tools=tools)
            for tools in (False, True)
        )

    def job(self, key: int, request: Generation) -> Job:
        """A job ready to be scheduled. Raises `BadRequest`."""
        if not self._model.generates:
            raise Unsupported("this model makes embeddings and does not generate text")
        self._check(request)
        limit = self._model.context_length
        if request.context is not None:
            limit = max(MIN_CONTEXT, min(limit, request.context))
        tokens, tail = self._tokens(request, limit)
        if not tokens:
            tokens = [self._vocabulary.bos if self._vocabulary.bos >= 0 else self._vocabulary.eos]
            if tokens[0] < 0:
                raise BadRequest("the prompt is empty", hint="send at least one token", param="prompt")
        if len(tokens) > limit:
            raise ContextOverflow(len(tokens), limit, param="prompt")
        vocabulary = self._vocabulary
        chat = isinstance(request.prompt, ChatPrompt)
        job = Job(
            key=key,
            request=request,
            prompt=array("i", tokens),
            limit=limit,
            pieces=vocabulary.spelled if chat else vocabulary.shown,
            spelled=vocabulary.spelled,
            ends=vocabulary.ends,
            tail=tail,
        )
        matcher = self.constraints.compile(request.constraint) if request.constraint is not None else None
        for index in range(request.n):
            sampler = Sampler(request.sampling, tokens, index=index, context=limit, newline=vocabulary.newline)
            guide = self.constraints.guide(matcher) if matcher is not None else None
            job.choices.append(Choice(job, index, sampler, guide))
        return job

    def _check(self, request: Generation) -> None:
        _within("n", request.n, 1, MAX_CHOICES)
        _within("the number of stop strings", len(request.stop), 0, MAX_STOPS, "stop")
        for stop in request.stop:
            _within("the length of a stop string", len(stop), 0, MAX_STOP, "stop")
        _within("logprobs", request.logprobs or 0, 0, MAX_LOGPROBS)
        _within("prompt_logprobs", request.prompt_logprobs or 0, 0, MAX_LOGPROBS, "logprobs")
        if request.max_tokens is not None:
            _within("max_tokens", request.max_tokens, 1, 1 << 62)
        _within("the number of biased tokens", len(request.sampling.logit_bias), 0, MAX_BIAS, "logit_bias")
        for token in request.sampling.logit_bias:
            _within("a token id in logit_bias", token, 0, self._vocabulary.size - 1, "logit_bias")

    def _tokens(self, request: Generation, limit: int) -> tuple[list[int], str | None]:
        vocabulary = self._vocabulary
        prompt = request.prompt
        if isinstance(prompt, TextPrompt):
            return vocabulary.tokenize(prompt.text, special=True, bos=True), None
        if isinstance(prompt, TokenPrompt):
            vocabulary.check(prompt.tokens)
            return list(prompt.tokens), None
        if isinstance(prompt, InfillPrompt):
            if vocabulary.infill is None:
                raise Unsupported("this model cannot fill in the middle of a text", param="suffix")
            before, after, middle = vocabulary.infill
            head = vocabulary.tokenize(prompt.prefix, special=False, bos=False)
            tail = vocabulary.tokenize(prompt.suffix, special=False, bos=False)
            start = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos >= 0 else []
            return [*start, before, *head, after, *tail, middle], None
        return self._chat(prompt, request, limit)

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
        template = self._tool_template if prompt.tools else self._template
        tools = () if prompt.tool_choice.mode == "none" else prompt.tools
        segments = template.render_segments(
            messages, tools=tools, think=prompt.think, continue_final=prompt.continue_final
        )
        vocabulary = self._vocabulary
        tokens = list(prompt.prefix_tokens)
        # Most templates begin with the text of BOS themselves; a second one spoils the answer.
        bos = vocabulary.add_bos and not tokens and not segments[0].text.startswith(self._bos)
        if bos and vocabulary.bos >= 0:
            tokens.append(vocabulary.bos)
        for segment in segments:
            tokens += vocabulary.tokenize(segment.text, special=segment.special, bos=False)
        return tokens, "".join(segment.text for segment in segments[-3:])[-TAIL:]


_KEPT = frozenset({"system", "developer"})


def _without(messages: Sequence[Message], places: Sequence[int]) -> list[Message]:
    gone = set(places)
    return [message for place, message in enumerate(messages) if place not in gone]


def _within(what: str, value: int, least: int, most: int, param: str | None = None) -> None:
    if not least <= value <= most:
        message = f"{what} is {value}: it has to be from {least} to {most}"
        raise BadRequest(message, param=param or what)
