"""The child process: one Whisper, one recording after another. Started by the supervisor."""

from __future__ import annotations

import os
import traceback
from collections import deque
from pathlib import Path
from threading import Condition
from time import monotonic

from ctranslate2._ext import get_cuda_device_count
from faster_whisper import WhisperModel
from faster_whisper.transcribe import Segment as Piece

from akashllm.errors import BadRequest, ServiceError
from akashllm.server.domain import EngineStats, Heard, ModelInfo, Segment, Transcription, Word
from akashllm.server.engines import frames
from akashllm.server.engines.blame import blame
from akashllm.server.engines.child import Line, run
from akashllm.server.engines.frames import (
    Answer,
    Beat,
    Cancel,
    Load,
    Order,
    Ready,
    Refused,
    Shutdown,
    Step,
    Transcribe,
    Transcribed,
)
from akashllm.server.engines.sound import RATE, samples

WINDOW = 2688
"""Tokens a window of 30 s may take: 448, at six temperatures. The watchdog measures patience in tokens."""

_RISING = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_BEAMS = 5
_PROMPT = 4096
"""Characters of a prompt; the model sees the last 224 tokens."""


class Child:
    """The main thread transcribes; one thread takes orders, one beats."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._queue: deque[Transcribe] = deque()
        self._cancelled: set[int] = set()
        self._wake = Condition()
        self._running: int | None = None
        self._since = 0.0

    def run(self) -> None:
        """Load, then transcribe until told to leave."""
        order = self._line.load()
        if order is None:
            return
        self._line.beat(self._alive)
        try:
            self._model = load(order)
        except Exception as error:  # noqa: BLE001 - the libraries raise many kinds; each is a model that will not do
            traceback.print_exc()
            words = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            reason = f"faster-whisper cannot load {Path(order.model).name}: {words}"
            self._line.send(Refused(reason=reason, fault=blame(words)))
            return
        self._line.send(Ready(info=describe(self._model, order)))
        self._line.listen(self._obey)
        while True:
            with self._wake:
                while not self._queue:
                    self._wake.wait()
                work = self._queue.popleft()
                self._running, self._since = work.key, monotonic()
            self._work(work)
            with self._wake:
                self._running = None
                self._cancelled.discard(work.key)

    def _work(self, work: Transcribe) -> None:
        try:
            self._transcribe(work.key, work.request)
        except ServiceError as error:
            self._answer(work.key, frames.fault(error))
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an answer
            traceback.print_exc()
            self._answer(work.key, frames.fault(ServiceError("the recording could not be transcribed")))

    def _transcribe(self, key: int, request: Transcription) -> None:
        model = self._model
        language = _language(model, request.language)
        sound = samples(request.path, request.format, request.longest)
        duration = len(sound) / RATE
        if key in self._cancelled:
            return
        pieces, info = model.transcribe(
            sound,
            language=language,
            task=request.task,
            beam_size=_BEAMS,
            temperature=_RISING if not request.temperature else request.temperature,
            initial_prompt=request.prompt[-_PROMPT:] or None,
            word_timestamps=request.words,
            vad_filter=request.voice,
        )
        self._answer(key, Heard(language=info.language, duration=duration))
        last = 0.0
        for number, piece in enumerate(pieces):
            if key in self._cancelled:
                return
            self._since = monotonic()
            segment = _segment(piece, number, last, duration)
            last = segment.end
            self._answer(key, segment)
        self._answer(key, Transcribed())

    # --- the other threads ---------------------------------------------------------------------------------

    def _obey(self, order: Order) -> None:
        with self._wake:
            match order:
                case Transcribe():
                    self._queue.append(order)
                case Cancel():
                    waiting = [work for work in self._queue if work.key == order.key]
                    for work in waiting:
                        self._queue.remove(work)
                    if order.key == self._running:
                        self._cancelled.add(order.key)
                case Shutdown():
                    # A window may take long, and nobody waits for it any more.
                    os._exit(0)
                case _:
                    pass
            self._wake.notify()

    def _alive(self) -> Beat:
        running = self._running
        stats = EngineStats(running=int(running is not None), waiting=len(self._queue), slots=1)
        age = monotonic() - self._since if running is not None else 0.0
        return Beat(stats=stats, age=age, tokens=WINDOW if running is not None else 0)

    def _answer(self, key: int, event: frames.Told | frames.Fault) -> None:
        self._line.send(Step(answers=[Answer(key, event)]))


def load(order: Load) -> WhisperModel:
    """The model of a folder in CTranslate2's format."""
    gpu = order.gpu_layers != 0 and get_cuda_device_count() > 0
    return WhisperModel(
        order.model,
        device="cuda" if gpu else "cpu",
        compute_type="default" if gpu else "int8" if _wide(order.model) else "default",
        cpu_threads=order.threads or len(os.sched_getaffinity(0)),
    )


def _wide(model: str) -> bool:
    """Whether 8 bits for the weights are worth it: not for a model of a few megabytes."""
    weights = Path(model) / "model.bin"
    return not weights.is_file() or weights.stat().st_size > 1 << 26


def describe(model: WhisperModel, order: Load) -> ModelInfo:
    """What is known of the loaded model."""
    weights = Path(order.model) / "model.bin"
    size = weights.stat().st_size if weights.is_file() else 0
    return ModelInfo(
        name=order.name,
        format="ctranslate2",
        family="whisper",
        context=model.max_length,
        train_context=model.max_length,
        vocab_size=model.hf_tokenizer.get_vocab_size(),
        slots=1,
        size=size,
        memory=size,
        capabilities=("transcription",),
        quantization=str(model.model.compute_type),
    )


def _language(model: WhisperModel, asked: str | None) -> str | None:
    if asked is None:
        return None if model.model.is_multilingual else "en"
    known = model.supported_languages
    if asked not in known:
        shown = ", ".join(sorted(known))
        raise BadRequest(
            f"this model does not know the language {asked!r}",
            hint=f"leave it out, or send one of: {shown}",
            param="language",
            code="unsupported_language",
        )
    return asked


def _segment(piece: Piece, number: int, after: float, duration: float) -> Segment:
    """A segment whose times are in order and within the recording, which a model does not promise."""
    start = min(max(float(piece.start), after), duration)
    end = min(max(float(piece.end), start), duration)
    words = []
    last = start
    for word in piece.words or ():
        begins = min(max(float(word.start), last), end)
        last = min(max(float(word.end), begins), end)
        words.append(Word(word=word.word, start=begins, end=last))
    return Segment(
        id=number,
        seek=int(piece.seek),
        start=start,
        end=end,
        text=piece.text,
        tokens=tuple(piece.tokens),
        temperature=float(piece.temperature or 0.0),
        average_logprob=float(piece.avg_logprob),
        compression=float(piece.compression_ratio),
        no_speech=float(piece.no_speech_prob),
        words=tuple(words),
    )


def work(line: Line) -> int:
    """Serve one model over a line."""
    Child(line).run()
    return 0


if __name__ == "__main__":
    run(work)
