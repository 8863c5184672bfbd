"""What runs, in one JSON object: the models there are, those in memory, what is coming over the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from akashllm.server.models.steps import Step
from akashllm.server.resident import Fetching, Resident
from akashllm.server.runtime import Runtime


def brief(runtime: Runtime) -> dict[str, Any]:
    """What anyone may see: the deployed model, slots and queues of all models together, downloads."""
    residents = runtime.residents()
    places = [resident.admission for resident in residents]
    slots = sum(place.slots for place in places) if runtime.crowd is None else runtime.crowd.slots
    return {
        **runtime.health.public(runtime.serves()[0]),
        "models": list(runtime.serves()),
        "slots": {"total": slots, "used": sum(place.used for place in places)},
        "queue": {
            "waiting": sum(place.waiting for place in places),
            "limit": sum(place.queue for place in places),
        },
        "downloads": [_download(each) for each in residents if _fetching(each)],
    }


async def full(runtime: Runtime, pulls: Mapping[str, Step]) -> dict[str, Any]:
    """What the holder of a key sees: also the models that could be loaded, each that is, and what is pulled.

    `pulls` has the newest step of each pull by the model's name.
    """
    names = [offer.name for offer in await runtime.offers()]
    room = runtime.room
    shown = brief(runtime)
    return shown | {
        "models": [*runtime.serves(), *names],
        "downloads": [*shown["downloads"], *(_pull(name, step) for name, step in pulls.items())],
        "instances": [_instance(each) for each in runtime.residents() if each.health.state != "unloaded"],
        "memory": {"taken": room.taken, "budget": room.budget},
    }


def others(runtime: Runtime) -> list[dict[str, Any]]:
    """The state of every model but the deployed one that has been asked for."""
    return [each.health.public(each.name) for each in runtime.residents() if each is not runtime.primary]


def _instance(resident: Resident) -> dict[str, Any]:
    expires = resident.expires_at()
    admission = resident.admission
    return {
        **resident.health.public(resident.name),
        "slots": {"total": admission.slots, "used": admission.used},
        "queue": {"waiting": admission.waiting, "limit": admission.queue},
        "memory": resident.need if resident.loaded() else 0,
        "context": resident.info.context,
        "expires_at": None if expires is None else expires.isoformat().replace("+00:00", "Z"),
        "pinned": resident.pinned,
    }


def _fetching(resident: Resident) -> bool:
    return isinstance(resident.engine, Fetching) and resident.engine.fetching


def _download(resident: Resident) -> dict[str, Any]:
    health = resident.health
    percent = None if health.percent is None else round(health.percent, 1)
    return {"model": resident.name, "status": health.reason, "percent": percent}


def _pull(name: str, step: Step) -> dict[str, Any]:
    """As `_download`; the percentage is of the file that is coming."""
    percent = round(100.0 * step.completed / step.total, 1) if step.total else None
    return {"model": name, "status": step.status, "percent": percent}
