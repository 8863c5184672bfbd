"""`/v1/audio/transcriptions` and `/v1/audio/translations`: the form in, a transcript in five formats out.

Source: OpenAI's openapi.yaml, CreateTranscriptionRequest and the types it is answered with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from akashllm.errors import Unsupported
from akashllm.server.domain import Heard, Segment, Speech, Transcription
from akashllm.server.wire.openai.languages import code_of, name_of
from akashllm.server.wire.openai.reading import invalid, missing

FORMATS: Final = ("json", "text", "srt", "vtt", "verbose_json")
MEDIA_TYPES: Final = {
    "json": "application/json; charset=utf-8",
    "verbose_json": "application/json; charset=utf-8",
    "text": "text/plain; charset=utf-8",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
_GRANULARITIES: Final = ("segment", "word")
_VTT: Final = b"WEBVTT\n\n"
_LANGUAGE: Final = 40


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for besides the sound: how it is to be answered, and the request without its file."""

    form: str
    stream: bool
    segments: bool
    words: bool
    request: Transcription


def model_name(fields: Mapping[str, Sequence[str]]) -> str:
    """The model that is asked for."""
    name = _one(fields, "model")
    if not name:
        raise missing("model")
    return name


def read_recording(
    fields: Mapping[str, Sequence[str]],
    *,
    identifier: str,
    model: str,
    task: Literal["transcribe", "translate"],
) -> Recording:
    """The request of a form. Raises `BadRequest` with the field at fault; unknown fields are ignored."""
    form = _one(fields, "response_format") or "json"
    if form not in FORMATS:
        raise invalid("response_format", f"must be one of {', '.join(FORMATS)}", code="unsupported_value")
    wanted = _many(fields, "timestamp_granularities")
    for granularity in wanted:
        if granularity not in _GRANULARITIES:
            raise invalid("timestamp_granularities", "may have segment and word", code="unsupported_value")
    if wanted and form != "verbose_json":
        raise invalid("timestamp_granularities", "needs 'response_format' to be verbose_json")
    stream = _flag(fields, "stream")
    if stream and form != "json":
        raise invalid("stream", "needs 'response_format' to be json", code="unsupported_value")
    if _many(fields, "include"):
        raise Unsupported("'include': this model tells no log probabilities of tokens", param="include")
    language = _one(fields, "language")
    if language and len(language) > _LANGUAGE:
        raise invalid("language", "is no language", code="unsupported_language")
    request = Transcription(
        id=identifier,
        model=model,
        path="",
        format="",
        task=task,
        language=code_of(language) if language and task == "transcribe" else None,
        prompt=_one(fields, "prompt") or "",
        temperature=_temperature(fields),
        words="word" in wanted,
        voice=_chunking(fields),
    )
    return Recording(
        form=form,
        stream=stream,
        segments=not wanted or "segment" in wanted,
        words="word" in wanted,
        request=request,
    )


def _one(fields: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = fields.get(name, ())
    if len(values) > 1:
        raise invalid(name, "is given more than once")
    return values[0] if values else None


def _many(fields: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The values of a list, which clients write with and without brackets."""
    return [value for key in (name, f"{name}[]") for value in fields.get(key, ()) if value]


def _flag(fields: Mapping[str, Sequence[str]], name: str) -> bool:
    value = (_one(fields, name) or "false").lower()
    if value not in {"true", "false", "1", "0"}:
        raise invalid(name, "must be true or false")
    return value in {"true", "1"}


def _temperature(fields: Mapping[str, Sequence[str]]) -> float:
    text = _one(fields, "temperature") or "0"
    try:
        value = float(text)
    except ValueError:
        raise invalid("temperature", "must be a number") from None
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise invalid("temperature", "must be from 0 to 1")
    return value


def _chunking(fields: Mapping[str, Sequence[str]]) -> bool:
    """Whether silence is to be left out first: OpenAI's `chunking_strategy`, of which `auto` is known here."""
    strategy = _one(fields, "chunking_strategy") or ""
    if strategy not in {"", "auto", "null"} and "server_vad" not in strategy:
        raise invalid("chunking_strategy", "must be auto", code="unsupported_value")
    return strategy not in {"", "null"}


# --- answers ---------------------------------------------------------------------------------------------


class Transcript:
    """Collects what is heard, and writes it in the format that was asked for."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._heard = Heard(language="", duration=0.0)
        self._segments: list[Segment] = []
        self._beats = 0

    def feed(self, event: Speech) -> None:
        """Take an event."""
        if isinstance(event, Heard):
            self._heard = event
        else:
            self._segments.append(event)

    @property
    def media_type(self) -> str:
        """Of the answer."""
        return MEDIA_TYPES[self._recording.form]

    def beat(self) -> bytes:
        """Bytes that may precede the answer while it is made: white space, or WebVTT's first line."""
        self._beats += 1
        match self._recording.form:
            case "vtt":
                return _VTT if self._beats == 1 else b"\n"
            case "srt" | "text":
                return b"\n"
            case _:
                return b" "

    def answer(self) -> bytes:
        """The whole answer, less what `beat` has sent of it."""
        match self._recording.form:
            case "text":
                return f"{self.text}\n".encode()
            case "srt":
                return "".join(
                    f"{number}\n{_times(segment, ',')}\n{_cue(segment)}\n\n"
                    for number, segment in enumerate(self._segments, 1)
                ).encode()
            case "vtt":
                cues = "".join(f"{_times(segment, '.')}\n{_cue(segment)}\n\n" for segment in self._segments)
                return (b"" if self._beats else _VTT) + cues.encode()
            case "verbose_json":
                return msgspec.json.encode(self._verbose())
            case _:
                return msgspec.json.encode({"text": self.text, "usage": self._usage()})

    def done(self) -> bytes:
        """The last frames of a stream."""
        return _frame({"type": "transcript.text.done", "text": self.text, "usage": self._usage()}) + _END

    @property
    def text(self) -> str:
        """Everything that was said."""
        return "".join(segment.text for segment in self._segments).strip()

    def delta(self, segment: Segment) -> bytes:
        """A segment as a frame of a stream; the deltas joined are the text."""
        text = segment.text if len(self._segments) > 1 else segment.text.lstrip()
        return _frame({"type": "transcript.text.delta", "delta": text}) if text else b""

    def _usage(self) -> dict[str, Any]:
        return {"type": "duration", "seconds": math.ceil(self._heard.duration)}

    def _verbose(self) -> dict[str, Any]:
        task = self._recording.request.task
        answer: dict[str, Any] = {
            "task": task,
            "language": "english" if task == "translate" else name_of(self._heard.language),
            "duration": round(self._heard.duration, 3),
            "text": self.text,
        }
        if self._recording.segments:
            answer["segments"] = [_verbose_segment(segment) for segment in self._segments]
        if self._recording.words:
            answer["words"] = [
                {"word": word.word.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
                for segment in self._segments
                for word in segment.words
            ]
        return answer | {"usage": self._usage()}


_END: Final = b"data: [DONE]\n\n"


def _frame(event: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _verbose_segment(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.average_logprob,
        "compression_ratio": segment.compression,
        "no_speech_prob": segment.no_speech,
    }


def _cue(segment: Segment) -> str:
    """The text of a cue: one that has a blank line or an arrow in it would end or forge one."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _times(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}"


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{thousandths // 1000:02}{point}{thousandths % 1000:03}"
