"""What the state of a deployment on the chain means to whoever asks a market about it."""

from __future__ import annotations

from collections.abc import Callable

from akashllm.errors import MarketError, ProviderFailed
from akashllm.market.base import Lease, MarketState, Standing
from akashllm.market.console_read import DeploymentRead, LeaseRead, address_of, reason_of, replicas_of


def as_lease(dseq: str, lease: LeaseRead) -> Lease:
    """The lease by its numbers."""
    return Lease(dseq=dseq, provider=lease.provider, gseq=lease.gseq, oseq=lease.oseq)


def running(dseq: str, found: DeploymentRead) -> LeaseRead:
    """The lease that is in force. Raises `MarketError` with the reason where there is none."""
    lease = found.lease
    if not found.open or lease is None or lease.state != "active":
        why = reason_of(lease) if lease else "it has no lease"
        raise MarketError(
            f"no provider runs deployment {dseq} now: {why}", hint="a provider keeps no log of what has ended"
        )
    return lease


def leased(dseq: str, found: DeploymentRead | None) -> LeaseRead | None:
    """The lease in force of an open deployment; None before there was one. Raises `MarketError`, and
    `ProviderFailed` where the provider has ended it.
    """
    if found is None or not found.open:
        raise MarketError(f"deployment {dseq} is closed", hint="deploy again")
    lease = found.lease
    if lease is not None and lease.state != "active":
        raise ProviderFailed(f"the provider ended the lease: {reason_of(lease)}", hint="deploy again")
    return lease


def standing_of(
    dseq: str, found: DeploymentRead | None, ask: Callable[[LeaseRead], LeaseRead] = lambda lease: lease
) -> Standing:
    """How a deployment stands; None: there is none.

    ask   has the provider of a lease in force tell of its service
    """
    if found is None:
        return Standing(dseq=dseq, state="closed", reason="the market does not know this deployment")
    lease = found.lease
    provider = lease.provider if lease else ""
    if not found.open:
        why = reason_of(lease) if lease else "it was closed before it had a lease"
        return Standing(dseq=dseq, state="closed", provider=provider, reason=why)
    if lease is None:
        return Standing(dseq=dseq, state="open")
    if lease.state != "active":
        return Standing(dseq=dseq, state="failed", provider=provider, reason=reason_of(lease))
    lease = ask(lease)
    replicas = replicas_of(lease)
    state: MarketState = "running" if any(one.ready for one in replicas) else "starting"
    return Standing(
        dseq=dseq,
        state=state,
        provider=provider,
        url=address_of(lease),
        reason="" if state == "running" else "the provider has not started the container yet",
        hours=found.hours,
        terms=found.terms,
        replicas=replicas,
    )
