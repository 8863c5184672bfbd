"""`watch`: close what nobody uses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.operate import recorded
from akashllm.cli.out import Interrupted, Out
from akashllm.errors import NoSuchDeployment, StateError, UsageError
from akashllm.market.base import Market
from akashllm.market.closing import close
from akashllm.market.view import unrecorded
from akashllm.market.watching import IDLE, Seen, Watched, look
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

OneName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="One deployment, also by a number that the record does not know; else all with --idle-hours.",
    ),
]
Hours = Annotated[
    float | None,
    typer.Option(
        "--idle-hours",
        metavar="HOURS",
        min=0,
        help="Hours without a request, if not those that deploy was given.",
    ),
]
Once = Annotated[bool, typer.Option("--once", help="Look once, as cron does it, instead of until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", metavar="MINUTES", min=0.1, help="Minutes between two looks.")]


def watch(
    name: OneName = None,
    *,
    idle_hours: Hours = None,
    once: Once = False,
    every: Every = 5.0,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    json: opt.Json = False,
) -> None:
    """Close deployments that nobody has used for some hours.

    Akash closes nothing for being idle: this does, from wherever it runs. With --once it is a line for cron.
    """
    if json and not once:
        raise UsageError("a watch is no single JSON document", hint="add --once, or leave out --json")
    out = Out(json=json)
    given = opt.read_key(api_key_env, api_key_file)
    while True:
        try:
            with recorded() as (store, markets):
                seen = [look(one) for one in _wanted(store, markets, name, idle_hours, given)]
            _tell(out, seen, quiet=not once)
        except StateError as error:
            # A record that another command is writing is no reason to watch no longer.
            if once or isinstance(error, NoSuchDeployment):
                raise
            out.talk(f"warning: nothing was looked at: {error.message}")
        if once:
            return
        try:
            time.sleep(every * 60)
        except KeyboardInterrupt:
            raise Interrupted("nothing is watched any more; what is open stays open") from None


def _wanted(
    store: Store, markets: Mapping[str, Market], name: str | None, hours: float | None, key: str | None
) -> Iterator[Watched]:
    """What is to be looked at. Raises `NoSuchDeployment`, and `UsageError` where no hours are known."""
    if name is None:
        for row in store.all():
            limit = hours if hours is not None else row.facts.get(IDLE)
            # Also what a deploy or a close has left halfway: its lease is paid as well.
            if limit is not None and row.dseq and row.market in markets:
                yield _recorded(store, row, markets[row.market], float(limit), key)
        return
    try:
        row = store.find(name)
    except NoSuchDeployment:
        yield from _strange(store, markets, name, hours, key)
        return
    limit = hours if hours is not None else row.facts.get(IDLE)
    if limit is None:
        raise UsageError(f"{row.name} was deployed without --idle-hours", hint="give --idle-hours now")
    if row.market in markets and row.dseq:
        yield _recorded(store, row, markets[row.market], float(limit), key)


def _recorded(store: Store, row: Deployment, market: Market, hours: float, key: str | None) -> Watched:
    path = store.home.directory(row.name, row.id) / "api-key"
    try:
        known = read_private(path).strip() if path.exists() else None
    except StateError:
        # Without its key it does not tell how idle it is, which is said; the others are looked at all the same.
        known = None
    return Watched(
        name=row.name,
        dseq=str(row.dseq),
        market=market,
        hours=hours,
        key=key or known,
        close=partial(_close, store, market, row),
    )


def _close(store: Store, market: Market, row: Deployment) -> None:
    close(store, market, row)


def _strange(
    store: Store, markets: Mapping[str, Market], word: str, hours: float | None, key: str | None
) -> Iterator[Watched]:
    """A deployment of the account that was made elsewhere: how a schedule in CI watches."""
    for market, held in unrecorded(store, list(markets.values()), silent=[]):
        if word in {held.dseq, held.reference}:
            if hours is None or key is None:
                raise UsageError(
                    f"the record does not know {word}", hint="give --idle-hours and its key with --api-key-env"
                )
            yield Watched(
                name=held.reference or held.dseq,
                dseq=held.dseq,
                market=market,
                hours=hours,
                key=key,
                close=partial(market.close, held.dseq),
            )
            return
    raise NoSuchDeployment("no deployment has that name or number", hint="`akashllm list` shows what there is")


def _tell(out: Out, seen: list[Seen], *, quiet: bool) -> None:
    out.document({"deployments": [one.as_dict() for one in seen]})
    if not seen and not quiet:
        out.talk(
            "nothing is to be watched: `akashllm deploy --idle-hours H` says what is, or give --idle-hours"
        )
    for one in seen:
        idle = "" if one.idle is None else f"idle for {one.idle:.1f} of {one.hours:g} hours"
        match one.verdict:
            case "closed":
                out.line(f"{one.name} is closed: {idle}")
            case "open":
                out.line(f"{one.name} stays open: {idle}")
            case "unknown":
                out.line(f"{one.name} is left as it is: {one.reason}")
