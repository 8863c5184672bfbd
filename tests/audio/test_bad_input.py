"""What is no recording, too much of one, or no form: an error that names it, and a service that goes on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from akashllm.server.engines.whisper.engine import WhisperEngine
from akashllm.server.guard.media import sound_format
from tests.audio.conftest import KEY, Listening
from tests.audio.sounds import boasting, encoded, tone, wav
from tests.service.support import serving

pytestmark = pytest.mark.engine

URL = "/v1/audio/transcriptions"
EDGE = "a-boundary"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test sends, no file of it stays on the disk."""
    folder = tmp_path_factory.mktemp("uploads")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield
    # The service removes the file once the answer is sent, which the client may see first.
    deadline = time.monotonic() + 5.0
    while list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.iterdir()) == []


def post(http: httpx.Client, data: bytes, **fields: str) -> httpx.Response:
    """Send a file with the usual fields."""
    return http.post(URL, files={"file": ("a.wav", data)}, data={"model": "whisper-1"} | fields)


def fault(response: httpx.Response, status: int = 400) -> dict[str, str]:
    """The error object of a response of that status."""
    assert response.status_code == status, response.text
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "/tmp" not in error["message"]
    return error


def noise(count: int) -> bytes:
    """Bytes without sense, the same in every process that collects the tests."""
    return random.Random(count).randbytes(count)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"this is a text that is called a.wav", "no recording"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "no recording"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no recording"),
        (wav(b""), "no sound"),
        (tone(1)[:40], "no sound"),
        (b"RIFF\x24\x00\x00\x00WAVE" + noise(400), "no sound"),
        (b"ID3" + noise(4000), "no sound"),
        (b"fLaC" + noise(4000), "no sound"),
        (b"OggS" + noise(4000), "no sound"),
        (b"\x00\x00\x00\x20ftypisom" + noise(4000), "no sound"),
        (b"\x1aE\xdf\xa3" + noise(4000), "no sound"),
        (encoded("mp4", "aac", 1.0)[:-700], "no sound"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_what_is_no_recording_is_refused(http: httpx.Client, data: bytes, words: str) -> None:
    """A file that is not what its name says, is cut, or is noise after a good beginning: 400, param file."""
    error = fault(post(http, data))
    assert words in error["message"]
    assert error["param"] == "file"
    assert error["code"] == "invalid_audio"


def test_a_header_that_boasts_counts_for_nothing(http: httpx.Client) -> None:
    """A header that promises ten hours before a second of sound: a second of sound."""
    data = boasting(36_000, b"\0\1" * 16_000)
    answer = post(http, data, response_format="verbose_json")
    assert answer.status_code == 200
    assert answer.json()["duration"] == pytest.approx(1.0, abs=0.01)


def test_silence_that_unpacks_to_hours_is_cut_off(http: httpx.Client) -> None:
    """A small FLAC of an hour of silence is refused by its length, without unpacking all of it."""
    bomb = encoded("flac", "flac", 3600, silent=True)
    assert len(bomb) < 1_000_000
    error = fault(post(http, bomb))
    assert "longer than 120 s" in error["message"]
    assert error["code"] == "audio_too_long"


def test_a_file_over_the_limit_is_refused(http: httpx.Client) -> None:
    """413, whether the length was declared or only found out."""
    big = wav(bytes(4_100_000))
    assert fault(post(http, big), 413)["param"] == "file"

    def pieces() -> Iterator[bytes]:
        yield f'--{EDGE}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
        for _ in range(100):
            yield bytes(65_536)

    answer = http.post(URL, content=pieces(), headers={"content-type": f"multipart/form-data; boundary={EDGE}"})
    assert fault(answer, 413)["param"] == "file"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "docx"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"language": "klingon"}, "language"),
        ({"language": "x" * 50}, "language"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "year", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"include[]": "logprobs"}, "include"),
        ({"prompt": "x" * 70_000}, "prompt"),
    ],
    ids=str,
)
def test_each_bad_field_is_named(http: httpx.Client, sound: bytes, fields: dict[str, str], param: str) -> None:
    """A field that makes no sense is answered with 400 and its name."""
    assert fault(post(http, sound, **fields))["param"] == param


def test_missing_parts_are_named(http: httpx.Client, sound: bytes) -> None:
    """Without a model, and without a file."""
    assert fault(http.post(URL, files={"file": ("a.wav", sound)}))["param"] == "model"
    assert fault(http.post(URL, files={"model": (None, "whisper-1")}))["param"] == "file"


def part(name: str, content: bytes, extra: str = "") -> bytes:
    """One part of a form."""
    head = f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{EDGE}--\r\n".encode()


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", part("model", b"x") + END, 400),
        (f"multipart/form-data; boundary={'b' * 71}", b"--", 400),
        (f"multipart/form-data; boundary={EDGE}", b"", 400),
        (f"multipart/form-data; boundary={EDGE}", b"no boundary here at all", 400),
        (f"multipart/form-data; boundary={EDGE}", part("model", b"whisper-1"), 400),
        (f"multipart/form-data; boundary={EDGE}", part("model", b"\xff\xfe") + END, 400),
        (f"multipart/form-data; boundary={EDGE}", part("x", b"") * 1000 + END, 400),
        (f"multipart/form-data; boundary={EDGE}", part("file", b"a") + part("file", b"b") + END, 400),
        (f"multipart/form-data; boundary={EDGE}", part("model", b"a") + part("model", b"b") + END, 400),
        (f"multipart/form-data; boundary={EDGE}", f"--{EDGE}\r\n{'X-Header: 1' * 9999}".encode(), 400),
        (
            f"multipart/form-data; boundary={EDGE}",
            f"--{EDGE}\r\nContent-Disposition: form-data\r\n\r\n\r\n".encode() + END,
            400,
        ),
        (
            f"multipart/form-data; boundary={EDGE}",
            part("file", b"UklGRg==", "\r\nContent-Transfer-Encoding: base64") + END,
            400,
        ),
    ],
)
def test_broken_forms_are_refused(http: httpx.Client, kind: str, body: bytes, status: int) -> None:
    """No form, no boundary, an endless header, a thousand parts, half a form, a part twice: an error each."""
    fault(http.post(URL, content=body, headers={"content-type": kind}), status)


def test_a_file_name_is_only_a_name(http: httpx.Client, sound: bytes) -> None:
    """A path as the file's name is used for nothing."""
    answer = http.post(URL, files={"file": ("../../etc/cron.d/x", sound)}, data={"model": "whisper-1"})
    assert answer.status_code == 200


def test_other_models_do_not_transcribe(client: openai.OpenAI, sound: bytes) -> None:
    """The chat model says that it cannot, an unknown one that it is not there; both name the one that can."""
    with pytest.raises(openai.BadRequestError, match=r"does not transcribe.*tiny-whisper"):
        client.audio.transcriptions.create(file=("a.wav", sound), model="tiny")
    with pytest.raises(openai.NotFoundError, match="tiny-whisper"):
        client.audio.transcriptions.create(file=("a.wav", sound), model="gpt-99")


async def test_without_such_a_model_the_route_says_what_to_deploy(sound: bytes) -> None:
    """404 in OpenAI's dialect with the settings that would help."""
    async with serving() as service, service.client() as client:
        answer = await client.post(URL, files={"file": ("a.wav", sound)}, data={"model": "whisper-1"})
        assert "AKASHLLM_TRANSCRIBE_MODEL" in fault(answer, 404)["message"]


def test_the_key_is_wanted(listening: Listening, sound: bytes) -> None:
    """Without the key nothing is transcribed."""
    answer = httpx.post(listening.root + URL, files={"file": ("a.wav", sound)}, data={"model": "whisper-1"})
    assert fault(answer, 401)["code"] == "invalid_api_key"


async def until(true: Callable[[], bool]) -> None:
    """Let others go on until something is so."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came about")


async def test_a_client_that_leaves_frees_the_place(listening: Listening, sound: bytes) -> None:
    """Requests that are given up, waiting or running, are forgotten; the next one is answered."""
    headers = {"authorization": f"Bearer {KEY}"}
    long = tone(60)
    async with httpx.AsyncClient(base_url=listening.root, headers=headers, timeout=60) as client:

        async def send(data: bytes) -> httpx.Response:
            return await client.post(URL, files={"file": ("a.wav", data)}, data={"model": "whisper-1"})

        leaving = [asyncio.create_task(send(long)) for _ in range(3)]
        await until(lambda: listening.engine.stats().running > 0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        answer = await send(sound)
    assert answer.status_code == 200


async def test_a_child_that_dies_is_replaced(whisper: Path, tmp_path: Path, sound: bytes) -> None:
    """What had said nothing yet is sent to the next child, and answered."""
    from akashllm.server.domain import Segment, Transcription

    file = tmp_path / "a.wav"
    file.write_bytes(sound)
    engine = WhisperEngine(str(whisper), name="tiny-whisper", threads=1)
    try:
        await engine.load()
        request = Transcription(id="1", model="tiny-whisper", path=str(file), format="wav")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        events = engine.transcribe(request)
        first = asyncio.ensure_future(anext(events))
        await until(lambda: engine.stats().running > 0)
        os.kill(engine.pid, signal.SIGKILL)
        heard = [await first] + [event async for event in events]
        assert any(isinstance(event, Segment) for event in heard)
        assert engine.stats().restarts == 1
    finally:
        await engine.close()


async def test_a_folder_that_is_no_model_is_a_reason(tmp_path: Path) -> None:
    """An engine that cannot load says why, in a sentence with the folder's name only."""
    from akashllm.errors import EngineFailed

    engine = WhisperEngine(str(tmp_path), name="nothing")
    try:
        with pytest.raises(EngineFailed, match="faster-whisper cannot load"):
            await engine.load()
    finally:
        await engine.close()


def test_formats_are_told_by_their_first_bytes() -> None:
    """Each container is known by its magic; play lists and texts are nothing."""
    assert sound_format(tone(0.1)) == "wav"
    assert sound_format(b"\xff\xfb\x90\x00") == "mp3"
    assert sound_format(b"\xff\xf1\x50\x80") == "aac"
    assert sound_format(b"fLaC") == "flac"
    assert sound_format(b"OggS") == "ogg"
    assert sound_format(b"\0\0\0 ftypM4A ") == "mp4"
    assert sound_format(b"\x1aE\xdf\xa3") == "webm"
    for nothing in (b"", b"R", b"RIFF", b"RIFF\0\0\0\0WEBP", b"#EXTM3U", b"ffconcat version 1.0", b"\xff"):
        assert sound_format(nothing) is None
