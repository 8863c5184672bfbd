"""What the command does and prints, and what goes wrong on demand."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from akashllm.market.shell import Tell
from akashllm.market.wallet_cli import Ran
from akashllm.sdl.quantities import MILLIONTH
from akashllm.testing.market.world import OWNER
from akashllm.testing.market.world import Refused as WorldRefused
from akashllm.testing.wallet.chain import Chain, Fail, printed, sdl_file
from akashllm.testing.wallet.grammar import Refused, Said, parse

Kind = Literal[
    "hang",
    "killed",
    "empty",
    "truncated",
    "noise",
    "unreachable",
    "refused",
    "late",
    "again",
    "sequence",
    "gas",
    "prompt",
    "panic",
    "garbage",
    "ok",
]
"""`hang` until it is ended; `killed` by a signal; `empty` says nothing and succeeds; `truncated` JSON; `noise`
around good JSON; `unreachable` node; `refused` with the trouble's own words; `late`: a transaction that waits
in the mempool; `again`: likewise, and the mempool says that it has it already; `sequence`: it refuses it;
`gas`: it fails in its block; `prompt` wants a passphrase;
`panic` as Go does; `garbage` instead of JSON; `ok` lets one call pass."""

Moment = Literal["before", "after"]

NODE = "https://node.test:443"
CHAIN = "akash-test-1"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that goes wrong at the next call, such as `tx deployment create`."""

    call: str
    kind: Kind
    moment: Moment = "before"
    words: str = "insufficient funds"
    calls: int = 3


@dataclass
class FakeCommand(Chain):
    """One installation.

    asked   calls so far, as paths; `argv` with all their words; `seen` with the environment of each
    """

    name: str = "provider-services"
    version: str = "v0.10.5"
    asked: list[str] = field(default_factory=list)
    argv: list[list[str]] = field(default_factory=list)
    seen: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._troubles: dict[str, deque[Trouble]] = {}
        self._transactions: dict[str, dict[str, Any]] = {}
        self._waiting: list[tuple[int, str, Callable[[], object]]] = []
        self._count = 0

    # --- faults ---------------------------------------------------------------------------------------------

    def trouble(self, *troubles: Trouble) -> None:
        """More of them; each happens once."""
        for one in troubles:
            self._troubles.setdefault(one.call, deque()).append(one)

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self._troubles.clear()

    def settle(self) -> None:
        """Every transaction that waits gets into a block."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for _, digest, act in waiting:
                self._execute(digest, act)

    # --- running ----------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], env: Mapping[str, str], seconds: float) -> Ran:
        """One call. Stands in for `wallet_cli.run`."""
        del seconds
        with self._lock:
            self._tick()
            self.argv.append(list(argv[1:]))
            self.seen.append(env)
            try:
                said = parse(self.name, argv[1:], env)
            except Refused as refused:
                return Ran(1, "", f"Error: {refused}\n")
            self.asked.append(said.call)
            queue = self._troubles.get(said.call)
            trouble = queue.popleft() if queue else None
            if trouble is not None and trouble.kind == "ok":
                trouble = None
            return self._run(said, trouble)

    def stream(self, argv: Sequence[str], env: Mapping[str, str]) -> Iterator[str]:
        """As `run`, for what is followed; it ends where the stand-in has nothing more to say."""
        ran = self.run(argv, env, 0)
        yield from (ran.out[place : place + 7] for place in range(0, len(ran.out), 7))

    def handed(self) -> list[str]:
        """The command in a container that the last call left to whoever asked, once."""
        command, self.reading = list(self.reading), ()
        return command

    def feed(
        self, argv: Sequence[str], env: Mapping[str, str], tell: Tell, stdin: bytes | None
    ) -> tuple[int, str]:
        """Stands in for `wallet_shell.feed`, for what reads nothing."""
        assert stdin is None
        ran = self.run(argv, env, 0)
        tell(ran.out.encode(), False)
        return ran.status or 0, ran.err

    def _run(self, said: Said, trouble: Trouble | None) -> Ran:
        early = trouble if trouble is not None and trouble.moment == "before" else None
        late = trouble if early is None else None
        if early is not None and (done := _broken(early)) is not None:
            return done
        try:
            out = self._answer(said, early or late)
        except (Fail, WorldRefused) as error:
            words = str(error)
            return Ran(1, getattr(error, "out", ""), words if "Error: " in words else f"Error: {words}\n")
        if late is not None and (done := _broken(late, out)) is not None:
            return done
        if trouble is not None and trouble.kind == "noise":
            out = f"I[2026-11-21|09:00:00.000] starting {{tx}} module=cli\n{out}\nI[2026-11-21] done [1]\n"
        return Ran(0, "", out) if said.call == "version" else Ran(0, out, "")

    def _tick(self) -> None:
        self._count += 1
        due = [one for one in self._waiting if one[0] <= self._count]
        self._waiting = [one for one in self._waiting if one[0] > self._count]
        for _, digest, act in due:
            self._execute(digest, act)

    # --- what it does -----------------------------------------------------------------------------------------

    def _answer(self, said: Said, trouble: Trouble | None) -> str:
        if said.call == "version":
            return f"{self.version}\n"
        if said.call == "keys show":
            return f"{self.address(said.words[0])}\n"
        if said.flag("node") != NODE and not said.call.startswith("provider "):
            raise Fail(f'post failed: Post "{said.flag("node")}": dial tcp: lookup: no such host')
        if said.call.startswith("tx "):
            return self._send(said, trouble)
        kind = said.call.removeprefix("provider ")
        answers: dict[str, Callable[[Said], str]] = {
            "query tx": self._transaction,
            "query bank balances": self.balances,
            "query deployment get": self.deployment,
            "query deployment list": self.deployments,
            "query deployment": self.deployment_akt,
            "query market bid list": self.bids,
            "query market bid": self.bids,
            "query market lease list": self.leases,
            "query market lease": self.leases,
            "query provider get": self.provider,
            "query provider": self.provider,
            "send-manifest": self.manifest,
            "lease-status": self.status,
            "lease-logs": self.logs,
            "lease-events": self.events,
            "lease-shell": self.shell,
        }
        if said.call.startswith("query") and said.flag("output", "text") != "json":
            return "text: not json\n"
        return answers[kind](said)

    # --- transactions -----------------------------------------------------------------------------------------

    def _send(self, said: Said, trouble: Trouble | None) -> str:
        owner = self.signer(said)
        if said.flag("chain-id") != CHAIN:
            raise Fail("rpc error: code = Unauthenticated desc = signature verification failed; unauthorized")
        if said.flag("yes") != "true":
            raise Fail("EOF")
        act = self._act(said, owner)
        digest = hashlib.sha256(f"{len(self._transactions)}".encode()).hexdigest().upper()
        if trouble is not None and trouble.kind == "sequence":
            words = "account sequence mismatch, expected 8, got 7: incorrect account sequence"
            return printed({"height": "0", "txhash": digest, "codespace": "sdk", "code": 32, "raw_log": words})
        if trouble is not None and trouble.kind == "gas":
            words = "out of gas in location: WriteFlat; gasWanted: 100, gasUsed: 200: out of gas"
            self._transactions[digest] = {"code": 11, "raw_log": words}
            act = _nothing
        else:
            self._transactions[digest] = {}
        if trouble is not None and trouble.kind in {"late", "again"}:
            self._waiting.append((self._count + trouble.calls, digest, act))
        else:
            self._execute(digest, act)
        if trouble is not None and trouble.kind == "again":
            return printed({"height": "0", "txhash": digest, "codespace": "sdk", "code": 19, "raw_log": ""})
        return printed(
            {"height": "0", "txhash": digest, "codespace": "", "code": 0, "raw_log": "[]", "logs": []}
        )

    def _act(self, said: Said, owner: str) -> Callable[[], object]:
        """What the transaction will do. Simulating it, for its gas, raises what it would be refused for."""
        world, dseq = self.world, said.flag("dseq")
        if owner != OWNER:
            raise Fail(
                "rpc error: code = Unknown desc = spendable balance 0uact is smaller: insufficient funds"
            )
        match said.call:
            case "tx deployment create":
                if not self.certificate:
                    raise Fail(f'no certificate file found for account "{owner}".')
                sdl, coins = sdl_file(said.words[0]), said.flag("deposit", "500000uact")
                if not coins.endswith("uact"):
                    raise Fail("invalid: deposit denomination")
                data = {"sdl": sdl, "deposit": str(Decimal(coins.removesuffix("uact")) / MILLIONTH)}
                if dseq in world.deployments:
                    raise Fail("failed to execute message; message index: 0: Deployment exists")
                if world.balance < Decimal(data["deposit"]):
                    raise Fail(f"spendable balance {int(world.balance * MILLIONTH)}uact: insufficient funds")
                return lambda: world.create(data, dseq)
            case "tx deployment update":
                sdl, number = sdl_file(said.words[0]), dseq or said.words[1]
                before = world.get(number)
                keep = (before.sdl, before.manifest, before.digest)
                world.revise(number, sdl)
                before.sdl, before.manifest, before.digest = keep
                return lambda: world.revise(number, sdl)
            case "tx deployment close":
                number = dseq or said.words[0]
                if world.get(number).state != "active":
                    raise Fail("failed to execute message; message index: 0: Deployment closed")
                return lambda: world.close(number)
            case _:
                deployed, provider = world.get(dseq), said.flag("provider")
                if deployed.state != "active" or not any(
                    bid.provider.address == provider
                    and bid.state == "open"
                    and bid.provider.behaviour != "bid-gone"
                    for bid in deployed.bids
                ):
                    raise Fail("failed to execute message; message index: 0: bid not open")
                return lambda: world.take(dseq, provider)

    def _execute(self, digest: str, act: Callable[[], object]) -> None:
        result = self._transactions[digest]
        try:
            act()
        except WorldRefused as refused:
            result.update(code=18, raw_log=f"failed to execute message; message index: 0: {refused}")
        result["height"] = str(20_000_000 + self._count)

    def _transaction(self, said: Said) -> str:
        found = self._transactions.get(said.words[0], {})
        if "height" not in found:
            raise Fail(f"RPC error -32603 - Internal error: tx ({said.words[0]}) not found")
        usual = {"txhash": said.words[0], "code": 0, "raw_log": "", "codespace": ""}
        return printed({**usual, **found})


def _broken(trouble: Trouble, out: str = "") -> Ran | None:
    """How the call ends; None where it goes on."""
    match trouble.kind:
        case "hang":
            return Ran(None, "", "")
        case "killed":
            return Ran(-9, "", "")
        case "empty":
            return Ran(0, "", "")
        case "truncated":
            return Ran(0, (out or '{"txhash": "AA", "code": 0}')[: max(9, len(out) // 2)], "")
        case "garbage":
            return Ran(0, "<html>502 Bad Gateway</html>\n", "")
        case "unreachable":
            words = (
                'post failed: Post "https://node.test:443": dial tcp 127.0.0.1:443: connect: connection refused'
            )
            return Ran(1, "", f"Error: {words}\n")
        case "refused":
            return Ran(1, "", f"Error: {trouble.words}\n")
        case "prompt":
            return Ran(1, "", "Enter keyring passphrase (attempt 1/3):\nError: EOF\n")
        case "panic":
            return Ran(
                2, "", "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\nmain.main()\n"
            )
    return None


def _nothing() -> None:
    """A transaction that fails changes nothing."""
