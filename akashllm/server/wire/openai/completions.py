"""`POST /v1/completions`: raw prompts, one or many, without a chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akashllm.errors import Unsupported
from akashllm.server.domain import (
    Delta,
    Done,
    Event,
    Finish,
    Generation,
    InfillPrompt,
    ModelInfo,
    Prompt,
    Started,
    TextPrompt,
    TokenLogprob,
    TokenPrompt,
)
from akashllm.server.wire.openai.answers import Choice, Collected, Counter, best
from akashllm.server.wire.openai.call import Call, new_id, now
from akashllm.server.wire.openai.encoding import DONE, FINGERPRINT, encode, event
from akashllm.server.wire.openai.logprobs import TextLogprobs, join
from akashllm.server.wire.openai.reading import Fields, invalid, wrong_type
from akashllm.server.wire.openai.sampling import (
    MAX_TOP_LOGPROBS,
    read_choices,
    read_constraint,
    read_ignore_eos,
    read_include_usage,
    read_inputs,
    read_max_tokens,
    read_sampling,
    read_stop,
)

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this route."""

MAX_PROMPTS = 256
"""Prompts in one request."""

MAX_TOTAL_CHOICES = 1024
"""Prompts times choices in one request."""


class CompletionCall(Call, frozen=True, kw_only=True):
    """`prompts` are what `echo` repeats: texts, or token ids that must be turned into text first."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool = False
    top: int = 0


def read_completion(values: Mapping[str, Any], *, name: str, model: str, info: ModelInfo) -> CompletionCall:
    """A request from its JSON. `name` is the model as the client typed it, `model` as it is served."""
    body = Fields(values)
    stream = body.boolean("stream")
    prompts, _ = read_inputs(body, "prompt", info.vocab_size, limit=MAX_PROMPTS)
    n, best_of = read_choices(body, stream=stream)
    if len(prompts) * best_of > MAX_TOTAL_CHOICES:
        message = (
            f"times the number of prompts may be at most {MAX_TOTAL_CHOICES}, not {len(prompts) * best_of}"
        )
        raise invalid("n", message, code="integer_above_max_value")
    max_tokens = read_max_tokens(body, "max_completion_tokens", "max_tokens")
    echo = body.boolean("echo")
    logprobs = _read_logprobs(body)
    suffix = _read_suffix(body, info)
    sampling, constraint = read_sampling(body, info.vocab_size), read_constraint(body)
    stop, ignore_eos = read_stop(body), read_ignore_eos(body)
    identifier = new_id("cmpl")
    generations = tuple(
        Generation(
            id=identifier if len(prompts) == 1 else f"{identifier}-{position}",
            model=model,
            prompt=_prompt(prompt, suffix, f"prompt[{position}]" if len(prompts) > 1 else "prompt"),
            sampling=sampling,
            constraint=constraint,
            n=best_of,
            max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
            stop=stop,
            ignore_eos=ignore_eos,
            logprobs=logprobs,
            # The tokens of a gap to fill stand in another order than the text: only the answer is scored.
            prompt_logprobs=logprobs if echo and not suffix else None,
            score=best_of > n,
        )
        for position, prompt in enumerate(prompts)
    )
    return CompletionCall(
        id=identifier,
        created=now(),
        model=name,
        generations=generations,
        n=n,
        stream=stream,
        include_usage=read_include_usage(body),
        logprobs=logprobs is not None,
        prompts=tuple(prompts),
        echo=echo,
        top=logprobs or 0,
    )


def _read_logprobs(body: Fields) -> int | None:
    """An integer here; some clients send chat's boolean and `top_logprobs`."""
    if isinstance(body.get("logprobs"), bool):
        return (body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS) or 0) if body.boolean("logprobs") else None
    return body.integer("logprobs", 0, MAX_TOP_LOGPROBS)


def _read_suffix(body: Fields, info: ModelInfo) -> str:
    suffix = body.string("suffix") or ""
    if suffix and info.capabilities and "insert" not in info.capabilities:
        raise Unsupported(
            "this model has no fill-in-the-middle tokens, so it cannot fill the gap before a suffix",
            param="suffix",
            hint="leave it out, or serve a code model",
        )
    return suffix


def _prompt(prompt: str | tuple[int, ...], suffix: str, param: str) -> Prompt:
    if isinstance(prompt, tuple):
        if suffix:
            raise wrong_type(param, "a string where there is a suffix", list(prompt))
        return TokenPrompt(tokens=prompt)
    return InfillPrompt(prefix=prompt, suffix=suffix) if suffix else TextPrompt(text=prompt)


# --- the whole answer ----------------------------------------------------------------------------------


def completion_answer(call: CompletionCall, collected: Collected, texts: Sequence[str]) -> bytes:
    """A `text_completion` object. `texts` are the prompts as text, for `echo`."""
    choices: list[dict[str, Any]] = []
    for generation, scored in enumerate(collected.prompts):
        made = collected.of(generation)
        text = texts[generation] if call.echo else ""
        for choice in best(made, call.n) if call.best_of else made:
            choices.append(_choice(call, len(choices), choice, text, scored))
    return encode(
        {
            "id": call.id,
            "object": "text_completion",
            "created": call.created,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": collected.counter.usage(),
        }
    )


def _choice(
    call: CompletionCall, index: int, choice: Choice, prompt: str, scored: tuple[TokenLogprob, ...]
) -> dict[str, Any]:
    logprobs = None
    if call.logprobs:
        pieces = TextLogprobs(call.top)
        logprobs = join(pieces.prompt(scored, prompt), pieces.tokens(choice.logprobs))
    return {
        "text": prompt + choice.text,
        "index": index,
        "logprobs": logprobs,
        "finish_reason": _finish_reason(choice.reason),
    }


def _finish_reason(reason: str) -> str:
    return "length" if reason == "length" else "stop"


# --- the stream ----------------------------------------------------------------------------------------


class CompletionStream:
    """Turns the events of one or more generations into server-sent events.

    Choice `k` of prompt `i` has the index `i * n + k`. A chunk is spliced from constant bytes, for this runs
    once a token.
    """

    def __init__(self, call: CompletionCall, texts: Sequence[str]) -> None:
        self._call = call
        self._texts = texts
        self._head = (
            b'data: {"id":' + encode(call.id) + b',"object":"text_completion","created":'
            + encode(call.created) + b',"model":' + encode(call.model)
            + b',"system_fingerprint":' + encode(FINGERPRINT) + b',"choices":['
        )  # fmt: skip
        usage = b',"usage":null' if call.include_usage else b""
        self._tail = b"}]" + usage + b"}\n\n"
        total = len(call.generations) * call.n
        self._starts = [self._head + b'{"index":' + encode(index) + b',"text":' for index in range(total)]
        self._logprobs = [TextLogprobs(call.top) for _ in range(total)]
        self._counter = Counter()

    def feed(self, incoming: Event, generation: int = 0) -> bytes:
        """The bytes an event of the generation of that number becomes; none for some."""
        base = generation * self._call.n
        match incoming:
            case Delta():
                return self._delta(base + incoming.index, incoming)
            case Started():
                if not self._call.echo:
                    return b""
                text = self._texts[generation]
                return b"".join(
                    self._chunk(index, text, self._logprobs[index].prompt(incoming.prompt, text))
                    for index in range(base, base + self._call.n)
                )
            case Finish():
                return self._chunk(base + incoming.index, "", None, _finish_reason(incoming.reason))
            case Done():
                self._counter.done(incoming)
                return b""

    def end(self) -> bytes:
        """The last bytes: usage if it was asked for, and the end mark."""
        if not self._call.include_usage:
            return DONE
        return event(self._head, b'],"usage":' + encode(self._counter.usage()) + b"}") + DONE

    def _delta(self, index: int, delta: Delta) -> bytes:
        if delta.logprobs and self._call.logprobs:
            return self._chunk(index, delta.text, self._logprobs[index].tokens(delta.logprobs))
        if not delta.text:
            return b""
        constant = b',"logprobs":null,"finish_reason":null'
        return b"".join((self._starts[index], encode(delta.text), constant, self._tail))

    def _chunk(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None = None
    ) -> bytes:
        shown = logprobs if self._call.logprobs else None
        return b"".join(
            (
                self._starts[index],
                encode(text),
                b',"logprobs":' + encode(shown),
                b',"finish_reason":' + encode(reason),
                self._tail,
            )
        )
