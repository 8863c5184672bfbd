"""What Console refuses, as one sentence and the next step.

Console's error body is `{error, message, code, type, data?}` (its error handler); the texts that are told apart
here are those of its source of August 2026. Anything else is passed on, cut and cleaned.
"""

from __future__ import annotations

import json
import re
from typing import Any

from akashllm.errors import BidGone, KeyRefused, MarketError, MarketUnavailable, NotEnoughMoney
from akashllm.market.console_key import VARIABLE, WHERE

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MAX = 300
_LATER = "nothing is lost: run the same command again in a few minutes"

_GONE = re.compile(
    r"bid (is )?(not|no longer) open|bid not found|already matched|order (is )?not open", re.IGNORECASE
)
_MONEY = re.compile(r"balance|deposit too low|trial|fee allowance|insufficient funds|grant", re.IGNORECASE)


class NotThere(MarketError):
    """Console has nothing under that number or address."""


def cleaned(text: str) -> str:
    """Somebody else's words on one line, of bounded length."""
    return _CONTROL.sub(" ", text).strip()[:_MAX]


def said(body: bytes) -> str:
    """The message in an error body, if there is one."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    message = data.get("message")
    details = data.get("data")
    text = message if isinstance(message, str) else ""
    if isinstance(details, list) and details:
        text += ": " + "; ".join(_detail(one) for one in details[:3])
    return cleaned(text)


def refusal(status: int, body: bytes, *, call: str) -> MarketError:
    """The error that stands for a reply that is no success."""
    words = said(body)
    tail = f": {words}" if words else ""
    match status:
        case 401:
            return KeyRefused("Console does not accept the API key", hint=f"check {VARIABLE}; {WHERE}")
        case 402:
            return NotEnoughMoney(
                f"the account cannot pay for this{tail}", hint="add funds at console.akash.network"
            )
        case 403:
            return KeyRefused(f"this account may not do that{tail}", hint=WHERE)
        case 404:
            return NotThere(f"Console has no such thing ({call})", hint="`akashllm list` shows what there is")
        case 408 | 425:
            return MarketUnavailable(
                f"Console did not wait for the request ({status}){tail}", hint=_LATER, acted=None
            )
        case 409:
            return MarketError(
                f"Console says that something else is under way{tail}",
                hint="a new wallet takes some minutes to be activated; then run the same command again",
            )
        case 429:
            return MarketUnavailable(
                "Console has had too many requests from this account", hint=_LATER, acted=None
            )
        case 451:
            return MarketError("Console is not available where you are", hint="deploy with another market")
    if 300 <= status < 400:
        return MarketError(
            "Console sends elsewhere, and the key was not sent there", hint="check AKASH_CONSOLE_API_URL"
        )
    if status >= 500:
        unsure = MarketUnavailable(f"Console failed ({status}){tail}", hint=_LATER, acted=None)
        return unavailable_page() if not words and body.lstrip()[:1] == b"<" else unsure
    if _GONE.search(words):
        return BidGone(f"the bid is no longer open ({words})", hint="deploy again: other bids will come")
    if _MONEY.search(words):
        return NotEnoughMoney(
            f"the account cannot pay for this{tail}",
            hint="add funds at console.akash.network; a trial covers neither every GPU nor every deployment",
        )
    return MarketError(f"Console refuses ({status}){tail}", hint="`akashllm plan` shows what was asked for")


def unavailable_page() -> MarketUnavailable:
    """A page for people instead of an answer."""
    return MarketUnavailable(
        "Console answers with a web page: it is under maintenance, or something stands in between",
        hint=_LATER,
        acted=None,
    )


def nonsense(call: str) -> MarketUnavailable:
    """An answer that cannot be read."""
    return MarketUnavailable(f"Console's answer cannot be read ({call})", hint=_LATER, acted=None)


def no_answer(kind: str, *, acted: bool | None) -> MarketUnavailable:
    """Nothing came."""
    return MarketUnavailable(
        f"Console does not answer ({kind})", hint=f"check the network; {_LATER}", acted=acted
    )


def _detail(one: Any) -> str:
    if isinstance(one, dict):
        path = one.get("path")
        where = "/".join(map(str, path)) if isinstance(path, list) else ""
        return f"{where} {one.get('message', '')}".strip()
    return str(one)
