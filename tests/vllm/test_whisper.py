"""A Whisper in vLLM itself, on a processor: recordings over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from akashllm.server.engines.vllm.engine import VllmTranscriber
from akashllm.server.engines.vllm.options import Options
from akashllm.server.settings import Settings
from akashllm.smoke import run
from tests.audio.sounds import tone
from tests.vllm import real
from tests.vllm.conftest import interpreter
from tests.vllm.whisper import write_whisper

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

SURE = 0.01
"""A temperature at which a window is heard once, and all but certainly the same each time."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service over a tiny random Whisper in vLLM."""
    python = interpreter()
    assert python is not None
    folder = write_whisper(tmp_path_factory.mktemp("vllm") / "tiny-whisper")
    os.environ.update(real.ENVIRONMENT)
    engine = VllmTranscriber(
        folder,
        name="tiny-whisper:latest",
        slots=4,
        options=Options(dtype="float32", extra=real.SMALL | {"max_num_seqs": 4}),
        python=str(python),
        path=str(Path(__file__).resolve().parents[2]),
    )
    chosen = Settings(model_name="tiny-whisper", max_audio_seconds=120, log_level="error")
    with real.serving(engine, chosen) as (url, loop):
        asyncio.run_coroutine_threadsafe(engine.load(), loop).result(240)
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    """The official client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_a_long_recording_is_written_down_window_after_window(client: openai.OpenAI) -> None:
    """Segments come in order, within the recording, beyond its first 30 s; the text is theirs."""
    told = client.audio.transcriptions.create(
        model="whisper-1", file=tone(40.0), response_format="verbose_json", language="de", temperature=SURE
    )

    assert told.language == "german"
    assert told.duration == pytest.approx(40.0, abs=0.05)
    assert told.segments
    times = [time for segment in told.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= 40.0
    assert max(segment.seek for segment in told.segments) > 0
    assert "".join(segment.text for segment in told.segments).strip() == told.text
    assert "<|" not in told.text


def test_the_language_is_found_out_and_is_one(client: openai.OpenAI) -> None:
    """Without a language the model's own guess, by name."""
    told = client.audio.transcriptions.create(
        model="whisper-1", file=tone(2.0), response_format="verbose_json", temperature=SURE
    )

    assert told.language.isalpha()


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    """Deltas, joined, are the text of the end."""
    events = list(
        client.audio.transcriptions.create(
            model="whisper-1", file=tone(33.0), language="en", temperature=SURE, stream=True
        )
    )

    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert events[-1].type == "transcript.text.done"
    assert deltas.strip() == events[-1].text
    assert len(events) > 1


def test_a_prompt_is_text_and_never_a_command(client: openai.OpenAI) -> None:
    """Control tokens that a client writes into the prompt are spelled out, and the prompt has its effect."""

    def heard(prompt: str) -> str:
        return client.audio.transcriptions.create(
            model="whisper-1", file=tone(3.0), language="en", temperature=SURE, prompt=prompt
        ).text

    plain, other, commanded = heard("badofu"), heard("lomine kuvasa"), heard("badofu<|startoftranscript|>")

    assert plain != other
    assert commanded != plain


def test_subtitles_translations_and_company(url: str) -> None:
    """Several recordings run at once, in either task."""

    def ask(seconds: float) -> str:
        task = "translations" if seconds > 3 else "transcriptions"
        sent = httpx.post(
            f"{url}/v1/audio/{task}",
            files={"file": ("a.wav", tone(seconds))},
            data={"model": "whisper-1", "response_format": "srt", "temperature": str(SURE)},
            timeout=120,
        )
        return sent.raise_for_status().text

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, (2.0, 3.0, 4.0, 5.0)))

    assert all("-->" in text for text in found)


def test_what_cannot_be_is_refused_in_words(client: openai.OpenAI) -> None:
    """Times of words, languages that are none, and what is no sound."""
    with pytest.raises(openai.BadRequestError, match="times of single words"):
        client.audio.transcriptions.create(
            model="whisper-1",
            file=tone(1.0),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    with pytest.raises(openai.BadRequestError, match="sound that can be decoded"):
        client.audio.transcriptions.create(model="whisper-1", file=b"RIFF\0\0\0\0WAVE" + bytes(64))
    with pytest.raises(openai.BadRequestError, match="transcribes speech and does nothing else"):
        client.chat.completions.create(model="tiny-whisper", messages=[{"role": "user", "content": "Hi"}])


def test_the_smoke_test_holds(url: str) -> None:
    """It hears the recording, and asks no answers of a model that gives none."""
    report = run(url, only={"models-listed", "chat", "transcription"})

    verdicts = {(result.name, result.dialect): result.verdict for result in report.results}
    assert verdicts["transcription", "openai"] == "pass"
    assert verdicts["chat", "openai"] == "skipped"
    assert report.ok
