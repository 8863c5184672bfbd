"""The market `docker`: this machine, the service in a container. One bid, free of charge.

What a provider's cluster would do with the manifest, as far as one Docker engine can: its image, command,
environment, port, CPU, memory, shared memory, GPUs and volumes; and stricter: not root, no capability, nothing
but the volumes and /tmp can be written. Sizes of volumes are not enforced. A container starts again after a
crash and after a reboot, until it is closed. The key is in its environment, as at a provider: whoever may speak
to this Docker engine can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from akashllm.errors import ImageFailed, MarketError, MarketUnavailable, Unreachable, UsageError
from akashllm.images import DockerEngine
from akashllm.images.engine import explained
from akashllm.market.base import Balance, Bid, Created, Held, Lease, LogLine, Screening, Standing
from akashllm.market.container_spec import (
    DSEQ,
    HOME,
    REFERENCE,
    container_name,
    create_container,
    ensure_image,
    volumes_of,
)
from akashllm.market.container_state import lines_of, standing_of
from akashllm.market.local_files import (
    Lodging,
    Ordered,
    digest_of,
    open_order,
    open_orders,
    order_once,
)
from akashllm.market.lodger import HOST, free_bid, here, now, only_service, port_for
from akashllm.market.logfile import read_tail
from akashllm.sdl import load, manifest_json
from akashllm.state.private import read_private, write_private

PROVIDER = "this-docker"
_LINES, _LINE = 2, 300
"""Of its output in a reason: lines, and characters of each."""

_KEPT_LINES = 2000
_PORT = "port"
"""File of an order that has been leased."""

GRACE = 30
"""Seconds between asking a container to end and ending it."""


@dataclass(frozen=True, slots=True)
class ContainerMarket:
    """Keeps the orders under `root`, and everything else in the engine's own labels.

    port     the port of the next lease; None: any free one
    environ  where the engine's address is looked up; None: this process's environment
    """

    root: Path
    port: int | None = None
    environ: Mapping[str, str] | None = None

    name = "docker"
    charges = False

    def balance(self) -> Balance:
        """Nothing is charged."""
        return Balance(available=None)

    def screen(self, sdl: str) -> Screening:
        """This engine, if it answers and has the image or can pull it."""
        service = only_service(manifest_json(load(sdl)).decode())
        with self._engine() as engine:
            ensure_image(engine, str(service.get("image")))
        return here(PROVIDER)

    def create(self, sdl: str, *, reference: str, deposit: Decimal | None = None) -> Created:
        """A directory with the order in it. A reference that is known gets the deployment it already has."""
        del deposit
        manifest = manifest_json(load(sdl)).decode()
        return Created(dseq=order_once(self.root, sdl, reference), manifest=manifest)

    def bids(self, dseq: str) -> Sequence[Bid]:
        """One, at no price."""
        open_order(self.root, dseq)
        return [free_bid(PROVIDER)]

    def lease(self, dseq: str, bid: Bid, manifest: str) -> Lease:
        """Start the container, unless it is there and runs."""
        lodging, order = open_order(self.root, dseq)
        with self._engine() as engine:
            found = self._container(engine, dseq)
            if found is None or found["State"]["Status"] not in {"running", "restarting"}:
                self._remove(engine, dseq)
                self._run(engine, lodging, order, manifest)
        return Lease(dseq=dseq, provider=bid.provider)

    def status(self, dseq: str) -> Standing:
        """What the engine says of the container."""
        lodging = Lodging(self.root / dseq)
        order = lodging.ordered() if dseq.isdigit() else None
        if order is not None and order.closed_at:
            return Standing(dseq=dseq, state="closed", since=order.closed_at)
        port = _port(lodging) if order else None
        if order is not None and port is None:
            return Standing(dseq=dseq, state="open", since=order.created_at)
        with self._engine() as engine:
            found = self._container(engine, dseq) if dseq.isdigit() else None
            if order is None and found is None:
                return Standing(dseq=dseq, state="closed", reason="this machine has no such deployment")
            standing = standing_of(dseq, found, f"http://{HOST}:{port}" if port else None, PROVIDER)
            if found is None or not standing.reason:
                return standing
            said = " / ".join(line[:_LINE] for line in _output(engine, found, _LINES) if line.strip())
            return replace(
                standing, reason=f"{standing.reason}; it said last: {said}" if said else standing.reason
            )

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """The container's output; of one that was closed its end, which was kept."""
        kept = Lodging(self.root / dseq).log
        if dseq.isdigit() and kept.exists():
            yield from (LogLine(service="llm", text=text) for text in read_tail(kept, tail))
            return
        with self._engine() as engine:
            found = self._container(engine, dseq)
            if found is None:
                raise MarketError(
                    "there is no container of this deployment", hint="`akashllm list` shows what is"
                )
            service = str(found["Config"]["Labels"].get("akashllm.service", "llm"))
            pieces = engine.api.logs(
                found["Id"], stream=True, follow=follow, tail="all" if tail is None else tail
            )
            for line in lines_of(pieces):
                yield LogLine(service=service, text=line)

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """Replace the container by one with the new manifest, at the same address and on the same volumes."""
        lodging, order = open_order(self.root, dseq)
        with self._engine() as engine:
            ensure_image(engine, str(only_service(manifest).get("image")))
            self._remove(engine, dseq)
            changed = replace(order, sdl_sha256=digest_of(sdl))
            lodging.write_order(changed)
            self._run(engine, lodging, changed, manifest)

    def close(self, dseq: str) -> None:
        """Remove the container and its volumes."""
        lodging = Lodging(self.root / dseq)
        try:
            order = lodging.ordered() if dseq.isdigit() else None
        except MarketError:
            lodging.set_aside()
            order = None
        if order is not None and not order.closed_at and _port(lodging) is None:
            # Nothing was ever started: an engine that is away is in nobody's way.
            lodging.write_order(replace(order, closed_at=now()))
            return
        if order is None or not order.closed_at:
            with self._engine() as engine:
                self._keep_log(engine, lodging)
                self._remove(engine, dseq)
                for volume in volumes_of(engine, self._home, dseq):
                    engine.api.remove_volume(volume, force=True)
        if order is not None and not order.closed_at:
            lodging.write_order(replace(order, closed_at=now()))

    def holdings(self) -> Sequence[Held]:
        """Every order that was not closed, and every container of ours whose order is lost."""
        orders = {lodging.dseq: (lodging, order) for lodging, order in open_orders(self.root)}
        started = {dseq for dseq, (lodging, _) in orders.items() if _port(lodging) is not None}
        held = []
        try:
            with self._engine() as engine:
                containers = {
                    one["Labels"][DSEQ]: one
                    for one in engine.api.containers(
                        all=True, filters={"label": [f"{HOME}={self._home}", DSEQ]}
                    )
                }
        except MarketError:
            # Without any order here there is nothing to ask an engine about.
            if started:
                raise
            containers = {}
        for dseq, (_, order) in orders.items():
            seen = self.status(dseq) if dseq in started else Standing(dseq=dseq, state="open")
            held.append(
                Held(
                    dseq=dseq,
                    state=seen.state,
                    reference=order.reference,
                    created_at=order.created_at,
                    url=seen.url,
                )
            )
        for dseq, one in containers.items():
            if dseq not in orders:
                held.append(Held(dseq=dseq, state="running", reference=one["Labels"].get(REFERENCE)))
        return held

    @contextmanager
    def running(self, dseq: str) -> Iterator[tuple[DockerEngine, str]]:
        """The engine, and the id of a deployment's container. Raises `MarketError` where it does not run."""
        open_order(self.root, dseq)
        with self._engine() as engine:
            found = self._container(engine, dseq)
            if found is None or found["State"]["Status"] != "running":
                raise MarketError(
                    "the container of this deployment does not run", hint="`akashllm status` says how it is"
                )
            yield engine, str(found["Id"])

    # --- parts --------------------------------------------------------------------------------------------

    @property
    def _home(self) -> str:
        """Tells the containers of this record from another's on the same engine."""
        return str(self.root)

    @contextmanager
    def _engine(self) -> Iterator[DockerEngine]:
        """The engine, its failures in a market's words."""
        try:
            with DockerEngine.connect(self.environ) as engine, explained("the Docker engine"):
                yield engine
        except Unreachable as error:
            raise MarketUnavailable(error.message, hint=error.hint) from error
        except (ImageFailed, UsageError) as error:
            raise MarketError(error.message, hint=error.hint or "`akashllm doctor` looks closer") from error

    def _run(self, engine: DockerEngine, lodging: Lodging, order: Ordered, manifest: str) -> None:
        service = only_service(manifest)
        ensure_image(engine, str(service.get("image")))
        port = port_for(self.port, _port(lodging))
        # Written first: from here on a container may be there, and is looked for at the engine.
        write_private(lodging.directory / _PORT, f"{port}\n")
        labels = {HOME: self._home, DSEQ: lodging.dseq, REFERENCE: order.reference}
        engine.api.start(create_container(engine, service, port=port, labels=labels))

    def _container(self, engine: DockerEngine, dseq: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = engine.api.inspect_container(container_name(dseq))
        except NotFound:
            return None
        return found if found["Config"]["Labels"].get(HOME) == self._home else None

    def _keep_log(self, engine: DockerEngine, lodging: Lodging) -> None:
        """The end of its output, which goes with the container."""
        found = self._container(engine, lodging.dseq)
        if found is not None and lodging.directory.is_dir():
            lines = _output(engine, found, _KEPT_LINES)
            write_private(lodging.log, "".join(f"{line}\n" for line in lines))

    def _remove(self, engine: DockerEngine, dseq: str) -> None:
        found = self._container(engine, dseq)
        if found is None:
            return
        try:
            engine.api.stop(found["Id"], timeout=GRACE)
            engine.api.remove_container(found["Id"], v=True, force=True)
        except NotFound:
            return


def _output(engine: DockerEngine, found: dict[str, Any], lines: int) -> list[str]:
    """The last lines of a container."""
    return list(lines_of([engine.api.logs(found["Id"], tail=lines)]))


def _port(lodging: Lodging) -> int | None:
    """The port of the last lease, or None before the first."""
    path = lodging.directory / _PORT
    return int(read_private(path)) if path.exists() else None
