"""The person who is asked which bid to take."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest

from akashllm.cli.bids import Chooser
from akashllm.errors import AkashllmError, NoBids
from akashllm.market.base import Bid
from akashllm.market.choose import Wish

BIDS = [Bid(provider=f"akash1{n}", amount=Decimal(n), denom="uact", audited=True) for n in (1, 2)]


@pytest.mark.parametrize(
    ("typed", "taken"),
    [("\n", "akash11"), ("2\n", "akash12"), ("n\n", NoBids), ("", NoBids), ("3\n", AkashllmError)],
)
def test_only_an_answer_takes_a_bid(
    monkeypatch: pytest.MonkeyPatch, typed: str, taken: str | type[AkashllmError]
) -> None:
    """Enter takes the first; a terminal that was closed has agreed to nothing."""
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    chooser = Chooser(Wish(), say=lambda _line: None, ask=True)
    if isinstance(taken, str):
        assert chooser(BIDS).provider == taken
        return
    with pytest.raises(taken):
        chooser(BIDS)
