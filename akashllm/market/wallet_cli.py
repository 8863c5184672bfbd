"""Akash's own command line as a child: found, its version checked, run with nothing to read and no shell.

It signs with its own keyring, which nobody here ever opens. Where the chain is, which key signs and what gas
costs reaches it as `AKASH_*` variables, which it reads for every flag; variables that would narrow or change a
single call, such as `AKASH_DSEQ`, which its guides tell people to export, are kept from it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from akashllm.errors import MarketError
from akashllm.market.console_errors import cleaned
from akashllm.market.shell import Tell
from akashllm.market.wallet_shell import Feed, Lend, feed, lend

Name = Literal["provider-services", "akt"]

VARIABLE = "AKASHLLM_AKASH_CLI"
"""Names the command where it is not on the path, or where the other one is meant."""

NAMES: tuple[Name, ...] = ("provider-services", "akt")

OLDEST: Mapping[Name, tuple[int, int, int]] = {"provider-services": (0, 10, 0), "akt": (0, 0, 0)}
"""The first versions that speak the chain's messages since its v1.0 (deployment v1beta4, market v1beta5)."""

WHERE = "https://github.com/akash-network/provider/releases has provider-services"

QUERY_SECONDS = 40.0
TX_SECONDS = 120.0
"""A transaction is simulated, signed, and sent; the client itself waits 30 s for a sequence number."""

_KEPT = frozenset(
    {
        *("NODE", "CHAIN_ID", "KEYRING_BACKEND", "KEYRING_DIR", "HOME", "LEDGER", "SIGN_MODE", "AUTH_TYPE"),
        *("GAS", "GAS_ADJUSTMENT", "GAS_PRICES", "FEES", "FEE_GRANTER", "FEE_PAYER", "GRPC_ADDR"),
        "GRPC_INSECURE",
    }
)
_USUAL = {
    "AKASH_NODE": "https://rpc.akashnet.net:443",
    "AKASH_CHAIN_ID": "akashnet-2",
    "AKASH_GAS": "auto",
    "AKASH_GAS_ADJUSTMENT": "1.5",
}
_GAS_PRICES = "0.025uakt"
_OURS = re.compile(r"AKASHLLM_|HF_TOKEN$|HUGGING_FACE_HUB_TOKEN$")
_VERSION = re.compile(r"\bv?(\d{1,5})\.(\d{1,5})\.(\d{1,5})")
_MAX_OUTPUT = 16 << 20


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call came to. `status` is None where it had to be ended, negative where a signal ended it."""

    status: int | None
    out: str
    err: str

    @property
    def words(self) -> str:
        """Its complaint on one line."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("Error: ")]
        return cleaned((errors or lines or [""])[-1].removeprefix("Error: "))


class Run(Protocol):
    """Runs a command to its end."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str], seconds: float) -> Ran:
        """Never raises for what the command does."""
        ...


class Stream(Protocol):
    """Runs a command and tells what it writes as it writes."""

    def __call__(self, argv: Sequence[str], env: Mapping[str, str]) -> Iterator[str]:
        """Pieces of its output. Closing the iterator ends the command."""
        ...


def environment(environ: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """What the command sees: all of the caller's but our secrets and what would change one call alone."""
    kept = {
        name: value
        for name, value in environ.items()
        if not _OURS.match(name)
        and not (name.startswith(("AKASH_", "AP_")) and name.partition("_")[2] not in _KEPT)
    }
    wanted = {**_USUAL, **kept, **changes}
    if "AKASH_FEES" not in wanted:
        wanted.setdefault("AKASH_GAS_PRICES", _GAS_PRICES)
    return wanted


def run(argv: Sequence[str], env: Mapping[str, str], seconds: float) -> Ran:
    """Run it in a session of its own, so that Ctrl-C reaches us first; nothing of it is left afterwards."""
    try:
        child = subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise MarketError(
            f"{argv[0]} cannot be run: {error.strerror}", hint=f"install it anew; {WHERE}"
        ) from None
    with child:
        try:
            out, err = child.communicate(timeout=seconds)
            status: int | None = child.returncode
        except subprocess.TimeoutExpired:
            _end(child)
            out, err = child.communicate()
            status = None
        except BaseException:
            _end(child)
            raise
    return Ran(status, _text(out), _text(err))


def stream(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[str]:
    """As `run`, piece by piece. Raises `MarketError` with its complaint where it fails."""
    with subprocess.Popen(
        argv,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            while piece := os.read(child.stdout.fileno(), 1 << 16):
                yield piece.decode(errors="replace")
            err = child.stderr.read(1 << 16)
            if child.wait():
                words = Ran(child.returncode, "", _text(err)).words
                raise MarketError(f"the provider's answer ended: {words or 'without a reason'}")
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _text(data: bytes) -> str:
    return data[:_MAX_OUTPUT].decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    """The command. `changes` are settings that go before those of the environment."""

    path: str
    name: Name = "provider-services"
    changes: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    run: Run = run
    stream: Stream = stream
    feed: Feed = feed
    lend: Lend = lend

    @property
    def env(self) -> dict[str, str]:
        """All of the child's environment."""
        return environment(self.environ, self.changes)

    @property
    def chain(self) -> str:
        """The chain id."""
        return self.env["AKASH_CHAIN_ID"]

    def __call__(self, words: Sequence[str], *, seconds: float = QUERY_SECONDS) -> Ran:
        """Run it with these arguments. Raises `MarketError` where it is not installed."""
        self._installed()
        return self.run([self.path, *words], self.env, seconds)

    def pieces(self, words: Sequence[str]) -> Iterator[str]:
        """Its output as it comes."""
        self._installed()
        return self.stream([self.path, *words], self.env)

    def fed(self, words: Sequence[str], tell: Tell, stdin: bytes | None) -> Ran:
        """Run it with something to read; what it writes to stdout is told as it comes."""
        self._installed()
        status, err = self.feed([self.path, *words], self.env, tell, stdin)
        return Ran(status, "", err)

    def lent(self, words: Sequence[str]) -> Ran:
        """Run it on the terminal here."""
        self._installed()
        status, err = self.lend([self.path, *words], self.env)
        return Ran(status, "", err)

    def _installed(self) -> None:
        if not self.path:
            wanted = self.environ.get(VARIABLE)
            raise MarketError(
                f"{wanted} is not there" if wanted else "neither provider-services nor akt is installed",
                hint=f"{WHERE}; or deploy with --market console",
            )

    def check(self) -> str:
        """Its version. Raises `MarketError` for one that is too old, or that cannot be told."""
        ran = self(["version"])
        # Cobra's Println, with which it tells its version, writes to stderr.
        found = _VERSION.search(ran.out) or _VERSION.search(ran.err)
        if ran.status != 0 or found is None:
            raise MarketError(
                f"{self.name} does not tell its version: {ran.words or 'it says nothing'}",
                hint=f"install a release of it; {WHERE}",
            )
        major, minor, patch = (int(part) for part in found.groups())
        if (major, minor, patch) < OLDEST[self.name]:
            least = ".".join(map(str, OLDEST[self.name]))
            raise MarketError(
                f"{self.name} {found[0]} is too old for the chain: it takes {least} or later", hint=WHERE
            )
        return found[0]


def find_cli(environ: Mapping[str, str] | None = None, changes: Mapping[str, str] | None = None) -> Cli:
    """The command that is installed; where none is, one that says so when it is used."""
    environ = dict(os.environ) if environ is None else environ
    wanted = environ.get(VARIABLE)
    for name in (wanted,) if wanted else NAMES:
        path = shutil.which(name, path=environ.get("PATH"))
        if path:
            kind: Name = "akt" if Path(path).name.removesuffix(".exe") == "akt" else "provider-services"
            return Cli(path=path, name=kind, changes=changes or {}, environ=environ)
    return Cli(path="", changes=changes or {}, environ=environ)
