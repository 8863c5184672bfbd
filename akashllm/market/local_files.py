"""What one deployment of this machine keeps on disk: the order, how to run it, and how it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from akashllm.errors import MarketError
from akashllm.market.lodger import now
from akashllm.market.processes import Process
from akashllm.state.home import private_directory
from akashllm.state.private import read_private, write_private

RunState = Literal["starting", "running", "restarting", "failed", "stopped"]

MARK = "LOCAL_AKASHLLM"
"""Every process of a deployment has its directory in this variable: what finds the last one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """What was asked for. Times are ISO 8601 in UTC."""

    reference: str
    created_at: str
    sdl_sha256: str
    closed_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """How the supervisor runs the service.

    env         all of the service's environment; the API key is in a file that it names
    own_port    the port was chosen by a person: it is never exchanged for another
    grace       seconds between asking the service to end and ending it
    backoff     seconds before the first restart; doubled for each that follows, up to a minute
    steady      seconds after which a run counts as good, and the back-off begins anew
    give_up     runs in a row that were not good
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    host: str
    port: int
    own_port: bool = False
    service: str = "llm"
    grace: float = 30.0
    backoff: float = 0.5
    steady: float = 60.0
    give_up: int = 6

    @property
    def url(self) -> str:
        """Where it answers."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What the supervisor last wrote about itself and its service."""

    state: RunState
    supervisor: Process
    service: Process | None = None
    restarts: int = 0
    reason: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class Lodging:
    """The directory of one deployment of this machine, mode 0700; its files are mode 0600."""

    directory: Path

    log: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "log", self.directory / "service.log")

    @property
    def dseq(self) -> str:
        """The deployment's number."""
        return self.directory.name

    @property
    def key(self) -> Path:
        """The file that holds the service's API key."""
        return self.directory / "api-key"

    @property
    def admin(self) -> Path:
        """The file that holds the key of who manages its models."""
        return self.directory / "admin-key"

    @property
    def token(self) -> Path:
        """The file that holds the token of the hub that the weights come from."""
        return self.directory / "hf-token"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.directory / "lock"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor itself had to say."""
        return self.directory / "supervisor.log"

    def ordered(self) -> Ordered | None:
        """The order, or None if there is no such deployment."""
        data = self._read("order.json")
        with self._understood("order.json"):
            return None if data is None else Ordered(**data)

    def set_aside(self) -> None:
        """Put an order that cannot be understood out of the way."""
        path = self.directory / "order.json"
        path.rename(path.with_suffix(".json.damaged"))

    def write_order(self, order: Ordered) -> None:
        """Keep the order."""
        self._write("order.json", dataclasses.asdict(order))

    def spec(self) -> RunSpec | None:
        """How it is run, or None before it was leased."""
        data = self._read("run.json")
        with self._understood("run.json"):
            return None if data is None else RunSpec(**{**data, "argv": tuple(data["argv"])})

    def write_spec(self, spec: RunSpec) -> None:
        """Keep how it is run."""
        self._write("run.json", dataclasses.asdict(spec))

    def record(self) -> RunRecord | None:
        """What the supervisor last wrote, or None before the first run."""
        data = self._read("supervisor.json")
        if data is None:
            return None
        with self._understood("supervisor.json"):
            service = data["service"]
            return RunRecord(
                **{
                    **data,
                    "supervisor": Process(**data["supervisor"]),
                    "service": None if service is None else Process(**service),
                }
            )

    def write_record(self, record: RunRecord) -> None:
        """Keep how it runs."""
        self._write("supervisor.json", dataclasses.asdict(record))

    def forget_secrets(self) -> None:
        """Remove everything that holds a secret; the logs stay."""
        for path in (self.key, self.admin, self.token, self.directory / "run.json"):
            path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.directory / name
        if not path.exists():
            return None
        try:
            data = json.loads(read_private(path))
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise MarketError(f"{path} is damaged", hint=f"run `akashllm close {self.dseq}`, then deploy again")
        return data

    @contextmanager
    def _understood(self, name: str) -> Iterator[None]:
        """A file with other fields than ours is from another version, or damaged."""
        try:
            yield
        except (TypeError, KeyError, ValueError):
            raise MarketError(
                f"{self.directory / name} is from another akashllm, or damaged",
                hint=f"upgrade akashllm; or run `akashllm close {self.dseq}`, then deploy again",
            ) from None

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        write_private(self.directory / name, json.dumps(data, indent=1) + "\n")


def lodgings(root: Path) -> Iterator[Lodging]:
    """Every deployment of this machine that was ever ordered, oldest first."""
    if root.is_dir():
        for path in sorted(root.iterdir(), key=lambda path: path.name):
            if path.name.isdigit() and path.is_dir():
                yield Lodging(path)


def open_orders(root: Path) -> Iterator[tuple[Lodging, Ordered]]:
    """Every order that can be read and was not closed."""
    for lodging in lodgings(root):
        try:
            order = lodging.ordered()
        except MarketError:
            # What runs of it is found without it: a container by its labels, a process by its mark.
            continue
        if order is not None and not order.closed_at:
            yield lodging, order


def open_order(root: Path, dseq: str) -> tuple[Lodging, Ordered]:
    """The order of that number, open. Raises `MarketError`."""
    lodging = Lodging(root / dseq)
    order = lodging.ordered() if dseq.isdigit() else None
    if order is None or order.closed_at:
        raise MarketError(f"deployment {dseq} is not open on this machine", hint="deploy again")
    return lodging, order


def order_once(root: Path, sdl: str, reference: str) -> str:
    """The number of a directory with the order in it: of the one that the reference has, or of a new one."""
    for lodging, order in open_orders(root):
        if order.reference == reference:
            return lodging.dseq
    lodging = new_lodging(root, time.time_ns() // 1_000_000)
    lodging.write_order(Ordered(reference=reference, created_at=now(), sdl_sha256=digest_of(sdl)))
    return lodging.dseq


def digest_of(sdl: str) -> str:
    """What an order remembers of its SDL, which holds secrets."""
    return hashlib.sha256(sdl.encode()).hexdigest()


def new_lodging(root: Path, number: int) -> Lodging:
    """A new directory named `number`, or the next free number after it."""
    private_directory(root)
    while True:
        path = root / str(number)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return Lodging(path)
        number += 1
