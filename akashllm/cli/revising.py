"""From what `update` was asked for to a plan and an SDL: only what was named changes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from akashllm.catalog import Catalog
from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.before import prices
from akashllm.cli.deploy import rendered
from akashllm.cli.make import read_sdl
from akashllm.cli.out import Out
from akashllm.cli.wanted import request_of
from akashllm.errors import DoesNotFit, UsageError
from akashllm.market.base import Market
from akashllm.market.driver import ADMIN_FILE, new_key
from akashllm.market.order import ADMIN_KEY, API_KEY
from akashllm.market.updating import recorded_secrets
from akashllm.plan import DeployRequest, Plan
from akashllm.planning.machine import PLANNED
from akashllm.planning.make import ASKED
from akashllm.planning.written import plan_of
from akashllm.sdl import placeholders
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private

_OTHER_GPUS = frozenset({"model", "engine", "quant", "gpu", "cpu"})
"""Options of which each chooses the GPUs anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `update` was asked for.

    file      a whole SDL instead
    changes   options of a request that were named, as `request_of` takes them
    env       variables as NAME=VALUE; without a value one is taken away
    """

    file: Path | None
    changes: Mapping[str, Any]
    env: Sequence[str]

    @property
    def image(self) -> str | None:
        """The image that was named."""
        return self.changes.get("image")

    @property
    def plans_anew(self) -> bool:
        """Whether the planner has to be asked."""
        return bool(self.changes.keys() - {"image"})


def runs_now(row: Deployment) -> str:
    """The SDL of what runs. Raises `UsageError` where it never came to one."""
    if row.sdl_path is None:
        raise UsageError(
            f"{row.name} was never started", hint=f"`akashllm status {row.name}` says how far it is"
        )
    return read_private(Path(row.sdl_path))


def revised(out: Out, store: Store, row: Deployment, market: Market, wanted: Wanted) -> tuple[Plan, str]:
    """The plan and the SDL that are wanted instead of those of the row."""
    before = Plan.from_dict(row.plan)
    if wanted.file is not None:
        if wanted.changes or wanted.env:
            raise UsageError("an SDL and options contradict each other", hint="write the change into the file")
        text = read_sdl(wanted.file)
        return _as_written(before, runs_now(row), text, source=str(wanted.file)), text
    plan = before
    if wanted.plans_anew:
        plan = _planned(out, before, market, wanted, persistent=bool(before.volume_gib) or not _keeps(before))
    image, as_root = _image(out, store, plan, market, wanted)
    if wanted.plans_anew and plan.volume_gib and as_root is False:
        # The volume that it has may be its own by now; one of a new lease belongs to root.
        plan = _planned(out, before, market, wanted, persistent=False)
        out.talk("volume   none: volumes on Akash belong to root, and this image starts as another user")
    plan = replace(plan, image=image, env=_environment(before, plan, wanted.env))
    return plan, rendered(plan)


def _as_written(plan: Plan, old: str, new: str, *, source: str) -> Plan:
    """The plan with what a file says otherwise than the SDL that runs. Raises `BadSdl`, `UsageError`."""
    after = plan_of(new, plan.name, source=source)
    try:
        before = plan_of(old, plan.name, source=source)
    except UsageError:
        # It came from a file that did not say its engine: then nothing is known but what the new one says.
        return after
    found = {item.name: getattr(after, item.name) for item in fields(Plan)}
    changed = {name: value for name, value in found.items() if value != getattr(before, name)}
    if changed.keys() & {"model", "engine"}:
        changed |= {"quant": "", "memory": ()}
    return replace(plan, **changed)


def _keeps(plan: Plan) -> bool:
    """Whether it has weights from elsewhere, or will have, so that where they are kept was decided."""
    return plan.model.kind not in {"bundled", "file"} or ADMIN_KEY in plan.secrets


def _planned(out: Out, plan: Plan, market: Market, wanted: Wanted, *, persistent: bool) -> Plan:
    """Planned anew: for as many of the same GPUs, else for more of them, else for any.

    Prices of the day change nothing where these stay.
    """
    today = prices(out, market)

    def made(**gpus: Any) -> Plan:
        asked = request_of(
            **{**_kept(plan, wanted.changes), "no_volume": not persistent, **gpus, **wanted.changes}
        )
        return planned(replace(asked, local=not market.charges), prices=today)

    found = None
    if plan.gpus and not wanted.changes.keys() & _OTHER_GPUS:
        same = {"gpu": list(dict.fromkeys(one.model for one in plan.gpus))}
        for more in ({"gpu_count": plan.gpus[0].count}, {}):
            with suppress(DoesNotFit):
                found = found or made(**same, **more)
    found = found or made()
    if "max_price" not in wanted.changes and _machines(found) == _machines(plan):
        kept = ("gpus", "max_price_hour", "max_uact_block", "price_source")
        found = replace(found, **{name: getattr(plan, name) for name in kept})
    return found


def _kept(plan: Plan, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for before and stays, as `request_of` takes it; no GPUs."""
    named = changes.keys()
    engine = opt.engine_named(changes.get("engine", plan.engine))
    return {
        "model": plan.model.file if plan.model.kind == "file" else plan.model.alias,
        "engine": engine,
        "name": plan.name,
        "context": None if "model" in named else plan.context or None,
        "concurrency": plan.concurrency or None,
        "quant": None if named & {"model", "engine"} else plan.quant or None,
        "cpu": _without_gpu(plan) and engine != "vllm" and not named & {"gpu", "gpu_count"},
        "region": plan.region,
        "max_price": (plan.max_price_hour or None) if plan.price_source == ASKED else None,
        "replicas": plan.replicas,
        "nodes": plan.nodes if engine == "vllm" else 1,
        "manage": ADMIN_KEY in plan.secrets and engine == "llamacpp",
        "any_provider": not plan.audited,
    }


def _without_gpu(plan: Plan) -> bool:
    """Whether somebody wanted it so: a small model has no GPU anyway."""
    model = Catalog.load().get(plan.model.alias)
    return not plan.gpus and not (model is not None and model.cpu)


def _machines(plan: Plan) -> tuple[object, ...]:
    """What is paid for; the order of GPUs is one of prices."""
    sizes = (plan.cpu_units, plan.ram_gib, plan.disk_gib, plan.volume_gib, plan.shm_gib)
    return plan.containers, set(plan.gpus), sizes


def _image(out: Out, store: Store, plan: Plan, market: Market, wanted: Wanted) -> tuple[str, bool | None]:
    """The image that was named, by digest, else today's, where it is one of ours; whether it starts as root."""
    if not market.charges:
        return wanted.image or plan.image, None
    from akashllm.images import pinned, pullable

    if wanted.image is None and wanted.env and not wanted.plans_anew:
        return plan.image, None
    ours = wanted.image or _ours(plan)
    now = pinned(ours, store.home)
    if wanted.image is None and "@" in plan.image and now.partition("@")[0] != plan.image.partition("@")[0]:
        return plan.image, None
    try:
        found = pullable(ours, store.home, named=wanted.image is not None)
    except UsageError as error:
        if wanted.image is not None:
            raise
        out.talk(f"{error.message}; the image stays as it is")
        return plan.image, None
    if found.warning:
        out.talk(f"warning: {found.warning}")
    return found.image, found.as_root


def _ours(plan: Plan) -> str:
    """The image that a deployment of this model would have today."""
    request = DeployRequest(model=plan.model.alias, engine=plan.engine, name=plan.name, cpu_only=not plan.gpus)
    return planned(request).image


def _environment(before: Plan, plan: Plan, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The plan's variables; those of before that no planner sets, but somebody; those that are given."""
    env = {name: value for name, value in before.env if name not in {*PLANNED, *plan.secrets}} | dict(plan.env)
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier() or not name.isascii():
            raise UsageError("--env takes NAME=VALUE", hint="NAME= takes a variable away")
        if name in plan.secrets or name in {API_KEY, ADMIN_KEY, "HF_TOKEN"}:
            raise UsageError(
                f"{name} is a secret, and others can read a command's arguments",
                hint="`akashllm key NAME --rotate` exchanges the key; other secrets come from the environment",
            )
        env.pop(name, None)
        if value:
            env[name] = value
    return tuple(sorted(env.items()))


def known_secrets(store: Store, row: Deployment, old: str, new: str) -> dict[str, str]:
    """Values for placeholders: those of now, and what the environment says instead."""
    path = store.home.directory(row.name, row.id) / "manifest.json"
    found = recorded_secrets(old, read_private(path)) if path.exists() else {}
    names = [name for name in placeholders(new) if name != API_KEY]
    if ADMIN_KEY in names:
        admin = store.home.directory(row.name, row.id) / ADMIN_FILE
        found[ADMIN_KEY] = read_private(admin).strip() if admin.exists() else new_key("admin")
    found |= {name: os.environ[name] for name in names if name in os.environ}
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(
            f"the SDL wants {', '.join(missing)} and no value is known",
            hint=f"set {missing[0]} in the environment",
        )
    return {name: found[name] for name in names}
