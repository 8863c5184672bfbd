"""Orders at Console: each opened once, found again after a lost answer, and never believed gone too early."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from akashllm.errors import KeyRefused, MarketError, MarketUnavailable
from akashllm.market.base import Created
from akashllm.market.clock import Clock
from akashllm.market.console_errors import NotThere, cleaned, nonsense
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_journal import Begun, Journal, lost
from akashllm.market.console_read import (
    DeploymentRead,
    data_of,
    deployment_of,
    items,
    manifest_of,
    mapping,
    number,
)
from akashllm.sdl import load, manifest_hash, manifest_json

DEPLOYMENT = "/v1/deployments/{}"
BETWEEN = 4.0
"""Seconds between looks for what a lost reply may have left: a transaction takes a block or two."""

_PAGE = 100
_LOOKS = 3
_LANDS = 120.0
"""Seconds within which an order that was never answered is in a block, if it ever will be."""

_BEHIND = 3600.0
"""Seconds for which Console, or the node or index that it asks, may be behind the chain."""

_LEAST_DEPOSIT = Decimal("0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleOrders:
    """Those of one account."""

    http: ConsoleHttp
    journal: Journal
    clock: Clock

    def once(self, sdl: str, data: Mapping[str, Any], reference: str) -> Created:
        """Open an order, unless an earlier call has.

        sdl    with its secrets: what is ordered;  data: what Console is sent, with secrets as it takes them
        """
        made = load(sdl)
        manifest = manifest_json(made).decode()
        digest = base64.b64encode(bytes.fromhex(manifest_hash(made))).decode()
        found, open_ = self._earlier(reference)
        if found is not None:
            return Created(dseq=found, manifest=manifest)
        before = tuple(one.dseq for one in open_)
        begun = self.journal.write(Begun(reference=reference, digest=digest, before=before, key=self.http.mark))
        try:
            reply = self._send(data)
        except MarketUnavailable as error:
            if error.acted is False:
                self.journal.forget(reference)
                raise
            return Created(dseq=self._landed(begun, error), manifest=manifest)
        except MarketError:
            self.journal.forget(reference)
            raise
        answer = mapping(mapping(reply).get("data"))
        dseq, signed = number(answer.get("dseq")), mapping(answer.get("signTx"))
        if not dseq:
            return Created(dseq=self._landed(begun, nonsense("POST /v1/deployments")), manifest=manifest)
        if number(signed.get("code")) not in {"", "0"}:
            self.journal.forget(reference)
            why = cleaned(str(signed.get("rawLog") or "")) or f"code {signed['code']}"
            raise MarketError(f"the chain refuses the order: {why}", hint="see the chain's words")
        self.journal.found(begun, dseq)
        theirs = manifest_of(answer.get("manifest"))
        return Created(dseq=dseq, manifest=theirs or manifest)

    def open(self) -> Iterator[DeploymentRead]:
        """Every open deployment, page by page."""
        skip = 0
        while True:
            reply = self.http.get("/v1/deployments", {"skip": str(skip), "limit": str(_PAGE)})
            data = mapping(data_of(reply, "GET /v1/deployments"))
            if not isinstance(data.get("deployments"), list):
                raise nonsense("GET /v1/deployments")
            page = [deployment_of(one, "GET /v1/deployments") for one in items(data["deployments"])]
            yield from (one for one in page if one.open)
            skip += len(page)
            if not page or mapping(data.get("pagination")).get("hasMore") is not True:
                return

    def read(self, dseq: str) -> DeploymentRead:
        """One deployment. Raises `NotThere` where it is certain that there is none."""
        call = "GET /v1/deployments/{dseq}"
        try:
            return deployment_of(data_of(self.http.get(DEPLOYMENT.format(dseq)), call), call)
        except NotThere:
            self.believe(dseq)
            raise

    def still_open(self, dseq: str) -> bool:
        """Whether it may hold money. Raises `MarketError` where that cannot be told."""
        try:
            return self.read(dseq).open
        except NotThere:
            return False

    def believe(self, dseq: str) -> None:
        """Believe Console that it has no such deployment.

        The chain forgets none, so one that was ordered here is only not seen: by another account's key, or by
        a node or an index that is behind. Raises `KeyRefused` and `MarketUnavailable` for that.
        """
        begun = self.journal.numbered(dseq)
        if begun is None:
            return
        self._same_key(begun)
        if self.journal.age(begun) < _BEHIND:
            raise MarketUnavailable(
                f"Console does not show deployment {dseq}, which it has opened: it is behind the chain",
                hint="run the same command again in a few minutes; nothing is forgotten",
            )

    def _same_key(self, begun: Begun) -> None:
        if begun.key not in {"", self.http.mark}:
            what = f"deployment {begun.dseq}" if begun.dseq else "an order that was never answered"
            raise KeyRefused(
                f"{what} belongs to another API key, and perhaps to another account",
                hint="use the key it was ordered with: `akashllm login`, or AKASH_CONSOLE_API_KEY",
            )

    def _send(self, data: Mapping[str, Any]) -> Any:
        try:
            return self.http.post("/v1/deployments", {"data": data})
        except MarketError as error:
            # An older Console wants a deposit. It has refused, so nothing was begun.
            refused = not isinstance(error, MarketUnavailable) or error.acted is False
            if not (refused and "deposit" not in data and "deposit" in error.message.lower()):
                raise
        return self.http.post("/v1/deployments", {"data": {**data, "deposit": float(_LEAST_DEPOSIT)}})

    def _earlier(self, reference: str) -> tuple[str | None, Sequence[DeploymentRead]]:
        """What an earlier call has opened, and all that is open.

        An order that was not answered is waited for as long as it may still land: a second one would be paid
        beside it. Raises `MarketError` where it cannot be told.
        """
        open_ = list(self.open())
        begun = self.journal.read(reference)
        if begun is None:
            return None, open_
        self._same_key(begun)
        deadline = self.clock.monotonic() + _LANDS - self.journal.age(begun)
        while (found := self._opened(begun, open_)) is None and begun.dseq is None:
            if self.clock.monotonic() >= deadline:
                break
            self.clock.sleep(BETWEEN)
            open_ = list(self.open())
        return found, open_

    def _opened(self, begun: Begun, open_: Sequence[DeploymentRead]) -> str | None:
        if begun.dseq is not None:
            return begun.dseq if self.still_open(begun.dseq) else None
        for one in open_:
            if lost([begun], one) == begun.reference:
                self.journal.found(begun, one.dseq)
                return one.dseq
        others = self.journal.references(open_)
        strangers = [one.dseq for one in open_ if one.dseq not in begun.before and one.dseq not in others]
        if strangers:
            raise MarketError(
                f"an earlier order was never answered, and deployment {strangers[0]} may be it",
                hint=f"`akashllm close {strangers[0]}` if it is not wanted, then deploy again",
            )
        return None

    def _landed(self, begun: Begun, error: MarketUnavailable) -> str:
        """The number of an order whose reply was lost, if it was carried out after all."""
        for look in range(_LOOKS):
            if look:
                self.clock.sleep(BETWEEN)
            with suppress(MarketUnavailable):
                for one in self.open():
                    if lost([begun], one) == begun.reference:
                        self.journal.found(begun, one.dseq)
                        return one.dseq
        raise error
