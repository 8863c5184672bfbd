"""Speech to text, for the services that have it: a second of sound must be heard as a second of sound."""

from __future__ import annotations

import io
import math
import struct
import wave

from akashllm.smoke.client import Client, clean
from akashllm.smoke.dialects import BrokenPromise, NotHere, body, dig, text_of

RATE = 16_000
SECONDS = 1.0
CAPABILITY = "transcription"
_BOUNDARY = "akashllm-smoke-test-7e1f40c2"


def only_transcribes(client: Client, model: str) -> bool:
    """Whether the service says that `model` does nothing else. Other services than ours do not tell."""
    reply = client.call("POST", "/api/show", {"model": model})
    if reply.status != 200:
        return False
    try:
        told = reply.json()
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("capabilities") == [CAPABILITY]


def transcribe(client: Client) -> str:
    """Send the sound as OpenAI's clients do; BrokenPromise unless it was heard from end to end."""
    reply = client.call(
        "POST",
        "/v1/audio/transcriptions",
        raw=_form({"model": "whisper-1", "response_format": "verbose_json"}, _tone()),
        kind=f"multipart/form-data; boundary={_BOUNDARY}",
    )
    if reply.status in {400, 404, 405, 415, 422, 501}:
        raise NotHere(f"the service does not transcribe speech ({reply.status}: {reply.said()})")
    told = body(reply)
    text = text_of(dig(told, "text"), "the transcript")
    heard = dig(told, "duration")
    try:
        seconds = float(heard)
    except (TypeError, ValueError):
        raise BrokenPromise(f"the duration is no number but {clean(repr(heard), 40)}") from None
    if not abs(seconds - SECONDS) < 0.1:
        raise BrokenPromise(f"of {SECONDS:g} s of sound {seconds:g} s were heard")
    return f"heard {seconds:g} s: {clean(text, 40)!r}"


def _tone() -> bytes:
    """A tone of 440 Hz as a WAV file."""
    count = round(RATE * SECONDS)
    samples = (round(8000 * math.sin(2 * math.pi * 440 * place / RATE)) for place in range(count))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(struct.pack(f"<{count}h", *samples))
    return out.getvalue()


def _form(fields: dict[str, str], sound: bytes) -> bytes:
    """The fields and the file as multipart/form-data."""
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="tone.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return b"".join([*parts, head.encode(), sound, f"\r\n--{_BOUNDARY}--\r\n".encode()])
