"""The outermost layer: a request id on every response, hosts and origins checked, one log line at the end."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import time
import uuid

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from akashllm.errors import BadRequest, Forbidden, ServiceError
from akashllm.server import logs
from akashllm.server.guard.dialect import error_response
from akashllm.server.metrics import Metrics
from akashllm.server.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_LOCAL_NAMES = (".localhost", ".local", ".internal")
_MOUNTS = ("/openai/v1", "/v1")
"""Where routers are mounted: some versions of FastAPI leave this out of a route's path."""
_DIALECTS = ("/api/", "/v1/", "/openai/v1/")
_GONE = 499
"""nginx's status for a client that went away; it is logged, never sent."""


class Edge:
    """ASGI middleware. It decides before any route and sees every response."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._check_host = settings.loopback
        self._check_origin = not settings.keys or settings.unauthenticated
        self._hostname = socket.gethostname().lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _drop_slash(scope)
        began = time.perf_counter()
        record = logs.Record(request_id=_request_id(scope))
        scope.setdefault("state", {})["request_id"] = record.request_id
        token = logs.current.set(record)
        status = 0
        identity = (b"x-request-id", record.request_id.encode())

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], identity]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, stamped)
            else:
                await self._app(scope, receive, stamped)
        except ClientDisconnect:
            status = status or _GONE
        except Exception:
            logger.exception("a request failed unexpectedly")
            if status:
                raise
            error = ServiceError("internal error: it has been logged under this request's id")
            await error_response(scope["path"], error)(scope, receive, stamped)
        finally:
            seconds = time.perf_counter() - began
            route = _route(scope)
            self._metrics.request(route, status or _GONE, seconds)
            logs.request_line(_method(scope), route, status or _GONE, seconds, record)
            logs.current.reset(token)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that no route shall see."""
        headers = Headers(scope=scope)
        if headers.get("content-length") and headers.get("transfer-encoding"):
            return error_response(scope["path"], BadRequest("the request has two lengths"))
        host = headers.get("host", "")
        if self._check_host and not self._known_host(host):
            words = "the Host header names neither this machine nor a private address"
            return error_response(scope["path"], Forbidden(words))
        origin = headers.get("origin")
        if origin and self._check_origin and not self._own_origin(origin, host):
            words = (
                f"pages of other origins may not call this service; {PREFIX}CORS_ORIGINS lists those that may"
            )
            return error_response(scope["path"], Forbidden(words))
        return None

    def _known_host(self, host: str) -> bool:
        """Ollama's rule against DNS rebinding: a name that only this machine or its network has."""
        name = _without_port(host).rstrip(".").lower()
        if name in {"", "localhost", self._hostname} or name.endswith(_LOCAL_NAMES):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_unspecified

    def _own_origin(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may call a service without a key: its own pages and configured ones."""
        return origin in self._settings.cors_origins or origin.partition("://")[2] == host


def _drop_slash(scope: Scope) -> None:
    """Read `/api/tags/` as `/api/tags`: base addresses are often written with a slash too many.

    Ollama redirects such requests. An answer spares clients that follow nothing, and a `Location` made from
    what a client wrote.
    """
    path: str = scope["path"]
    if path.endswith("/") and path.startswith(_DIALECTS):
        scope["path"] = path[:-1]


def _request_id(scope: Scope) -> str:
    """The client's id if there is one and it is harmless, else a new one."""
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) == 1 and _SAFE_ID.fullmatch(given[0]):
        return given[0].decode()
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The template of the path that matched, with the prefix it is mounted under; `-` if none matched."""
    if "route" not in scope:
        return "-"
    template = str(getattr(scope["route"], "path", "-"))
    mounted = next((prefix for prefix in _MOUNTS if scope["path"].startswith(f"{prefix}/")), "")
    return template if template.startswith(mounted) else mounted + template


def _without_port(host: str) -> str:
    """The host of a Host header; an IPv6 address without its brackets."""
    if host.startswith("["):
        name, _, _ = host[1:].partition("]")
    else:
        name, _, _ = host.partition(":")
    return name


def _method(scope: Scope) -> str:
    """The method, if it is one that exists: the log shows nothing a client made up."""
    method = str(scope["method"])
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "-"
