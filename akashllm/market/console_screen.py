"""Who could serve an SDL, asked before anything is ordered; and, if nobody, which demand is in the way."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from akashllm.errors import MarketUnavailable
from akashllm.market.base import Offer, Screening
from akashllm.market.console_errors import NotThere, cleaned
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_read import items, mapping
from akashllm.sdl import group_specs, load

_PATH = "/v1/bid-screening"


@dataclass(frozen=True, slots=True)
class Screen:
    """`POST /v1/bid-screening`: it costs nothing and changes nothing."""

    http: ConsoleHttp

    def __call__(self, sdl: str) -> Screening:
        """Every group of the SDL has to find somebody; the offers are those of the scarcest."""
        scarcest: tuple[Offer, ...] | None = None
        for group in group_specs(load(sdl)):
            try:
                offers = self._ask(question(group))
            except (NotThere, MarketUnavailable):
                return Screening(offers=(), known=False)
            if not offers:
                return Screening(offers=(), removed=tuple(self._removed(group)))
            if scarcest is None or len(offers) < len(scarcest):
                scarcest = offers
        return Screening(offers=scarcest or ())

    def _removed(self, group: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Each demand that could be dropped, with how many providers there would be then."""
        for what, relaxed in relaxations(group):
            try:
                offers = self._ask(question(relaxed))
            except (NotThere, MarketUnavailable):
                return
            if offers:
                yield what, len(offers)

    def _ask(self, body: Mapping[str, Any]) -> tuple[Offer, ...]:
        reply = self.http.ask(_PATH, body, key=False)
        return tuple(_offer(mapping(one)) for one in items(mapping(reply).get("providers")))


def question(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group of an SDL as the screening takes it."""
    wants = group["requirements"]
    signed = wants["signed_by"]
    return {
        "requirements": {
            "signedBy": {"allOf": signed["all_of"] or [], "anyOf": signed["any_of"] or []},
            "attributes": wants["attributes"],
        },
        "resources": [_unit(unit) for unit in group["resources"]],
        "timezone": "UTC",
    }


def relaxations(group: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The group without one of its demands, for each it has, with the demand's name."""
    for index, attribute in enumerate(group["requirements"]["attributes"]):
        relaxed = copy.deepcopy(dict(group))
        del relaxed["requirements"]["attributes"][index]
        yield f"{attribute['key'].rsplit('/', maxsplit=1)[-1]} {attribute['value']}", relaxed
    if group["requirements"]["signed_by"]["any_of"] or group["requirements"]["signed_by"]["all_of"]:
        relaxed = copy.deepcopy(dict(group))
        relaxed["requirements"]["signed_by"] = {"any_of": None, "all_of": None}
        yield "the audit", relaxed
    if any(unit["resource"]["gpu"].get("attributes") for unit in group["resources"]):
        relaxed = copy.deepcopy(dict(group))
        for unit in relaxed["resources"]:
            if unit["resource"]["gpu"].get("attributes"):
                unit["resource"]["gpu"]["attributes"] = [{"key": "vendor/nvidia/model/*", "value": "true"}]
        yield "the choice of GPUs", relaxed
    if any(int(unit["resource"]["gpu"]["units"]["val"]) > 1 for unit in group["resources"]):
        relaxed = copy.deepcopy(dict(group))
        for unit in relaxed["resources"]:
            gpu = unit["resource"]["gpu"]
            gpu["units"] = {"val": str(min(1, int(gpu["units"]["val"])))}
        yield "more than one GPU in a machine", relaxed
    if any(volume.get("attributes") for unit in group["resources"] for volume in unit["resource"]["storage"]):
        relaxed = copy.deepcopy(dict(group))
        for unit in relaxed["resources"]:
            unit["resource"]["storage"] = [
                {"name": volume["name"], "size": volume["size"]} for volume in unit["resource"]["storage"]
            ]
        yield "the kind of storage", relaxed


def _unit(unit: Mapping[str, Any]) -> dict[str, Any]:
    resource, price = unit["resource"], unit["price"]
    return {
        "resource": {
            "id": resource["id"],
            "cpu": resource["cpu"],
            "memory": {"quantity": resource["memory"]["size"]},
            "gpu": resource["gpu"],
            "storage": [
                {
                    "name": volume["name"],
                    "quantity": volume["size"],
                    **({"attributes": volume["attributes"]} if "attributes" in volume else {}),
                }
                for volume in resource["storage"]
            ],
        },
        "count": unit["count"],
        "price": {"denom": price["denom"], "amount": price["amount"].split(".", maxsplit=1)[0]},
    }


def _offer(one: Mapping[str, Any]) -> Offer:
    counts = [mapping(day).get("incidentCount") for day in items(one.get("incidents"))]
    location = one.get("location")
    return Offer(
        provider=cleaned(str(one.get("owner") or "")),
        region=cleaned(location) if isinstance(location, str) else "",
        audited=one.get("isAudited") is True,
        incidents=sum(count for count in counts if isinstance(count, int) and count > 0),
    )
