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

from akashllm.errors import Forbidden, Unauthorized
from akashllm.server.settings import PREFIX, Settings

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


async def require_admin(request: Request) -> None:
    """A dependency of the routes that change the service: raise unless the request carries the admin key.

    Without an admin key they are off, except on loopback where the operator has opened them to everyone on the
    machine. `Forbidden` says what to set, `Unauthorized` that the key is wrong.
    """
    settings: Settings = request.app.state.settings
    if settings.admin_key is None:
        alone = settings.loopback and not settings.keys
        if alone and settings.manage_unauthenticated:
            return
        or_else = f", or {PREFIX}MANAGE_UNAUTHENTICATED=true if only you use this machine" if alone else ""
        raise Forbidden(
            f"managing models is off: set {PREFIX}ADMIN_KEY{or_else}",
            hint="restart the service with that variable set, and send its value as the key",
        )
    key = _offered(request)
    if key is not None and _matches(key, settings.admin_key):
        return
    if key is not None and settings.api_key is not None and _matches(key, settings.api_key):
        raise Forbidden(
            "managing models needs the admin key, and this is the other one",
            hint=f"send the value of {PREFIX}ADMIN_KEY as the key",
        )
    raise Unauthorized(MESSAGE)


def authorised(request: Request) -> bool:
    """Whether the request carries a key of this service, or the service asks for none."""
    settings: Settings = request.app.state.settings
    if not settings.keys or settings.unauthenticated:
        return True
    key = _offered(request)
    if key is None:
        return False
    matches = [_matches(key, known) for known in settings.keys]
    return any(matches)


def _offered(request: Request) -> bytes | None:
    """The one credential of a request; more than one is none.

    It is `Authorization: Bearer KEY` (the scheme in any case), or `X-Api-Key: KEY` as Anthropic's clients and
    llama-server's send it.
    """
    found = [
        (name, value) for name, value in request.scope["headers"] if name in {b"authorization", b"x-api-key"}
    ]
    if len(found) != 1:
        return None
    name, value = found[0]
    if len(value) > _LONGEST:
        return None
    if name == b"authorization":
        scheme, space, value = value.partition(b" ")
        if scheme.lower() != b"bearer" or not space:
            return None
    return bytes(value)


def _matches(offered: bytes, key: str) -> bool:
    """Compared by digest, so that the time taken says nothing."""
    return hmac.compare_digest(hashlib.sha256(offered).digest(), hashlib.sha256(key.encode()).digest())
