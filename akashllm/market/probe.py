"""Ask a service how it is: `GET /health`, bounded in time and size, believing nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import requests
from urllib3.exceptions import HTTPError

HealthState = Literal["unreachable", "starting", "loading", "ready", "failed", "unknown"]

_STATES: dict[str, HealthState] = {
    "starting": "starting",
    "loading": "loading",
    "ready": "ready",
    "ok": "ready",
    "unloaded": "ready",
    "failed": "failed",
}
_MAX_BYTES = 64 << 10
_CONNECT, _READ = 3.0, 10.0
_MAX_REASON = 500
_MAX_REVISION = 64


@dataclass(frozen=True, slots=True)
class Health:
    """What a service says of itself. `percent` is how much of the model is loaded; `reason` is untrusted.

    revision   what it was last updated to; empty where it was not, or does not tell
    ordered    it has failed for what was ordered: no other machine could do better
    idle       seconds for which nobody has asked a model anything; None: it does not tell, as without a key
    """

    state: HealthState
    percent: float | None = None
    reason: str = ""
    revision: str = ""
    idle: float | None = None
    ordered: bool = False


def probe(url: str, key: str | None = None) -> Health:
    """How the service at `url` is. Never raises for what the other side does; redirects are not followed."""
    # `raw` raises urllib3's own errors: requests wraps them only in its own readers.
    try:
        return _health(*fetch(f"{url.rstrip('/')}/health", key))
    except (requests.RequestException, HTTPError, OSError) as error:
        return Health("unreachable", reason=type(error).__name__)


def fetch(url: str, key: str | None = None) -> tuple[int, bytes]:
    """The status and the beginning of the body of one GET; redirects are not followed."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    session = requests.Session()
    # Neither a proxy nor a .netrc of the caller's has a say in where the key goes.
    session.trust_env = False
    with (
        session,
        session.get(
            url, headers=headers, timeout=(_CONNECT, _READ), allow_redirects=False, stream=True
        ) as reply,
    ):
        return reply.status_code, _body(reply)


def _body(reply: requests.Response) -> bytes:
    """The beginning of the body: whatever comes within the time and the size that a health report needs."""
    body = b""
    deadline = time.monotonic() + _READ
    while len(body) < _MAX_BYTES and time.monotonic() < deadline:
        piece = reply.raw.read1(_MAX_BYTES)
        if not piece:
            break
        body += piece
    return body


def _health(status: int, body: bytes) -> Health:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return Health("unknown", reason=f"/health answers {status}, and not in JSON")
    if not isinstance(data, dict):
        return Health("unknown", reason=f"/health answers {status} with JSON of another shape")
    state = _STATES.get(str(data.get("status") or data.get("state")), "unknown")
    return Health(
        state,
        _percent(data.get("percent")),
        str(data.get("reason") or "")[:_MAX_REASON],
        str(data.get("revision") or "")[:_MAX_REVISION],
        _seconds(data.get("idle_seconds")),
        data.get("fault") == "order",
    )


def _seconds(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return float(value) if known else None


def _percent(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100
    return float(value) if known else None


def answers_to(url: str, key: str) -> int | None:
    """The status that `GET /v1/models` has with this key; None where nobody answers."""
    session = requests.Session()
    session.trust_env = False
    try:
        with (
            session,
            session.get(
                f"{url.rstrip('/')}/v1/models",
                headers={"Authorization": f"Bearer {key}"},
                timeout=(_CONNECT, _READ),
                allow_redirects=False,
                stream=True,
            ) as reply,
        ):
            return reply.status_code
    except (requests.RequestException, HTTPError, OSError):
        return None
