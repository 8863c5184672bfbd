"""What a deployment costs, as its market says, and what its tokens have cost, as its service counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from akashllm.market.base import Terms
from akashllm.market.choose import DOLLARS, HOURS_A_MONTH
from akashllm.market.probe import fetch
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH

_LEAST = 1000
"""Tokens below which a price for a million of them would mean nothing."""

_SAMPLE = re.compile(r"^akashllm_(prompt|completion)_tokens_(total|created) ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Tokens since the service started; `since` in seconds of the Unix clock."""

    prompt: int
    completion: int
    since: float


def counted(url: str, key: str) -> Counted | None:
    """What the service's `/metrics` says; None where it says nothing."""
    try:
        _, body = fetch(f"{url.rstrip('/')}/metrics", key)
    except (requests.RequestException, HTTPError, OSError):
        return None
    found = {(kind, word): float(value) for kind, word, value in _SAMPLE.findall(body.decode(errors="replace"))}
    try:
        return Counted(
            prompt=int(found["prompt", "total"]),
            completion=int(found["completion", "total"]),
            since=found["completion", "created"],
        )
    except KeyError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One deployment's price. Dollars are None where the denomination has no fixed rate to them."""

    terms: Terms
    tokens: Counted | None = None
    now: float = 0.0

    def dollars(self, amount: Decimal | None) -> Decimal | None:
        """An amount of the market's denomination in US dollars."""
        if amount is None or self.terms.denom != DOLLARS:
            return None
        return amount / MILLIONTH

    @property
    def hour(self) -> Decimal | None:
        """US dollars an hour."""
        return self.dollars(self.terms.block * BLOCKS_AN_HOUR)

    @property
    def month(self) -> Decimal | None:
        """US dollars a month of 730.5 hours."""
        return None if self.hour is None else self.hour * HOURS_A_MONTH

    @property
    def hours_left(self) -> Decimal | None:
        """How long what is in escrow lasts."""
        if self.terms.escrow is None or not self.terms.block:
            return None
        return self.terms.escrow / self.terms.block / BLOCKS_AN_HOUR

    @property
    def million(self) -> Decimal | None:
        """US dollars for a million tokens, of prompts and answers: what the time they were counted in cost."""
        if self.tokens is None or self.hour is None:
            return None
        tokens = self.tokens.prompt + self.tokens.completion
        hours = Decimal(str(self.now - self.tokens.since)) / 3600
        return self.hour * hours / tokens * MILLIONTH if tokens >= _LEAST and hours > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data; exact amounts as text, dollars rounded to a millionth."""
        tokens = self.tokens
        return {
            "denom": self.terms.denom,
            "price_per_block": str(self.terms.block),
            "escrow": None if self.terms.escrow is None else str(self.terms.escrow),
            "spent": None if self.terms.spent is None else str(self.terms.spent),
            "dollars_per_hour": _rounded(self.hour),
            "dollars_per_month": _rounded(self.month),
            "dollars_spent": _rounded(self.dollars(self.terms.spent)),
            "dollars_in_escrow": _rounded(self.dollars(self.terms.escrow)),
            "hours_left": _rounded(self.hours_left),
            "tokens": None
            if tokens is None
            else {"prompt": tokens.prompt, "completion": tokens.completion, "since": tokens.since},
            "dollars_per_million_tokens": _rounded(self.million),
        }


def _rounded(value: Decimal | None) -> float | None:
    return None if value is None else round(float(value), 6)
