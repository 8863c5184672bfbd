"""The options of `deploy` that say where, at what price, for how long, and which bid is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from akashllm.errors import UsageError


def _way(text: str) -> str:
    """What `--bid` says: a way to choose, or a provider's address."""
    if text not in {"best", "cheapest", "ask"} and not text.startswith("akash1"):
        raise UsageError("--bid takes best, cheapest, ask, or a provider's address (akash1...)")
    return text


MarketOption = Annotated[
    str,
    typer.Option(
        "--market",
        metavar="MARKET",
        envvar="AKASHLLM_MARKET",
        help="local (this machine, free), docker (the same in a container), console or wallet (Akash).",
    ),
]
Container = Annotated[
    bool,
    typer.Option(
        "--container", help="With --market local: in Docker, as a provider would run it, not as a process."
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="PORT", min=1, max=65535, help="Port on this machine.  [default: any free one]"
    ),
]
Timeout = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest wait for bids, and again for the model."),
]
Bid = Annotated[
    str,
    typer.Option(
        "--bid",
        metavar="HOW",
        parser=_way,
        help="Which bid to take: best, cheapest, ask, or a provider's address.",
    ),
]
Why = Annotated[bool, typer.Option("--why", help="Say how each bid came to its place.")]
BidWait = Annotated[
    float,
    typer.Option("--bid-wait", metavar="SECONDS", min=0, help="Collect bids for so long after the first."),
]
MaxHours = Annotated[
    int | None,
    typer.Option(
        "--max-hours",
        metavar="HOURS",
        min=1,
        max=48,
        help="Have Akash's Console close it after so many hours, even if this machine is off.",
    ),
]
IdleHours = Annotated[
    float | None,
    typer.Option(
        "--idle-hours",
        metavar="HOURS",
        min=0.1,
        help="Have `akashllm watch` close it after so many hours without a request.",
    ),
]
SdlFile = Annotated[
    Path | None,
    typer.Option(
        "--sdl",
        metavar="FILE",
        help="Deploy this SDL as it stands, such as one that `render` wrote; its name is the file's.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and the SDL, and do nothing.")]


@dataclass(frozen=True, slots=True)
class Taking:
    """How a bid is taken, and for how long.

    bid     a way to choose, or a provider's address
    wait    seconds to go on collecting bids after the first
    hours   after which Console closes it
    idle    hours without a request after which `watch` does
    """

    bid: str
    wait: float
    why: bool = False
    hours: int | None = None
    idle: float | None = None

    @property
    def asks(self) -> bool:
        """Whether a person chooses, on a terminal that nothing else may draw on."""
        return self.bid == "ask"
