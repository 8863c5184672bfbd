"""How a container is, in a market's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from akashllm.market.base import Standing
from akashllm.market.lodger import HOPELESS

GIVE_UP = 6
"""Starts after which a container that still dies is given up, as the supervisor of processes does."""

_LONGEST = 1 << 16


def standing_of(dseq: str, found: Mapping[str, Any] | None, url: str | None, provider: str) -> Standing:
    """From what the engine's inspection says; None: it has no such container."""
    if found is None:
        return Standing(
            dseq=dseq, state="stopped", provider=provider, url=url, reason="its container was removed"
        )
    state, restarts = found["State"], int(found.get("RestartCount") or 0)
    code = int(state.get("ExitCode") or 0)
    why = _why(state, code)

    def standing(word: Any, reason: str = "") -> Standing:
        return Standing(
            dseq=dseq,
            state=word,
            provider=provider,
            url=url,
            reason=reason,
            restarts=restarts,
            since=str(state.get("StartedAt") or "") or None,
        )

    match state.get("Status"):
        case "running":
            return standing("running", why if restarts else "")
        case "restarting":
            return standing("failed" if restarts >= GIVE_UP or code in HOPELESS else "restarting", why)
        case "created":
            return standing("failed" if state.get("Error") else "starting", str(state.get("Error") or ""))
        case _:
            return standing("stopped", why)


def lines_of(pieces: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream that comes in pieces; one without an end is cut."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
        if len(rest) > _LONGEST:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


def _why(state: Mapping[str, Any], code: int) -> str:
    if state.get("OOMKilled"):
        return "it took more memory than the SDL gives it"
    return str(state.get("Error") or "") or f"the service ended with status {code}"
