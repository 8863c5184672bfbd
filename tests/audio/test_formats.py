"""Transcripts through the official client, in every format."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest

from tests.audio.conftest import KEY, Listening
from tests.audio.sounds import encoded

pytestmark = pytest.mark.engine

CLOCK = r"\d\d:[0-5]\d:[0-5]\d"


def test_json_has_the_text_and_what_it_cost(client: openai.OpenAI, sound: bytes) -> None:
    """The default answer is the text with its usage in seconds."""
    answer = client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1")
    assert re.fullmatch(r"[a-z ,.]+", answer.text)
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == 5


def test_text_is_plain(client: openai.OpenAI, sound: bytes) -> None:
    """`text` is the transcript and a line break."""
    answer = client.audio.transcriptions.create(
        file=("a.wav", sound), model="tiny-whisper", response_format="text"
    )
    assert str(answer).strip()
    assert str(answer).endswith("\n")


def test_verbose_json_has_segments_in_order(client: openai.OpenAI, sound: bytes) -> None:
    """Segments carry all of OpenAI's fields; their times rise and stay within the recording."""
    answer = client.audio.transcriptions.create(
        file=("a.wav", sound), model="whisper-1", response_format="verbose_json", language="de"
    )
    assert answer.language == "german"
    assert answer.duration == pytest.approx(4.8, abs=0.02)
    assert answer.segments
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text
    times = [time for segment in answer.segments for time in (segment.start, segment.end)]
    assert all(before <= after for before, after in pairwise(times))
    assert times[-1] <= answer.duration
    first = answer.segments[0]
    assert first.id == 0
    assert first.tokens
    assert first.avg_logprob < 0 <= first.no_speech_prob


def test_words_have_times(client: openai.OpenAI, sound: bytes) -> None:
    """Asked for words, the answer has them, in order, and no segments."""
    answer = client.audio.transcriptions.create(
        file=("a.wav", sound),
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    assert answer.words
    assert answer.segments is None
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert all(before <= after for before, after in pairwise(times))


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_can_be_shown(client: openai.OpenAI, sound: bytes, form: Literal["srt", "vtt"]) -> None:
    """Cues have numbers (SRT) or a header (WebVTT), times with the right mark, and one line of text."""
    text = str(
        client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1", response_format=form)
    )
    mark = "," if form == "srt" else r"\."
    if form == "vtt":
        assert text.startswith("WEBVTT\n")
        text = text.removeprefix("WEBVTT\n")
    number = r"\d+\n" if form == "srt" else ""
    assert re.fullmatch(rf"\s*({number}{CLOCK}{mark}\d{{3}} --> {CLOCK}{mark}\d{{3}}\n[^\n]+\n\n)+", text)


def test_a_stream_adds_up_to_the_text(client: openai.OpenAI, sound: bytes) -> None:
    """Deltas come before the end, which repeats them as a whole."""
    with client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1", stream=True) as stream:
        events = list(stream)
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
    assert "seconds" in done.model_dump()["usage"]


async def test_the_asynchronous_client_works_under_the_other_prefix(listening: Listening, sound: bytes) -> None:
    """The routes answer under /openai/v1 as well."""
    async with openai.AsyncOpenAI(base_url=f"{listening.root}/openai/v1", api_key=KEY, max_retries=0) as client:
        answer = await client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1")
    assert answer.text


def test_translations_are_english(client: openai.OpenAI, sound: bytes) -> None:
    """The route for translations answers in OpenAI's shape, in English."""
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = client.audio.translations.create(
            file=("a.wav", sound), model="whisper-1", response_format="verbose_json"
        )
    assert answer.language == "english"
    assert answer.text


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("webm", "libopus"),
        ("adts", "aac"),
    ],
)
def test_every_accepted_format_is_heard(client: openai.OpenAI, container: str, codec: str) -> None:
    """The formats of OpenAI's list are decoded to their true length, whatever the file is called."""
    rate = 48_000 if codec == "libopus" else 16_000
    data = encoded(container, codec, 3.0, rate=rate)
    answer = client.audio.transcriptions.create(
        file=("anything.bin", data), model="whisper-1", response_format="verbose_json"
    )
    assert answer.duration == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("form", ["json", "vtt", "srt"])
def test_the_line_is_kept_warm(listening: Listening, http: httpx.Client, sound: bytes, form: str) -> None:
    """Bytes go out before the answer is there, and the document stays well-formed in each format."""
    settings = listening.state.settings
    listening.state.settings = dataclasses.replace(settings, heartbeat=0.02)
    try:
        with http.stream(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", sound)},
            data={"model": "whisper-1", "response_format": form},
        ) as response:
            pieces = list(response.iter_raw())
    finally:
        listening.state.settings = settings
    assert len(pieces) > 1
    body = b"".join(pieces)
    match form:
        case "json":
            assert not pieces[0].strip()
            assert json.loads(body)["text"]
        case "vtt":
            assert body.startswith(b"WEBVTT\n\n")
            assert body.count(b"WEBVTT") == 1
        case _:
            assert body.lstrip().startswith(b"1\n00:00:0")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_curl_sends_what_espeak_says(listening: Listening, tmp_path: Path) -> None:
    """The documented curl line works on a voice (22,050 Hz, so it is resampled)."""
    spoken = tmp_path / "said.wav"
    subprocess.run(["espeak-ng", "-w", str(spoken), "It was a bright cold day in April."], check=True)
    command = ["curl", "-sS", f"{listening.root}/v1/audio/transcriptions", "-H", f"Authorization: Bearer {KEY}"]
    done = subprocess.run(
        [*command, "-F", f"file=@{spoken}", "-F", "model=whisper-1"], check=True, capture_output=True
    )
    assert json.loads(done.stdout)["text"]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    """`/v1/models` has the transcribing model beside the others."""
    assert {"tiny", "tiny-whisper"} <= {model.id.removesuffix(":latest") for model in client.models.list()}
    assert client.models.retrieve("tiny-whisper").id == "tiny-whisper"


def test_what_was_transcribed_is_counted(http: httpx.Client, sound: bytes) -> None:
    """`/metrics` counts recordings among what was done, and a service that transcribes is not idle."""

    def done() -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if 'outcome="done"' in line and "_total" in line)

    before = done()
    http.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound)}, data={"model": "whisper-1"})
    assert done() == before + 1
