"""The market `local`: this machine. One bid, free of charge; the service is a supervised process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from signal import SIGTERM
from typing import Any

from akashllm.errors import MarketError
from akashllm.market.base import Balance, Bid, Created, Held, Lease, LogLine, Screening, Standing
from akashllm.market.local_files import (
    MARK,
    Lodging,
    RunRecord,
    RunSpec,
    digest_of,
    lodgings,
    open_order,
    order_once,
)
from akashllm.market.local_run import HELD
from akashllm.market.lodger import HOST, environment, free_bid, here, now, only_service, port_for
from akashllm.market.logfile import follow, read_tail
from akashllm.market.processes import family, kill, supported
from akashllm.sdl import load, manifest_json
from akashllm.state.private import write_private

PROVIDER = "this-machine"

SERVICE = (sys.executable, "-P", "-m", "akashllm.server")
"""What an image's entry point runs. -P: nothing is imported from the working directory."""

INHERITED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH"),
    *(
        "XDG_CACHE_HOME",
        "HF_HOME",
        "HF_ENDPOINT",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""The only variables of the caller that the service sees: none that may hold a key."""

ENGINES = ("llamacpp",)
"""What this machine can run without a container."""

BUNDLED = "tiny"

_KEY = "AKASHLLM_API_KEY"
_ADMIN = "AKASHLLM_ADMIN_KEY"
_TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_COMING = ("hf.co/", "huggingface.co/", "hf://", "https://", "http://")
"""How models begin that the service fetches itself."""
_START = 30.0
_FOLLOW = 0.2


@dataclass(frozen=True, slots=True)
class LocalMarket:
    """Keeps what it was told under `root`, as a market elsewhere would; needs nothing else to find it again.

    port      the port of the next lease; None: any free one
    command   what runs the service
    policy    patience of the supervisor: fields of `RunSpec`
    """

    root: Path
    port: int | None = None
    command: Sequence[str] = SERVICE
    policy: Mapping[str, Any] | None = None

    name = "local"
    charges = False

    def balance(self) -> Balance:
        """Nothing is charged."""
        return Balance(available=None)

    def screen(self, sdl: str) -> Screening:
        """This machine, if it has what the supervisor needs."""
        self._check_machine()
        service = only_service(manifest_json(load(sdl)).decode())
        _check_service(environment(service))
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
        """Start the service, unless it is being looked after already."""
        self._check_machine()
        lodging, _ = open_order(self.root, dseq)
        if not _supervised(lodging.record()):
            self._end(lodging)
            lodging.write_spec(self._spec(lodging, manifest))
            _start(lodging)
        return Lease(dseq=dseq, provider=bid.provider)

    def status(self, dseq: str) -> Standing:
        """What the supervisor wrote, if it is alive; what can be told without it, if not."""
        lodging = Lodging(self.root / dseq)
        order = lodging.ordered() if dseq.isdigit() else None
        if order is None:
            return Standing(dseq=dseq, state="closed", reason="this machine has no such deployment")
        if order.closed_at:
            return Standing(dseq=dseq, state="closed", since=order.closed_at)
        record, spec = lodging.record(), lodging.spec()
        if record is None or spec is None:
            return Standing(dseq=dseq, state="open", since=order.created_at)
        standing = Standing(
            dseq=dseq,
            state=record.state,
            provider=PROVIDER,
            url=spec.url,
            reason=record.reason,
            restarts=record.restarts,
            since=record.since,
        )
        if record.state in {"failed", "stopped"} or _supervised(record):
            return standing
        return replace(
            standing,
            state="stopped",
            reason="its supervisor is gone: the machine was restarted, or it was killed",
        )

    def logs(self, dseq: str, *, follow: bool = False, tail: int | None = None) -> Iterator[LogLine]:
        """The service's output; of a closed deployment too."""
        lodging = Lodging(self.root / dseq)
        if lodging.ordered() is None:
            raise MarketError("this machine has no such deployment", hint="`akashllm list` shows what there is")
        spec = lodging.spec()
        for text in self._lines(lodging, tail, more=follow):
            yield LogLine(service=spec.service if spec else "llm", text=text)

    def update(self, dseq: str, sdl: str, manifest: str) -> None:
        """End the service and start it with the new manifest, at the same address."""
        lodging, order = open_order(self.root, dseq)
        spec = self._spec(lodging, manifest, keep_port=True)
        self._end(lodging)
        lodging.write_order(replace(order, sdl_sha256=digest_of(sdl)))
        lodging.write_spec(spec)
        _start(lodging)

    def close(self, dseq: str) -> None:
        """End every process of the deployment, remove its secrets, keep its log."""
        lodging = Lodging(self.root / dseq)
        try:
            order = lodging.ordered() if dseq.isdigit() else None
        except MarketError:
            self._end(lodging)
            lodging.forget_secrets()
            lodging.set_aside()
            return
        if order is None:
            return
        self._end(lodging)
        lodging.forget_secrets()
        if not order.closed_at:
            lodging.write_order(replace(order, closed_at=now()))

    def holdings(self) -> Sequence[Held]:
        """Every order that was not closed."""
        held = []
        for lodging in lodgings(self.root):
            try:
                order = lodging.ordered()
                standing = self.status(lodging.dseq)
            except MarketError:
                # It is not understood, so it may run: it is shown, and `close` ends it.
                held.append(Held(dseq=lodging.dseq, state="failed"))
                continue
            if order is not None and not order.closed_at:
                held.append(
                    Held(
                        dseq=lodging.dseq,
                        state=standing.state,
                        reference=order.reference,
                        created_at=order.created_at,
                        url=standing.url,
                    )
                )
        return held

    def _lines(self, lodging: Lodging, tail: int | None, *, more: bool) -> Iterator[str]:
        if not more:
            return iter(read_tail(lodging.log, tail))

        def wait() -> bool:
            record = lodging.record()
            if not _supervised(record):
                return False
            time.sleep(_FOLLOW)
            return True

        return follow(lodging.log, wait, tail=tail)

    def _spec(self, lodging: Lodging, manifest: str, *, keep_port: bool = False) -> RunSpec:
        """How to run the manifest here: its environment, but our address, and the key in a file."""
        service = only_service(manifest)
        env = environment(service)
        before = lodging.spec()
        port = self._port(before, keep=keep_port)
        held = {_KEY: lodging.key, _ADMIN: lodging.admin, _TOKEN: lodging.token}
        secrets = {name: env.pop(name) for name in held if env.get(name)}
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env = {
            **inherited,
            **env,
            "AKASHLLM_HOST": HOST,
            "AKASHLLM_PORT": str(port),
            MARK: str(lodging.directory),
        }
        for name, secret in secrets.items():
            write_private(held[name], secret + "\n")
            env[f"{name}_FILE"] = str(held[name])
        if _ADMIN in secrets:
            # In a container the image says where; here it is where weights that were fetched lie, too.
            env.setdefault("AKASHLLM_MODELS", str(_cache() / "models"))
        return RunSpec(
            argv=tuple(self.command),
            env=env,
            host=HOST,
            port=port,
            own_port=bool(self.port or (before and before.own_port)),
            service=str(service.get("name", "llm")),
            **(self.policy or {}),
        )

    def _port(self, before: RunSpec | None, *, keep: bool) -> int:
        """As `port_for`; one that a person chose is never exchanged for another."""
        if before and not self.port and (keep or before.own_port):
            return before.port
        return port_for(self.port, before.port if before else None)

    def _end(self, lodging: Lodging) -> None:
        """Leave no process of this deployment: ask the supervisor first, then end whatever is left."""
        with suppress(MarketError):
            record, spec = lodging.record(), lodging.spec()
            if record is not None and record.supervisor.signal(SIGTERM):
                record.supervisor.wait((spec.grace if spec else 0) + 5)
        kill(family(MARK, str(lodging.directory)))

    def _check_machine(self) -> None:
        if not supported():
            raise MarketError(
                "the market `local` needs Linux 5.3 or later with /proc",
                hint="run the service in the foreground instead: akashllm serve",
            )


def _start(lodging: Lodging) -> None:
    """Start the supervisor; returns when it has written its record."""
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    log = os.open(
        lodging.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "akashllm.market.local_run", str(lodging.directory)],
            env={**env, MARK: str(lodging.directory)},
            cwd=lodging.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
            timeout=_START,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise MarketError(
            f"the supervisor did not start within {_START:.0f} s", hint=f"see {lodging.supervisor_log}"
        ) from error
    finally:
        os.close(log)
    # HELD: another command has just started it.
    if done.returncode not in {0, HELD}:
        raise MarketError("the supervisor could not be started", hint=f"see {lodging.supervisor_log}")


def _supervised(record: RunRecord | None) -> bool:
    return record is not None and record.supervisor.alive()


def _check_service(env: Mapping[str, str]) -> None:
    """Raise `MarketError` for what only a container could run."""
    engine = env.get("AKASHLLM_ENGINE", "llamacpp")
    if engine not in ENGINES:
        raise MarketError(
            f"the market `local` cannot run {engine} as a process",
            hint="add --container, which runs its image in Docker, or use --engine llamacpp",
        )
    model = env.get("AKASHLLM_MODEL", BUNDLED)
    if model != BUNDLED and not model.startswith(_COMING) and not Path(model).is_file():
        raise MarketError(
            f"the weights {model} are not on this machine",
            hint="give the path of a .gguf file with --model, or a repository as hf.co/user/repo:QUANT",
        )


def _cache() -> Path:
    """Where the service keeps what it fetches, if it is told nothing."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named.startswith("/") else Path.home() / ".cache") / "akashllm"
