"""OpenAI's audio routes, mounted under /v1 and /openai/v1: a recording in a form, a transcript back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Literal, cast

from fastapi import APIRouter
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from akashllm.errors import ModelNotFound, ServiceError, Unsupported
from akashllm.server.domain import Segment, Speech
from akashllm.server.guard.media import sound_format
from akashllm.server.hearing import DEPLOY, Hearing
from akashllm.server.runtime import Runtime
from akashllm.server.settings import Settings
from akashllm.server.streaming import sse, whole
from akashllm.server.wire.openai import audio as wire
from akashllm.server.wire.openai.call import new_id
from akashllm.server.wire.openai.errors import error_body, error_event
from akashllm.server.wire.openai.reading import invalid, missing

if TYPE_CHECKING:
    from akashllm.server.guard.form import Form

router = APIRouter(tags=["openai"])

_Task = Literal["transcribe", "translate"]


@router.post("/audio/transcriptions", summary="Write down what is said")
async def transcriptions(request: Request) -> Response:
    """A transcript as JSON, text or subtitles, or with `stream` a series of `transcript.text.delta`."""
    return await _answer(request, "transcribe")


@router.post("/audio/translations", summary="Write down in English what is said")
async def translations(request: Request) -> Response:
    """The same, in English whatever is spoken."""
    return await _answer(request, "translate")


async def _answer(request: Request, task: _Task) -> Response:
    hearing = cast("Hearing | None", request.app.state.hearing)
    if hearing is None:
        raise ModelNotFound("this service has no model that transcribes speech", param="model", hint=DEPLOY)
    # Forms are read by a library that only installations which transcribe have.
    from akashllm.server.guard.form import read_form

    async with contextlib.AsyncExitStack() as stack:
        form = await stack.enter_async_context(read_form(request, file="file"))
        model = await _resolve(request, hearing, wire.model_name(form.fields))
        recording = wire.read_recording(form.fields, identifier=new_id("transcript"), model=model, task=task)
        spoken = replace(
            recording.request,
            path=str(form.path),
            format=_format(form),
            longest=cast("Settings", request.app.state.settings).max_audio_seconds,
        )
        transcript = wire.Transcript(recording)
        events = hearing.transcribe(spoken)
        if recording.stream:
            response = sse(request, _frames(transcript, events), error=error_event)
        else:
            response = await whole(
                request,
                _collect(transcript, events),
                error=error_body,
                media_type=transcript.media_type,
                beat=transcript.beat,
            )
        return _Keeping(response, stack.pop_all())


class _Keeping(Response):
    """A response that needs something until it is sent: here, the file."""

    def __init__(self, response: Response, stack: contextlib.AsyncExitStack) -> None:
        super().__init__()
        self._response = response
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._stack:
            await self._response(scope, receive, send)


async def _resolve(request: Request, hearing: Hearing, typed: str) -> str:
    """The model's name. A model of another kind is told apart from one that is not there."""
    try:
        return hearing.resolve(typed)
    except ModelNotFound as unknown:
        runtime = cast("Runtime", request.app.state.runtime)
        try:
            await runtime.find(typed)
        except ServiceError:
            raise unknown from None
        raise Unsupported(
            f"model '{typed[:100]}' does not transcribe speech", param="model", hint=unknown.hint
        ) from None


def _format(form: Form) -> str:
    if form.path is None:
        raise missing("file")
    if not form.size:
        raise invalid("file", "is empty", code="invalid_audio")
    found = sound_format(form.head)
    if found is None:
        raise invalid(
            "file",
            "is no recording in a format that is read here: flac, mp3, mp4, m4a, aac, ogg, wav, webm",
            code="invalid_audio",
        )
    return found


async def _collect(transcript: wire.Transcript, events: AsyncGenerator[Speech]) -> bytes:
    async with contextlib.aclosing(events):
        async for event in events:
            transcript.feed(event)
    return transcript.answer()


async def _frames(transcript: wire.Transcript, events: AsyncGenerator[Speech]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(events):
        async for event in events:
            transcript.feed(event)
            frame = transcript.delta(event) if isinstance(event, Segment) else b""
            if frame:
                yield frame
    yield transcript.done()
