"""The chat page: one file without anything from elsewhere, and headers that hold it to that."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


class Page(NamedTuple):
    """What is sent."""

    body: bytes
    headers: dict[str, str]


@cache
def chat() -> Page:
    """The page, with a policy (CSP 3) that lets run what is in it, and lets it call this service only."""
    text = resources.files(__name__).joinpath("chat.html").read_text(encoding="utf-8")
    digests = {kind: _digest(inside) for kind, inside in _INLINE.findall(text)}
    policy = (
        "default-src 'none'",
        f"script-src '{digests['script']}'",
        f"style-src '{digests['style']}'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    headers = {
        "content-security-policy": "; ".join(policy),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "cache-control": "no-cache",
    }
    return Page(text.encode(), headers)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
