"""From a neutral request to what vLLM is asked: tokens, sampling parameters, structured output."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from akashllm.errors import ContextOverflow
from akashllm.server.chat.formats import ChatFormat
from akashllm.server.domain import ChatPrompt, Constraint, Generation
from akashllm.server.engines import shape, trial
from akashllm.server.engines.prompts import Prompts, check
from akashllm.server.engines.prompts import shape as shape_of_chat
from akashllm.server.engines.trial import Trials
from akashllm.server.engines.vllm.vocabulary import Vocabulary

_SEEDS = 1 << 63
_KNOWN = 64
_JSON = {
    "whitespace_flexible": False,
    "item_separator": f"{shape.SPACE},{shape.SPACE}",
    "key_separator": f"{shape.SPACE}:{shape.SPACE}",
}
"""The llguidance that vLLM pins (below 1.8) repeats a `whitespace_pattern` without end: white space is bounded
around commas and colons instead, and there is none inside brackets."""
_PENALTY = 2.0
"""vLLM takes presence and frequency penalties from minus this to this; _HOTTEST: temperatures up to that."""
_HOTTEST = 2.0
_LEAST = 1e-6
"""Stands for a top_p of 0, which leaves the most likely token and which vLLM refuses."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is ready. `room`: the most tokens one answer may have."""

    tokens: list[int]
    room: int
    stops: tuple[str, ...]
    form: ChatFormat | None
    tail: str
    structured: Constraint | None
    marked: bool
    """Whether special tokens are part of the text, because the parser of the answer has to see some."""
    hidden: frozenset[int]
    """Those of them that are taken out again."""

    def seen(self, *, special: bool) -> Prepared:
        """The same, with or without all special tokens in the text."""
        return replace(self, marked=special, hidden=frozenset())


class Preparer:
    """Prepares for one model. Every method may be called from any thread."""

    def __init__(self, vocabulary: Vocabulary, prompts: Prompts, context: int) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._prompts = prompts
        end = min(vocabulary.ends, default=0)
        self._trials = Trials(trial.Vocabulary(vocabulary.spelled, sorted(vocabulary.special.values()), end))
        self._tried: OrderedDict[Constraint, None] = OrderedDict()
        self._lock = Lock()

    def prepare(self, request: Generation) -> Prepared:
        """Everything that does not depend on the choice. Raises `BadRequest`."""
        vocabulary = self._vocabulary
        check(request, vocabulary.size)
        limit = min(self._context, request.context or self._context)
        asked = shape.checked(request.constraint, self._trials.lark, _JSON) if request.constraint else None
        tokens, tail, form = self._prompts.prompt(request, limit)
        if len(tokens) >= self._context:
            # vLLM wants room for one token of the answer.
            raise ContextOverflow(len(tokens), self._context, param="prompt")
        stops, hidden, marked = request.stop, frozenset[int](), False
        if form is not None and isinstance(request.prompt, ChatPrompt):
            stops = (*stops, *form.stops)
            asked = shape_of_chat(form, request.prompt, asked, tail or "")
            hidden = vocabulary.control - {vocabulary.special.get(marker) for marker in form.markers}
            marked = hidden != vocabulary.control
        if asked is not None:
            self._try(asked)
        return Prepared(
            tokens=tokens,
            room=min(limit + 1, self._context) - len(tokens),
            stops=stops,
            form=form,
            tail=tail or "",
            structured=asked,
            marked=marked,
            hidden=hidden if marked else frozenset(),
        )

    def parameters(self, request: Generation, prepared: Prepared, index: int) -> SamplingParams:
        """What vLLM is told for choice `index`.

        It has no windows for penalties, no mirostat and no locally typical sampling, and it does not shift a
        context: those settings are ignored.
        """
        sampling = request.sampling
        most = prepared.room if request.max_tokens is None else min(request.max_tokens, prepared.room)
        echo = request.prompt_logprobs if index == 0 else None
        # Where a constraint ends there is nothing else to say, ignored or not.
        endless = request.ignore_eos and prepared.structured is None
        return SamplingParams(
            temperature=min(_HOTTEST, max(0.0, sampling.temperature)),
            top_k=max(0, sampling.top_k),
            top_p=min(1.0, max(_LEAST, sampling.top_p)),
            min_p=min(1.0, max(0.0, sampling.min_p)),
            repetition_penalty=sampling.repeat_penalty,
            presence_penalty=max(-_PENALTY, min(_PENALTY, sampling.presence_penalty)),
            frequency_penalty=max(-_PENALTY, min(_PENALTY, sampling.frequency_penalty)),
            logit_bias=dict(sampling.logit_bias) or None,
            seed=(sampling.seed + index) % _SEEDS if sampling.seed is not None else None,
            max_tokens=max(1, most),
            ignore_eos=endless,
            stop_token_ids=None if endless else sorted(self._vocabulary.ends),
            logprobs=0 if request.logprobs is None and request.score else request.logprobs,
            prompt_logprobs=echo,
            structured_outputs=_structured(prepared.structured) if prepared.structured else None,
            skip_special_tokens=not prepared.marked,
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )

    def _try(self, constraint: Constraint) -> None:
        """See that compiling it comes to an end, before vLLM's core compiles it. Raises `BadRequest`."""
        with self._lock:
            if constraint in self._tried:
                self._tried.move_to_end(constraint)
                return
        self._trials.check(shape.grammar(constraint))
        with self._lock:
            self._tried[constraint] = None
            while len(self._tried) > _KNOWN:
                self._tried.popitem(last=False)


def _structured(constraint: Constraint) -> StructuredOutputsParams:
    if constraint.kind == "json_schema":
        return StructuredOutputsParams(json=constraint.value)
    if constraint.kind == "regex":
        return StructuredOutputsParams(regex=constraint.value)
    return StructuredOutputsParams(grammar=constraint.value)
