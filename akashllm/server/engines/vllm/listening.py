"""A Whisper in vLLM: recordings are decoded, heard window after window, and written down with their times.

The prompts are Whisper's own (`whisper/decoding.py`), given as tokens, so that nothing a client writes can be
taken for one of them. vLLM has none of Whisper's rules about which time may follow which, so times are checked
here instead. Recordings of several clients share vLLM's batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from vllm import SamplingParams

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import EngineStats, Event, Generation, Heard, Segment, Transcription
from akashllm.server.engines.blame import ORDER
from akashllm.server.engines.frames import Detokenize, Embed, Load, Reply, Tokenize, Transcribed
from akashllm.server.engines.sound import RATE, samples
from akashllm.server.engines.vllm import launch
from akashllm.server.engines.vllm.clock import Clock
from akashllm.server.engines.vllm.launch import Refusal
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.refused import refusal
from akashllm.server.engines.vllm.stats import Counts
from akashllm.server.engines.vllm.timestamps import WINDOW, Slice, read_window
from akashllm.server.engines.vllm.vocabulary import Vocabulary

Sound = NDArray[np.float32]
Written = Heard | Segment | Transcribed

_RISING = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_DULL = -1.0
"""Average log probability below which, and compression above which, a window is heard again, less certain."""
_REPETITIVE = 2.4
_TOKENS = 448
"""The most Whisper's decoder takes; half of them are for what came before."""
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_MULTILINGUAL = 51_865


@dataclass(frozen=True, slots=True)
class _Guess:
    """What one temperature made of a window. `tokens` are without prompt and end."""

    tokens: tuple[int, ...]
    temperature: float
    logprob: float
    compression: float

    @property
    def good(self) -> bool:
        return self.logprob >= _DULL and self.compression <= _REPETITIVE


class Listening:
    """Answers orders over a running engine, as `Serving` does for models of text."""

    def __init__(
        self, engine: Any, counts: Counts, vocabulary: Vocabulary, order: Load, options: Options, vram: int
    ) -> None:
        self._engine = engine
        self._counts = counts
        self._vocabulary = vocabulary
        self._decoder = options.decoder
        special = vocabulary.special
        try:
            self._start, self._zero = special["<|startoftranscript|>"], special["<|0.00|>"]
            self._before = special["<|startofprev|>"]
            self._tasks = {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")}
        except KeyError as error:
            raise Refusal(
                f"the model's vocabulary has no {error.args[0]}: it is no Whisper", fault=ORDER
            ) from error
        found = ((_LANGUAGE.fullmatch(text), number) for text, number in special.items())
        self._languages = {match[1]: number for match, number in found if match}
        self._multilingual = vocabulary.size >= _MULTILINGUAL
        info = launch.information(order, engine, vocabulary, embeds=False, vram=vram)
        self.info = msgspec.structs.replace(info, family="whisper", capabilities=("transcription",))
        self.clock = Clock()

    @classmethod
    async def over(cls, engine: Any, counts: Counts, order: Load, options: Options, vram: int) -> Listening:
        """Get to know what `engine` runs in `vram` bytes of GPU memory. Raises `Refusal`."""
        tasks = await engine.get_supported_tasks()
        if "transcription" not in tasks:
            raise Refusal(f"this model does not transcribe speech (vLLM says: {', '.join(tasks)})", fault=ORDER)
        return cls(engine, counts, launch.vocabulary_of(engine), order, options, vram)

    async def warm_up(self) -> None:
        """A second of silence: the first window takes seconds. Raises `Refusal`."""
        request = Transcription(id="warm-up", model="", path="", format="")
        guess = await self._hear(request, np.zeros(RATE, np.float32), self._prompt(request, "en"), 0.0, 0)
        if not guess.tokens and guess.logprob == 0.0:
            raise Refusal("the model loads but does not produce a token")

    async def transcribe(self, request: Transcription, emit: Callable[[Written], None]) -> None:
        """Write a recording down; its last event is `Transcribed`. Cancelling this aborts it."""
        if request.words:
            raise BadRequest(
                "vLLM does not tell the times of single words",
                hint="ask for the times of segments, or serve this model with --engine llamacpp",
                param="timestamp_granularities",
            )
        self._check(request.language)
        decode = partial(samples, request.path, request.format, request.longest, python=self._decoder)
        sound = await asyncio.to_thread(decode)
        self.clock.expect(request.id, _TOKENS)
        try:
            language = request.language or await self._language(request, sound[: int(WINDOW * RATE)])
            duration = len(sound) / RATE
            emit(Heard(language=language, duration=duration))
            await self._write(request, sound, language, emit)
        finally:
            self.clock.drop(request.id)
        emit(Transcribed())

    async def _write(
        self, request: Transcription, sound: Sound, language: str, emit: Callable[[Written], None]
    ) -> None:
        duration, seek, number, last = len(sound) / RATE, 0.0, 0, 0.0
        before: list[int] = []
        if request.prompt:
            before = self._vocabulary.tokenize(" " + request.prompt.strip(), special=False, bos=False)
        while duration - seek > 0.1 or (number == 0 and seek == 0.0):
            window = sound[int(seek * RATE) : int((seek + WINDOW) * RATE)]
            prompt = self._prompt(request, language, before)
            guess = await self._best(request, window, prompt, round(seek * 100))
            slices, done = read_window((self._zero, *guess.tokens), self._zero, len(window) / RATE)
            for part in slices:
                segment = self._segment(part, guess, number, seek, last, duration)
                if segment.text.strip():
                    emit(segment)
                    number, last = number + 1, segment.end
            # What was said conditions what comes next, unless the model had to guess.
            said = [token for part in slices for token in part.tokens]
            before = said if guess.temperature <= 0.5 else []
            seek += done

    async def _best(self, request: Transcription, window: Sound, prompt: list[int], seek: int) -> _Guess:
        """The first temperature whose result is good, or the last."""
        rising = (request.temperature,) if request.temperature else _RISING
        guess = await self._hear(request, window, prompt, rising[0], seek)
        for temperature in rising[1:]:
            if guess.good:
                break
            guess = await self._hear(request, window, prompt, temperature, seek)
        return guess

    async def _hear(
        self, request: Transcription, window: Sound, prompt: list[int], temperature: float, seek: int
    ) -> _Guess:
        parameters = SamplingParams(
            temperature=temperature,
            max_tokens=min(_TOKENS // 2, self.info.context - len(prompt)),
            logprobs=0,
            detokenize=False,
        )
        output = await self._ask(f"{request.id}-{seek}-{temperature}", window, prompt, parameters)
        tokens = tuple(token for token in output.token_ids if token <= self._end or token >= self._zero)
        said = tuple(token for token in tokens if token != self._end)
        text = self._vocabulary.detokenize(tuple(token for token in said if token < self._end)).encode()
        return _Guess(
            said,
            temperature,
            float(output.cumulative_logprob or 0.0) / (len(output.token_ids) or 1),
            len(text) / len(zlib.compress(text)) if text else 0.0,
        )

    async def _ask(self, name: str, window: Sound, prompt: list[int], parameters: SamplingParams) -> Any:
        """VLLM's one answer about a window."""
        final: Any = None
        sound = {"prompt": "", "multi_modal_data": {"audio": (window, RATE)}}
        both = {"encoder_prompt": sound, "decoder_prompt": {"prompt_token_ids": prompt}}
        async with contextlib.aclosing(self._engine.generate(both, parameters, name)) as outputs:
            async for output in outputs:
                self.clock.hear()
                final = output.outputs[0]
        return final

    async def _language(self, request: Transcription, window: Sound) -> str:
        """What is spoken in the first window."""
        if not self._multilingual:
            return "en"
        allowed = sorted(self._languages.values())
        parameters = SamplingParams(temperature=0.0, max_tokens=1, allowed_token_ids=allowed, detokenize=False)
        output = await self._ask(f"{request.id}-language", window, [self._start], parameters)
        names = {number: name for name, number in self._languages.items()}
        return names[output.token_ids[0]]

    def _prompt(self, request: Transcription, language: str, before: list[int] | None = None) -> list[int]:
        head = [self._before, *before[-(_TOKENS // 2 - 1) :]] if before else []
        kind = [self._languages[language], self._tasks[request.task]] if self._multilingual else []
        return [*head, self._start, *kind, self._zero]

    def _check(self, language: str | None) -> None:
        known = self._languages if self._multilingual else {"en": 0}
        if language is not None and language not in known:
            raise BadRequest(
                f"this model does not know the language {language!r}",
                hint=f"leave it out, or send one of: {', '.join(sorted(known))}",
                param="language",
                code="unsupported_language",
            )

    def _segment(
        self, part: Slice, guess: _Guess, number: int, seek: float, after: float, duration: float
    ) -> Segment:
        """A segment whose times are in order and within the recording, which a model does not promise."""
        start = min(max(seek + part.start, after), duration)
        return Segment(
            id=number,
            seek=round(seek * 100),
            start=start,
            end=min(max(seek + part.end, start), duration),
            text=self._vocabulary.detokenize(part.tokens),
            tokens=part.tokens,
            temperature=guess.temperature,
            average_logprob=guess.logprob,
            compression=guess.compression,
        )

    @property
    def _end(self) -> int:
        return self._vocabulary.eos

    # --- what a `Serving` does besides ---------------------------------------------------------------------

    async def generate(self, key: int, request: Generation, emit: Callable[[Event], None]) -> None:
        """Refused: the model writes down what it hears, and nothing else."""
        del key, request, emit
        raise _deaf()

    async def embed(self, order: Embed) -> Reply:
        """Refused."""
        del order
        raise _deaf()

    async def tokenize(self, order: Tokenize) -> Reply:
        """Refused."""
        del order
        raise _deaf()

    async def detokenize(self, order: Detokenize) -> Reply:
        """Refused."""
        del order
        raise _deaf()

    def hold(self, key: int, *, on: bool) -> None:
        """Nothing: what is heard of a recording is little."""

    @property
    def dead(self) -> bool:
        """Whether the engine's core is gone."""
        return bool(self._engine.errored)

    def refusal(self, error: Exception) -> str | None:
        """VLLM's words if it refused the request; None if the fault is not the client's."""
        return refusal(error)

    def stats(self) -> EngineStats:
        """The engine's counts."""
        return self._counts.stats()


def _deaf() -> Unsupported:
    return Unsupported("this model transcribes speech and does nothing else", param="model")
