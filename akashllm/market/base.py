"""What akashllm asks of any market: this machine, Akash's Console, or a wallet of one's own.

Calls that change something can be made again after a lost reply: `create` carries a reference that `holdings`
finds again, `lease` completes what is missing, `close` closes what is open. Errors are
`akashllm.errors.MarketError` and its children.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, runtime_checkable

MarketState = Literal["open", "starting", "running", "restarting", "failed", "stopped", "closed"]
"""`open` has no lease yet; `stopped` ended without being closed and may be leased again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What can be spent, in US dollars. `available` is None where nothing is charged.

    hint   how to come by more, if the market knows
    """

    available: Decimal | None
    committed: Decimal = Decimal(0)
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A provider that could serve an SDL, before anybody has bid."""

    provider: str
    region: str = ""
    audited: bool = False
    incidents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """Who could serve an SDL; `removed` says which demand ruled out how many providers.

    known   False where the market could not tell: then no offers mean nothing
    """

    offers: tuple[Offer, ...]
    removed: tuple[tuple[str, int], ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """An offer for one order. `amount` is in `denom` a block; amounts of two denominations never compare.

    gpu         market name of the GPU that the offer names, empty where it names none
    uptime      share of the last week that the provider was seen, 0 to 1; None: not known
    incidents   times in the last week that it was not
    """

    provider: str
    amount: Decimal
    denom: str
    gseq: int = 1
    oseq: int = 1
    bseq: int = 0
    audited: bool = False
    region: str = ""
    gpu: str = ""
    uptime: float | None = None
    incidents: int = 0

    @property
    def key(self) -> str:
        """Names the bid in the record: provider/gseq/oseq/bseq."""
        return f"{self.provider}/{self.gseq}/{self.oseq}/{self.bseq}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A deployment at the market. `manifest` is the market's own, where it makes one from the SDL.

    note   what a person should know of how it was ordered
    """

    dseq: str
    manifest: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A provider that has the manifest."""

    dseq: str
    provider: str
    gseq: int = 1
    oseq: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a lease costs. Amounts are in `denom`: `block` for each block, the rest so far; None: not known."""

    denom: str
    block: Decimal
    escrow: Decimal | None = None
    spent: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many copies of a service run, of those that were ordered."""

    service: str
    ready: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a deployment stands, in the market's words.

    reason     why it is not running, for a person
    restarts   how often the service was started again
    hours      how long the funds last; None where nothing is charged or it is not known
    terms      what it costs; None likewise
    replicas   of each service, as far as its provider says
    """

    dseq: str
    state: MarketState
    provider: str = ""
    url: str | None = None
    reason: str = ""
    restarts: int = 0
    since: str | None = None
    hours: float | None = None
    terms: Terms | None = None
    replicas: tuple[Replicas, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A deployment that the market holds for this account. `reference` is what `create` was told, if kept."""

    dseq: str
    state: MarketState
    reference: str | None = None
    created_at: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line a service wrote, without its end. `text` is untrusted."""

    service: str
    text: str


@runtime_checkable
class SealsSecrets(Protocol):
    """A market that can be given secrets so that only the provider's manifest ever holds them in clear."""

    def create_sealed(self, sdl: str, secrets: Mapping[str, str], *, reference: str) -> Created:
        """As `Market.create`, from an SDL with placeholders and their values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The market closes a deployment after so many hours of lease; `ends` is when, once it has a lease."""

    hours: int
    ends: str | None = None


@runtime_checkable
class LimitsRuntime(Protocol):
    """A market that may close a deployment by itself."""

    def limit(self, dseq: str) -> Limit | None:
        """What it has been told; None: it will not."""
        ...


class Market(Protocol):
    """Leases containers, or what stands for them."""

    @property
    def name(self) -> str:
        """local, console, wallet."""
        ...

    @property
    def charges(self) -> bool:
        """Whether a lease costs money: then a person is asked first."""
        ...

    def balance(self) -> Balance:
        """What can be spent."""
        ...

    def screen(self, sdl: str) -> Screening:
        """Who could serve this SDL. Costs nothing and changes nothing."""
        ...

    def create(self, sdl: str, *, reference: str, deposit: Decimal | None = None) -> Created:
        """Open an order for an SDL whose secrets are filled in."""
        ...

    def bids(self, dseq: str) -> Sequence[Bid]:
        """Open bids, none while nobody has answered."""
        ...

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Take a bid and hand the manifest over. Called again, it completes what is missing."""
        ...

    def status(self, dseq: str) -> Standing:
        """How it stands. A deployment the market has never heard of is `closed`."""
        ...

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """What the service wrote; with `follow`, as it writes, until the lease ends."""
        ...

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Run another SDL under the same lease. Raises `MarketError` where that needs a new one."""
        ...

    def close(self, dseq: str) -> None:
        """End the lease and the spending. Closing what is closed is no error."""
        ...

    def holdings(self) -> Sequence[Held]:
        """Every deployment that is open here, whether or not this machine knows of it."""
        ...
