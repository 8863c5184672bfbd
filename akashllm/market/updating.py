"""Another version of what runs: under the same lease where that is possible, else beside it until verified.

In place, the old container ends before the new one answers. What tells them apart is a revision that each
update makes up, hands to the container, and waits for on `/health`: an old container cannot answer with it.
Where the new version does not come up, or breaks a promise, the old one is put back in the same way.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from akashllm.errors import (
    AkashllmError,
    CheckFailed,
    MarketError,
    MarketUnavailable,
    ProviderFailed,
    StateError,
    UsageError,
)
from akashllm.market.base import SealsSecrets, Standing
from akashllm.market.closing import close, end
from akashllm.market.deploy import Deployer
from akashllm.market.driver import ADMIN_FILE, ENDED
from akashllm.market.lodger import environment as variables_of
from akashllm.market.order import ADMIN_KEY, API_KEY, Order, Outcome, Verdicts
from akashllm.market.probe import answers_to
from akashllm.market.watching import IDLE
from akashllm.plan import Plan
from akashllm.sdl import environment, fill, is_placeholder, load, manifest_json, placeholders, with_variable
from akashllm.state import Deployment
from akashllm.state.private import read_private, write_private

REVISION = "AKASHLLM_REVISION"

NEXT_KEY = "api-key.next"
"""The key of a rotation that is under way."""

_REVISION_BYTES = 6
_LONGEST = 56
"""Characters of a name that leave room for `-next` and `-old`."""


class _Broken(Exception):
    """The new version will not do."""

    def __init__(self, reason: str, report: Verdicts | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class Updater(Deployer):
    """Updates what one market runs. `answers` tells with which status a URL answers to a key."""

    answers: Callable[[str, str], int | None] = answers_to

    def in_place(self, row: Deployment, order: Order, *, key: str | None = None) -> Outcome:
        """Run `order` under the lease of `row`; with `key`, clients need that one from now on.

        Raises `MarketError` or `CheckFailed` where it came to nothing: then the old version runs, unless the
        message says otherwise.
        """
        with self.store.home.lock(row.name, waiting=self._waiting(row.name)):
            row = self._running(row)
            before = self._before(row, order)
            self._unsealed(row, order)
            after = replace(order, secrets={**order.secrets, API_KEY: key or before.secrets[API_KEY]})
            if key:
                write_private(self._directory(row) / NEXT_KEY, key + "\n")
            detail = {"in_place": True, "key": key is not None}
            row = self.store.record(
                row.id,
                "update",
                "before",
                detail,
                facts={**row.facts, "updating": detail},
                reason=f"an update was begun and not finished: `akashllm update {row.name}` again",
            )
            try:
                url, report, filled = self._exchange(row, after)
            except _Broken as broken:
                self._back(row, before, broken)
            except AkashllmError as error:
                self._keep(row, before, error.message)
                error.args = (f"{error.message}; {row.name} runs as before",)
                error.message = error.args[0]
                raise
            row = self._keep(row, after, "", url=url, filled=filled, report=report)
            old = before.secrets[API_KEY]
            if key not in {None, old} and self.answers(url, old) == _OK:
                raise CheckFailed(
                    f"{row.name} has its new key, but still answers to the old one",
                    hint="another of its keys may be the same: `akashllm logs` shows how it started",
                )
            return Outcome(deployment=row, key=after.secrets[API_KEY], report=report)

    def beside(self, row: Deployment, order: Order) -> Outcome:
        """Deploy `order` as a second deployment, verify it, give it the name, and close the first.

        The record knows both for as long as both are open. Interrupted, the same call goes on.
        """
        if len(row.name) > _LONGEST:
            raise UsageError("the name is too long for a second deployment beside it", hint="deploy a new one")
        retired, name = f"{row.name}-old", f"{row.name}-next"
        with self.store.home.lock(row.name, waiting=self._waiting(row.name)):
            left = self.store.named(retired)
            if left is not None:
                self.progress.note(f"closing {retired}, which an earlier update has left")
                close(self.store, self.market, left)
            row = self._running(row)
            before = self._before(row, order)
            key = before.secrets[API_KEY]
            wanted = replace(
                order,
                plan=replace(order.plan, name=name),
                secrets={**order.secrets, API_KEY: key},
                idle=order.idle or row.facts.get(IDLE),
            )
            try:
                outcome = self.deploy(wanted)
            except AkashllmError as error:
                self._withdrawn(name)
                error.args = (f"{error.message}; {row.name} runs as before",)
                error.message = error.args[0]
                raise
            old, new = self.store.exchange(row, outcome.deployment, retired=retired)
        try:
            close(self.store, self.market, old)
        except MarketError as error:
            raise type(error)(
                f"{new.name} runs its new version, but the old lease is still open: {error.message}",
                hint=f"`akashllm close {retired}` ends it",
            ) from error
        return Outcome(deployment=new, key=outcome.key, report=outcome.report)

    # --- parts --------------------------------------------------------------------------------------------

    def _exchange(self, row: Deployment, order: Order) -> tuple[str, Verdicts, str]:
        """Put a version in the place of the other: its URL, its verdicts, its SDL with all secrets."""
        revision = secrets.token_hex(_REVISION_BYTES)
        filled = with_variable(fill(order.sdl, order.secrets), REVISION, revision)
        manifest = manifest_json(load(filled)).decode()
        assert row.dseq is not None
        self.progress.step("update", f"handing the new version over (revision {revision})")
        try:
            self.market.update(row.dseq, filled, manifest)
        except MarketUnavailable as error:
            if error.acted is False:
                raise
            self.progress.note(f"{error.message}; it may have been carried out")
        except ProviderFailed as error:
            raise _Broken(error.message) from error
        url = self._comes(row, order, revision)
        self.progress.step("smoke", "checking every promise")
        try:
            report = self.verify(
                url, api_key=order.secrets[API_KEY], model=_served(order), progress=self.progress
            )
        except AkashllmError as error:
            raise _Broken(error.message) from error
        if not report.ok:
            raise _Broken("the smoke test found a broken promise", report)
        return url, report, filled

    def _comes(self, row: Deployment, order: Order, revision: str) -> str:
        """Wait until what answers says that it is this revision, and ready. Raises `_Broken`."""
        deadline = self.clock.monotonic() + order.timeout
        last = "nobody answers"
        while True:
            standing = self._stands(row)
            if standing.state in ENDED:
                raise _Broken(standing.reason or f"it is {standing.state}")
            url = standing.url or row.url
            health = self.ask(url, order.secrets[API_KEY]) if url else None
            if url and health is not None:
                ours = health.revision == revision
                if ours and health.state == "ready":
                    self.progress.loading(100.0, "ready")
                    return url
                if ours and health.state == "failed":
                    raise _Broken(health.reason or "the service says that it failed")
                if ours:
                    self.progress.loading(health.percent, health.reason or health.state)
                    last = f"its model is {health.state}"
                else:
                    silent = health.state == "unreachable"
                    last = (
                        "nobody answers" if silent else "what answers does not say that it is the new version"
                    )
                    self.progress.loading(None, last)
            if self.clock.monotonic() >= deadline:
                raise _Broken(f"after {order.timeout:.0f} s {last}")
            self.clock.sleep(self.pause)

    def _stands(self, row: Deployment) -> Standing:
        assert row.dseq is not None
        try:
            return self.market.status(row.dseq)
        except MarketUnavailable as error:
            self.progress.note(error.message)
            return Standing(dseq=row.dseq, state="starting")

    def _back(self, row: Deployment, before: Order, broken: _Broken) -> NoReturn:
        """Put the old version back, and say what became of it."""
        self.progress.note(f"the new version will not do: {broken.reason}; going back")
        try:
            url, report, filled = self._exchange(row, before)
        except (_Broken, AkashllmError) as second:
            why = second.reason if isinstance(second, _Broken) else second.message
            words = f"the update failed ({broken.reason}), and so did going back ({why})"
            self.store.record(row.id, "update", "failed", {"message": words}, reason=words)
            raise ProviderFailed(
                words,
                hint=f"`akashllm logs {row.name}` may say why; `akashllm update {row.name}` tries again",
            ) from broken
        self._keep(row, before, broken.reason, url=url, filled=filled, report=report)
        kind = MarketError if broken.report is None else CheckFailed
        raise kind(
            f"the update failed: {broken.reason}; {row.name} runs the old version again",
            hint=f"`akashllm logs {row.name}` may say why",
        ) from broken

    def _keep(
        self,
        row: Deployment,
        order: Order,
        failed: str,
        *,
        url: str | None = None,
        filled: str | None = None,
        report: Verdicts | None = None,
    ) -> Deployment:
        """Record what runs now: the key first, for without it nobody comes in."""
        directory = self._directory(row)
        facts = {name: value for name, value in row.facts.items() if name != "updating"}
        changes: dict[str, Any] = {"facts": facts, "reason": ""}
        if filled is not None:
            write_private(directory / "api-key", order.secrets[API_KEY] + "\n")
            if ADMIN_KEY in order.secrets:
                write_private(directory / ADMIN_FILE, order.secrets[ADMIN_KEY] + "\n")
            write_private(self.manifest_path(row), manifest_json(load(filled)).decode())
            write_private(Path(row.sdl_path or directory / "deploy.yaml"), order.sdl)
            plan = json.loads(json.dumps(order.plan.as_dict()))
            changes |= {"plan": {**plan, "name": row.name}, "url": url}
        if report is not None:
            changes["facts"] = {**facts, "smoke": report.as_dict()}
        (directory / NEXT_KEY).unlink(missing_ok=True)
        phase: Any = "failed" if failed else "after"
        return self.store.record(row.id, "update", phase, {"message": failed} if failed else {}, **changes)

    def _running(self, row: Deployment) -> Deployment:
        """The row as it is now that nobody else works on it. Raises `UsageError` where nothing runs."""
        row = self.store.get(row.id)
        if row.state != "active" or row.dseq is None:
            raise UsageError(
                f"{row.name} is not running ({row.state})", hint="`akashllm deploy` goes on with it"
            )
        standing = self._stands(row)
        if standing.state in ENDED:
            raise UsageError(
                f"{row.name} has ended: {standing.reason or standing.state}", hint="deploy it again"
            )
        return row

    def _before(self, row: Deployment, order: Order) -> Order:
        """What runs now, as an order: the way back. `order` knows secrets that no manifest here holds."""
        sdl = read_private(Path(row.sdl_path or self._directory(row) / "deploy.yaml"))
        key = read_private(self._directory(row) / "api-key").strip()
        values = {**order.secrets, **recorded_secrets(sdl, self._manifest(row))}
        admin = self._directory(row) / ADMIN_FILE
        if admin.exists():
            values[ADMIN_KEY] = read_private(admin).strip()
        return Order(plan=Plan.from_dict(row.plan), sdl=sdl, secrets={**values, API_KEY: key})

    def _unsealed(self, row: Deployment, order: Order) -> None:
        """Console takes a whole SDL in place of another only in clear."""
        if isinstance(self.market, SealsSecrets) and placeholders(order.sdl) and not self._manifest(row):
            self.progress.note("its secrets were sealed: in the SDL of an update Console sees them")

    def _manifest(self, row: Deployment) -> str:
        path = self.manifest_path(row)
        return read_private(path).strip() if path.exists() else "[]"

    def _directory(self, row: Deployment) -> Path:
        return self.store.home.directory(row.name, row.id)

    def _withdrawn(self, name: str) -> None:
        """Close what is left of a second deployment."""
        row = self.store.named(name)
        if row is not None:
            with self.store.home.lock(name):
                end(self.store, self.market, row, "the update failed")

    def _waiting(self, name: str) -> Callable[[], None]:
        return lambda: self.progress.note(f"another command is working on {name}: waiting for it")


_OK = 200


def recorded_secrets(sdl: str, manifest: str) -> dict[str, str]:
    """Values of an SDL's placeholders, from the manifest that was made of it; none where it was sealed."""
    if not manifest.strip():
        return {}
    wanted = set(placeholders(sdl))
    try:
        services = {service["name"]: service for group in json.loads(manifest) for service in group["services"]}
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(
            "the recorded manifest is damaged", hint="close the deployment and deploy again"
        ) from error
    found: dict[str, str] = {}
    parsed = load(sdl)
    for name in parsed.services:
        filled = variables_of(services.get(name, {}))
        for variable, value in environment(parsed, name).items():
            secret = value[2:-1]
            if is_placeholder(value) and secret in wanted and variable in filled:
                found[secret] = filled[variable]
    return found


def _served(order: Order) -> str:
    """The name under which the model is served."""
    served = dict(order.plan.env).get("AKASHLLM_MODEL_NAME")
    return served or order.plan.model.alias
