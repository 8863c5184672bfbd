"""Signing and sending: each transaction once, and its outcome from the chain, never from hope."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from akashllm.errors import MarketUnavailable
from akashllm.market.clock import Clock, RealClock
from akashllm.market.wallet_cli import TX_SECONDS, Cli
from akashllm.market.wallet_errors import LATER, SequenceMismatch, refusal, told
from akashllm.market.wallet_read import documents
from akashllm.market.wallet_words import Grammar

BLOCK = 6.0
"""Seconds between two blocks, about."""

_TRIES = 3
"""Times that a transaction is sent which the mempool has refused for its sequence number."""

_WAITING = 19
"""ErrTxInMempoolCache of Cosmos' own code space: the very same transaction waits for its block already."""

_LOOKS = 12
_HASH = re.compile(r"[0-9A-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transactions:
    """Sends transactions of one command."""

    cli: Cli
    grammar: Grammar
    clock: Clock = field(default_factory=RealClock)

    def send(self, words: Sequence[str], call: str, key: str) -> None:
        """Send it, and wait until it is in a block.

        Raises `MarketUnavailable` with `acted` None where it may or may not have been carried out: the caller
        looks at the chain. It is sent again only where the mempool has refused it for its sequence number,
        for then it is certain that it never will be.
        """
        for attempt in range(_TRIES):
            if attempt:
                self.clock.sleep(BLOCK)
            try:
                self._once(words, call, key)
            except SequenceMismatch:
                if attempt + 1 == _TRIES:
                    raise
            else:
                return

    def _once(self, words: Sequence[str], call: str, key: str) -> None:
        ran = self.cli(words, seconds=TX_SECONDS)
        reply = _reply(ran.out)
        if reply is None:
            if ran.status == 0:
                raise MarketUnavailable(f"{call} was sent, and nothing came back", hint=LATER, acted=None)
            raise refusal(ran, call, key)
        code, digest = _code(reply), str(reply.get("txhash") or "").upper()
        if code == _WAITING and reply.get("codespace") == "sdk" and _HASH.fullmatch(digest):
            self._included(digest, call, key)
            return
        if code and not _height(reply):
            raise told(str(reply.get("raw_log") or ""), call, key, code)
        if code or _height(reply):
            _settled(reply, call, key)
        elif _HASH.fullmatch(digest):
            self._included(digest, call, key)
        else:
            raise MarketUnavailable(f"{call} was sent, and its hash is not known", hint=LATER, acted=None)

    def _included(self, digest: str, call: str, key: str) -> None:
        """Wait for the block. A transaction that is in none yet may get into one at any time."""
        for look in range(_LOOKS):
            if look:
                self.clock.sleep(BLOCK / 2)
            ran = self.cli(self.grammar.tx(digest))
            found = _reply(ran.out) if ran.status == 0 else None
            if found is not None and _height(found):
                _settled(found, call, key)
                return
        raise MarketUnavailable(
            f"{call} was sent, but its transaction {digest} is in no block yet", hint=LATER, acted=None
        )


def _settled(reply: dict[str, Any], call: str, key: str) -> None:
    """Raise what a transaction that is in a block has come to."""
    if code := _code(reply):
        raise told(str(reply.get("raw_log") or ""), call, key, code)


def _reply(text: str) -> dict[str, Any] | None:
    """The last transaction that was printed."""
    found = None
    for value in documents(text):
        if isinstance(value, dict) and "txhash" in value:
            found = value
    return found


def _code(reply: dict[str, Any]) -> int:
    """The code; a reply whose code means nothing counts as refused."""
    code = reply.get("code", 0)
    return code if isinstance(code, int) and not isinstance(code, bool) else 1


def _height(reply: dict[str, Any]) -> bool:
    return str(reply.get("height") or "0").strip("0") != ""
