"""How bids are shown and taken on the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from akashllm.cli.text import columns, width_of
from akashllm.errors import AkashllmError, NoBids, UsageError
from akashllm.market.base import Bid
from akashllm.market.choose import Ranked, Wish, blocks_cap, pick, rank, rows
from akashllm.plan import Plan


def wish_for(plan: Plan, how: str) -> Wish:
    """What a plan wants of a bid. Raises `UsageError` where nobody can be asked."""
    if how == "ask" and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("--bid ask needs a terminal", hint="use --bid best or --bid cheapest")
    return Wish(
        how="best" if how == "ask" else how,
        cap=None if plan.max_price_hour is None else blocks_cap(plan.max_price_hour),
        region=plan.region,
        gpus=tuple(choice.model for choice in plan.gpus),
    )


@dataclass(frozen=True, slots=True)
class Chooser:
    """Shows the table, then takes the first bid of it or the one that a person names."""

    wish: Wish
    say: Callable[[str], None]
    ask: bool = False
    why: bool = False

    def __call__(self, bids: Sequence[Bid]) -> Bid:
        """The bid to take. Raises `NoBids`."""
        ranked = rank(bids, self.wish)
        for line in columns(rows(ranked, why=self.why), width=width_of(sys.stderr)):
            self.say(line)
        first = pick(ranked, self.wish)
        return self._asked(ranked) if self.ask else first

    def _asked(self, ranked: Sequence[Ranked]) -> Bid:
        good = [one.bid for one in ranked if not one.refused]
        print(f"Which bid? [1-{len(good)}, Enter for 1, n for none] ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        word = line.strip().lower() or "1"
        # An end of the input is no Enter: whoever has left has not agreed to pay.
        if not line or word in {"n", "none", "q"}:
            raise NoBids("no bid was taken", hint="the order is closed; deploy again when you like")
        if not word.isascii() or not word.isdigit() or not 1 <= int(word) <= len(good):
            raise AkashllmError("that is none of the bids", hint="deploy again and give its number")
        return good[int(word) - 1]
