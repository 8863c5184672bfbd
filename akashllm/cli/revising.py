"""From what `update` was asked for to a plan and an SDL: only what was named changes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.before import prices
from akashllm.cli.deploy import rendered
from akashllm.cli.out import Out
from akashllm.errors import UsageError
from akashllm.market.base import Market
from akashllm.market.driver import ADMIN_FILE, new_key
from akashllm.market.order import ADMIN_KEY, API_KEY
from akashllm.market.updating import recorded_secrets
from akashllm.plan import DeployRequest, Plan
from akashllm.sdl import load, placeholders
from akashllm.state import Deployment, Store
from akashllm.state.private import read_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `update` was asked for. None: as it is."""

    file: Path | None
    model: str | None
    engine: str | None
    context: int | None
    concurrency: int | None
    quant: str | None
    gpu: Sequence[str]
    gpu_count: int | None
    cpu: bool
    region: str | None
    max_price: float | None
    replicas: int | None
    image: str | None
    env: Sequence[str]

    @property
    def plans_anew(self) -> bool:
        """Whether the planner has to be asked."""
        return bool(
            self.model
            or self.engine
            or self.context
            or self.concurrency
            or self.quant
            or self.gpu
            or self.gpu_count
            or self.cpu
            or self.region
            or self.max_price
            or self.replicas
        )


def revised(out: Out, store: Store, row: Deployment, market: Market, wanted: Wanted) -> tuple[Plan, str]:
    """The plan and the SDL that are wanted instead of those of the row."""
    plan = Plan.from_dict(row.plan)
    if wanted.file is not None:
        if wanted.plans_anew or wanted.image or wanted.env:
            raise UsageError("an SDL and options contradict each other", hint="write the change into the file")
        try:
            text = wanted.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{wanted.file} cannot be read", hint="give the path of an SDL") from error
        load(text, source=str(wanted.file))
        return plan, text
    before = plan
    if wanted.plans_anew:
        plan = _planned(out, before, market, wanted, persistent=bool(before.volume_gib) or not _fetches(before))
    image, as_root = _image(out, store, plan, market, wanted)
    if wanted.plans_anew and plan.volume_gib and as_root is False:
        # The volume that it has may be its own by now; one of a new lease belongs to root.
        plan = _planned(out, before, market, wanted, persistent=False)
        out.talk("volume   none: volumes on Akash belong to root, and this image starts as another user")
    plan = dataclasses.replace(plan, image=image, env=_environment(plan, wanted.env))
    return plan, rendered(plan)


def _fetches(plan: Plan) -> bool:
    """Whether its weights come from elsewhere, so that where they are kept was decided."""
    return plan.model.kind not in {"bundled", "file"}


def _planned(out: Out, plan: Plan, market: Market, wanted: Wanted, *, persistent: bool) -> Plan:
    """Planned anew; prices of the day change nothing where the machine stays the same."""
    word = plan.model.file if plan.model.kind == "file" else plan.model.alias
    engine = opt.engine_named(wanted.engine) if wanted.engine else plan.engine
    made = planned(
        DeployRequest(
            model=wanted.model or word,
            engine=engine,
            name=plan.name,
            context=wanted.context or (None if wanted.model else plan.context),
            concurrency=wanted.concurrency or plan.concurrency,
            quant=wanted.quant or (None if wanted.model or wanted.engine else plan.quant or None),
            gpu=tuple(wanted.gpu),
            gpu_count=wanted.gpu_count,
            cpu_only=wanted.cpu or (not plan.gpus and not wanted.gpu and not wanted.gpu_count),
            region=wanted.region or plan.region,
            max_price=wanted.max_price,
            replicas=wanted.replicas or plan.replicas,
            nodes=plan.nodes,
            image=wanted.image,
            local=not market.charges,
            persistent=persistent,
            manage=ADMIN_KEY in plan.secrets and engine == "llamacpp",
        ),
        prices=prices(out, market),
    )
    if wanted.max_price is None and (made.gpus, made.containers) == (plan.gpus, plan.containers):
        kept = ("max_price_hour", "max_uact_block", "price_source")
        made = dataclasses.replace(made, **{name: getattr(plan, name) for name in kept})
    return made


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


def _environment(plan: Plan, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    env = dict(plan.env)
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
