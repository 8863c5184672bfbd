"""Who may call: a key on every route that does not say it is public.

The check is a dependency of the whole application and opens only for endpoints marked with `public`, so a new
route is closed until somebody decides otherwise. It reads the raw headers and the matched endpoint, never
`request.url`: that is built from the Host header, which the client writes (CVE-2026-48746).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from akashllm.errors import Unauthorized
from akashllm.server.settings import Settings

F = TypeVar("F", bound=Callable[..., object])

_MARK = "__akashllm_public__"
_LONGEST = 4096
"""Bytes of a credential that are looked at."""

MESSAGE = "Incorrect API key provided, or none: send 'Authorization: Bearer KEY' with the right one"
"""The first words are OpenAI's: clients look for them (litellm's exception_mapping_utils.py)."""


def public(endpoint: F) -> F:
    """Mark an endpoint as open to anyone."""
    setattr(endpoint, _MARK, True)
    return endpoint


def is_public(endpoint: object) -> bool:
    """Whether an endpoint has been marked."""
    return getattr(endpoint, _MARK, False) is True


async def require_key(request: Request) -> None:
    """Raise `Unauthorized`, always with the same words, unless the request may pass."""
    if is_public(request.scope.get("endpoint")) or authorised(request):
        return
    raise Unauthorized(MESSAGE)


def authorised(request: Request) -> bool:
    """Whether the request carries a key of this service, or the service has none.

    Accepted: one `Authorization: Bearer KEY` (the scheme in any case), or one `X-Api-Key: KEY` as Anthropic's
    clients and llama-server's send it. More than one credential is none.
    """
    settings: Settings = request.app.state.settings
    if not settings.keys:
        return True
    found = [
        (name, value) for name, value in request.scope["headers"] if name in {b"authorization", b"x-api-key"}
    ]
    if len(found) != 1:
        return False
    name, value = found[0]
    if len(value) > _LONGEST:
        return False
    if name == b"authorization":
        scheme, space, value = value.partition(b" ")
        if scheme.lower() != b"bearer" or not space:
            return False
    offered = hashlib.sha256(value).digest()
    matches = [hmac.compare_digest(offered, hashlib.sha256(key.encode()).digest()) for key in settings.keys]
    return any(matches)
