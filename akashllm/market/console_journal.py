"""What was begun at Console: one small private file for each order, written before the order is sent.

Console's older API keeps no name of ours. What finds a deployment again whose creation was never answered is
the hash of its manifest, which stands on the chain: the manifest holds the deployment's own API key, so no two
deployments have the same one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from akashllm.errors import StateError
from akashllm.market.console_read import DeploymentRead
from akashllm.state.home import private_directory
from akashllm.state.private import read_private, write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An order. `digest` is the manifest's hash in base64; `before` what was open when it was sent.

    key   `ApiKey.mark` of the key it was sent with: another may be another account's
    """

    reference: str
    digest: str
    before: tuple[str, ...] = ()
    dseq: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Journal:
    """The directory with one file for each order."""

    root: Path

    def read(self, reference: str) -> Begun | None:
        """The order of that reference."""
        path = self._path(reference)
        return _begun(path) if path.exists() else None

    def numbered(self, dseq: str) -> Begun | None:
        """The order of that number."""
        return next((one for one in self.all() if one.dseq == dseq), None)

    def age(self, begun: Begun) -> float:
        """Seconds since it was last written: sent, or answered."""
        return max(0.0, time.time() - self._path(begun.reference).stat().st_mtime)

    def all(self) -> Sequence[Begun]:
        """Every order that was not ended."""
        return [_begun(path) for path in sorted(self.root.glob("*.json"))] if self.root.is_dir() else []

    def write(self, begun: Begun) -> Begun:
        """Keep it."""
        for directory in (self.root.parent, self.root):
            private_directory(directory)
        write_private(self._path(begun.reference), json.dumps(dataclasses.asdict(begun)) + "\n")
        return begun

    def found(self, begun: Begun, dseq: str) -> None:
        """It has a number."""
        self.write(dataclasses.replace(begun, dseq=dseq))

    def forget(self, reference: str) -> None:
        """Nothing of it is left at the market."""
        self._path(reference).unlink(missing_ok=True)

    def ended(self, dseq: str) -> None:
        """The deployment of that number is closed."""
        if (begun := self.numbered(dseq)) is not None:
            self.forget(begun.reference)

    def references(self, deployments: Iterable[DeploymentRead]) -> Mapping[str, str]:
        """The reference by dseq, for every deployment that is known to be ours."""
        orders = self.all()
        by_dseq = {one.dseq: one.reference for one in orders if one.dseq}
        pending = [one for one in orders if one.dseq is None]
        found = {}
        for deployment in deployments:
            reference = by_dseq.get(deployment.dseq) or lost(pending, deployment) or deployment.name
            if reference:
                found[deployment.dseq] = reference
        return found

    def _path(self, reference: str) -> Path:
        return self.root / f"{hashlib.sha256(reference.encode()).hexdigest()[:32]}.json"


def lost(pending: Iterable[Begun], deployment: DeploymentRead) -> str | None:
    """The reference of the order that this deployment answers, though the reply was never seen."""
    for begun in pending:
        if deployment.dseq not in begun.before and (
            deployment.name == begun.reference or (deployment.digest and deployment.digest == begun.digest)
        ):
            return begun.reference
    return None


def _begun(path: Path) -> Begun:
    try:
        data = json.loads(read_private(path))
        return Begun(**{**data, "before": tuple(data["before"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(
            f"{path} is damaged", hint="remove it; `akashllm list` shows what is open at Console"
        ) from error
