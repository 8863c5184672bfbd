"""The routes of an operator: what runs, whether it runs, how it runs."""

from __future__ import annotations

import asyncio
import html
import math
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from akashllm.errors import BadRequest, Busy, NoSuchRoute
from akashllm.server.api import overview
from akashllm.server.guard.auth import authorised, public
from akashllm.server.health import Health
from akashllm.server.metrics import CONTENT_TYPE, Metrics
from akashllm.server.models.identity import ModelFile
from akashllm.server.runtime import Runtime
from akashllm.server.streaming import whole
from akashllm.version import __version__

router = APIRouter()

SILENCE_LIMIT = 120.0
"""Seconds a probe may be silent: twice what an ingress of Akash allows."""

_GREETING = "Ollama is running"
"""What Ollama says, word for word: clients look for it."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>akashllm</title></head>
<body><h1>akashllm</h1>
<p>{model} is <strong>{state}</strong>.{reason}</p>
<p>{used} of {slots} slots in use, {waiting} requests waiting.</p>
<p>The API speaks Ollama's dialect under <code>/api</code> and OpenAI's under <code>/v1</code>.
State: <a href="/health">/health</a>. Talk to it: <a href="/chat">/chat</a>.</p>
</body></html>
"""
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@router.api_route("/", methods=["GET", "HEAD"])
@public
async def root(request: Request) -> Response:
    """Three answers to three kinds of client: a browser, one that asks for JSON, and everyone else.

    Everyone else hears what Ollama says, or, where a configuration of lllms is served, what lllms says: JSON.
    """
    accept = request.headers.get("accept", "").lower()
    if "text/html" in accept:
        return Response(_page(request), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)
    like_lllms = _runtime(request).settings.config and "text/plain" not in accept
    if "application/json" in accept or like_lllms:
        runtime = _runtime(request)
        if not authorised(request):
            return _json(overview.brief(runtime))
        return _json(await overview.full(runtime, request.app.state.pulls.now()))
    return Response(_GREETING, media_type="text/plain; charset=utf-8")


@router.api_route("/health", methods=["GET", "HEAD"])
@public
async def health(request: Request) -> Response:
    """200 while a request would be answered, 503 otherwise; with a key also what the engine wrote last."""
    state = _health(request)
    name = _runtime(request).serves()[0]
    detailed = bool(request.app.state.settings.keys) and authorised(request)
    body = state.private(name) if detailed else state.public(name)
    if detailed:
        body["idle_seconds"] = round(_runtime(request).metrics.idle, 1)
    if detailed and (others := overview.others(_runtime(request))):
        body["others"] = others
    if revision := request.app.state.settings.revision:
        body["revision"] = revision
    return _json(body, status=200 if state.ready else 503, headers={"cache-control": "no-store"})


@router.api_route("/livez", methods=["GET", "HEAD"])
@public
async def livez() -> Response:
    """200 as long as the process answers at all."""
    return _json({"status": "alive"})


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(request: Request) -> Response:
    """Everything that is counted, for Prometheus."""
    if not request.app.state.settings.metrics:
        raise NoSuchRoute("404 page not found")
    counted: Metrics = _runtime(request).metrics
    return Response(counted.text(), headers={"content-type": CONTENT_TYPE})


@router.api_route("/version", methods=["GET", "HEAD"])
async def version(request: Request) -> Response:
    """What software serves what model."""
    runtime = _runtime(request)
    file: ModelFile = request.app.state.model_file
    identity = await file.identity()
    return _json(
        {
            "version": __version__,
            "engine": runtime.engine.name,
            "model": runtime.serves()[0],
            "digest": identity.digest,
        }
    )


@router.api_route("/probe", methods=["GET", "HEAD"])
async def probe(request: Request) -> Response:
    """Silence on demand, through the same door as a slow answer: shows whether what stands between survives it.

    `silence` is in seconds (at most 120), `heartbeat` the seconds between keep-alive bytes, by default the
    service's own.
    """
    silence = _seconds(request, "silence", SILENCE_LIMIT)
    heartbeat = _seconds(request, "heartbeat", request.app.state.settings.heartbeat)
    if _runtime(request).probes.locked():
        raise Busy("as many probes as are allowed at once are running", retry_after=silence)

    async def answer() -> bytes:
        async with _runtime(request).probes:
            await asyncio.sleep(silence)
        return msgspec.json.encode({"silence": silence, "heartbeat": heartbeat})

    return await whole(
        request,
        answer(),
        error=lambda error: msgspec.json.encode({"error": error.message}),
        heartbeat=heartbeat,
    )


def _seconds(request: Request, name: str, most: float) -> float:
    """A query parameter in seconds, `most` when it is left out."""
    text = request.query_params.get(name)
    try:
        value = most if text is None else float(text)
    except ValueError:
        value = math.nan
    if not 0.01 <= value <= most:
        raise BadRequest(f"{name} must be seconds, from 0.01 to {most:g}", param=name)
    return value


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def _health(request: Request) -> Health:
    return _runtime(request).health


def _page(request: Request) -> str:
    shown = overview.brief(_runtime(request))
    return _PAGE.format(
        model=html.escape(shown["model"]),
        state=html.escape(shown["status"]),
        reason=f" {html.escape(shown['reason'])}" if shown.get("reason") else "",
        used=shown["slots"]["used"],
        slots=shown["slots"]["total"],
        waiting=shown["queue"]["waiting"],
    )


def _json(body: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/json; charset=utf-8",
        headers=headers,
    )
