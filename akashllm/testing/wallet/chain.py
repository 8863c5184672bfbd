"""What the stand-in reads from its world: queries of the chain, and the provider's gateway."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akashllm.errors import BadSdl
from akashllm.sdl import load, manifest_json
from akashllm.sdl.quantities import MILLIONTH
from akashllm.testing.market import replies
from akashllm.testing.market.world import OWNER, Deployed, Leased, World
from akashllm.testing.market.world import Refused as WorldRefused
from akashllm.testing.wallet.grammar import Said


class Fail(Exception):
    """The command ends with an error."""


class Failed(Fail):
    """An error, after something was printed."""

    def __init__(self, out: str, words: str) -> None:
        super().__init__(words)
        self.out = out


@dataclass
class Chain:
    """One keyring, and the world behind a node.

    keys         name in the keyring -> address
    certificate  whether the account has published one for providers
    page         most deployments of one answer
    told         what the provider's cluster tells, as (type, reason, note)
    """

    world: World
    keys: Mapping[str, str] = field(default_factory=lambda: {"mine": OWNER})
    certificate: bool = True
    uakt: int = 5_000_000
    page: int = 100
    told: Sequence[tuple[str, str, str]] = ()
    reading: Sequence[str] = field(default=(), init=False)

    def address(self, key: str) -> str:
        """Of a key. Raises `Fail`."""
        if key in self.keys:
            return self.keys[key]
        if key in self.keys.values():
            return key
        raise Fail(f"{key} is not a valid name or address: {key}.info: key not found")

    def signer(self, said: Said) -> str:
        """The address that signs a call. Raises `Fail`."""
        if not said.flag("from"):
            raise Fail('required flag(s) "from" not set')
        return self.address(said.flag("from"))

    def balances(self, said: Said) -> str:
        """What an account holds."""
        mine = said.words[0] == OWNER
        held = {"uact": int(self.world.balance * MILLIONTH), "uakt": self.uakt} if mine else {}
        coins = [{"denom": denom, "amount": str(amount)} for denom, amount in held.items() if amount]
        return printed({"balances": coins, "pagination": {"next_key": None, "total": str(len(coins))}})

    def deployment(self, said: Said) -> str:
        """One of them."""
        return self._one(said.flag("owner"), said.flag("dseq"))

    def deployment_akt(self, said: Said) -> str:
        """One, or those of an owner."""
        owner, _, dseq = said.words[0].partition("/")
        return self._one(owner, dseq) if dseq else self._many(said, owner, said.words[1])

    def deployments(self, said: Said) -> str:
        """Those of an owner."""
        return self._many(said, said.flag("owner"), said.flag("state"), said.flag("dseq"))

    def _one(self, owner: str, dseq: str) -> str:
        found = self.world.deployments.get(dseq) if owner == OWNER else None
        if found is None:
            raise Fail("rpc error: code = Unknown desc = Deployment not found: key not found")
        return printed(self._shown(found))

    def _many(self, said: Said, owner: str, state: str, dseq: str = "") -> str:
        found = [
            self._shown(one)
            for one in (self.world.deployments.values() if owner == OWNER else ())
            if (not state or one.state == state) and (not dseq or one.dseq == dseq)
        ]
        if said.flag("page-key"):
            # The real one takes the key as raw bytes: what it printed in base64 is none.
            raise Fail("rpc error: code = InvalidArgument desc = invalid pagination key")
        start = int(said.flag("offset", "0"))
        end = start + min(int(said.flag("limit", "100")), self.page)
        key = base64.b64encode(str(end).encode()).decode() if end < len(found) else None
        return printed({"deployments": found[start:end], "pagination": {"next_key": key, "total": "0"}})

    def _shown(self, one: Deployed) -> dict[str, Any]:
        whole = replies.deployment(self.world, one, status=False)
        return {"deployment": whole["deployment"], "groups": [], "escrow_account": whole["escrow_account"]}

    def bids(self, said: Said) -> str:
        """All that are open."""
        dseq = number(said)
        found = self.world.bids(dseq)
        return printed({"bids": replies.bids(self.world.get(dseq), found)["data"], "pagination": {}})

    def leases(self, said: Said) -> str:
        """Those of a deployment."""
        deployed = self.world.deployments.get(number(said))
        whole = replies.deployment(self.world, deployed, status=False)["leases"] if deployed else []
        return printed({"leases": [{"lease": one, "escrow_payment": {}} for one in whole], "pagination": {}})

    def provider(self, said: Said) -> str:
        """What it registered."""
        one = self.world.provider(said.words[0])
        attributes = [{"key": "region", "value": one.region}, {"key": "host", "value": "akash"}]
        return printed({"owner": one.address, "host_uri": one.host_uri, "attributes": attributes, "info": {}})

    def manifest(self, said: Said) -> str:
        """To the provider."""
        self.signer(said)
        dseq, provider = said.flag("dseq"), said.flag("provider")
        made = manifest_json(load(sdl_file(said.words[0]))).decode()
        try:
            self.world.hand(dseq, provider, made)
        except WorldRefused as refused:
            if said.call.startswith("provider "):
                raise Fail(f"submit manifest: {refused}") from None
            result = {
                "provider": provider,
                "status": "FAIL",
                "error": str(refused),
                "errorMessage": str(refused),
            }
            raise Failed(
                json.dumps([result]) + "\n", "submit manifest to some providers has been failed"
            ) from None
        if said.call.startswith("provider "):
            return "Manifest submitted successfully.\n"
        return json.dumps([{"provider": provider, "status": "PASS"}]) + "\n"

    def status(self, said: Said) -> str:
        """What the provider says."""
        self.signer(said)
        dseq = number(said)
        leased = self._leased(dseq, said.flag("provider"))
        shown = replies.lease_status(dseq, leased) if leased else None
        if shown is None:
            raise Fail("remote server returned 404: lease not found")
        return printed(shown)

    def logs(self, said: Said) -> str:
        """One object for each line of each service."""
        self.signer(said)
        dseq = number(said)
        leased = self._running(dseq, said.flag("provider"))
        lines = list(leased.provider.runner.lines(dseq))
        tail = int(said.flag("tail", "-1"))
        shown = lines if tail < 0 else lines[len(lines) - min(tail, len(lines)) :]
        return "".join(
            printed({"name": f"{service}-{dseq}-0", "message": line, "lease_id": {"dseq": dseq}})
            for service in leased.services(said.flag("service"))
            for line in shown
        )

    def events(self, said: Said) -> str:
        """One object for each."""
        self.signer(said)
        dseq = number(said)
        self._running(dseq, said.flag("provider"))
        about = {"kind": "Pod", "namespace": dseq, "name": "llm-0"}
        return "".join(
            printed({"type": kind, "reason": reason, "note": note, "object": about})
            for kind, reason, note in self.told
        )

    def shell(self, said: Said) -> str:
        """Runs it here; one that reads is handed to who asked, who has what it reads."""
        self.signer(said)
        self._running(said.flag("dseq"), said.flag("provider"))
        command = list(said.words if said.flag("service") else said.words[1:])
        if said.flag("stdin", "false") == "true":
            self.reading = command
            return ""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            words = f"{done.stderr}Error: lease shell failed: remote process exited with code {done.returncode}"
            raise Failed(done.stdout, words)
        return done.stdout

    def _leased(self, dseq: str, provider: str) -> Leased | None:
        deployed = self.world.deployments.get(dseq)
        leases = deployed.leases if deployed else []
        return next((one for one in leases if one.provider.address == provider), None)

    def _running(self, dseq: str, provider: str) -> Leased:
        leased = self._leased(dseq, provider)
        if leased is None or leased.state != "active":
            raise Fail("no active leases found for dseq=" + dseq)
        return leased


def number(said: Said) -> str:
    """The deployment that is meant, in either grammar."""
    if said.flag("dseq"):
        return said.flag("dseq")
    return said.words[0].partition("/")[2] or said.words[0]


def sdl_file(path: str) -> str:
    """An SDL that every rule passes."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        load(text)
    except BadSdl as error:
        raise Fail(f"invalid: {error.message}") from None
    return text


def printed(value: Any) -> str:
    """As the real one prints it: over several lines."""
    return json.dumps(value, indent=2) + "\n"
