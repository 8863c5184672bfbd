"""What the market answers, in the shapes of Console's contract."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH
from akashllm.testing.market.contract import emptiest_item, example
from akashllm.testing.market.providers import Provider
from akashllm.testing.market.world import OWNER, Bidding, Deployed, Leased, World

_DAYS = 7


def created(deployed: Deployed, *, manifest: bool) -> dict[str, Any]:
    """`POST /v1/deployments`."""
    transaction = {"code": 0, "transactionHash": "F" * 64, "rawLog": ""}
    data = {"dseq": deployed.dseq, "manifest": deployed.manifest if manifest else "", "signTx": transaction}
    return {"data": data}


def bids(deployed: Deployed, found: list[Bidding]) -> dict[str, Any]:
    """`GET /v1/bids`."""
    return {"data": [_bid(deployed, bid) for bid in found]}


def deployment(world: World, deployed: Deployed, *, status: bool = True) -> dict[str, Any]:
    """One deployment; without `status` as lists show it."""
    leases = [_lease(deployed, leased, status=status) for leased in deployed.leases]
    shown: dict[str, Any] = {
        "deployment": {
            "id": {"owner": OWNER, "dseq": deployed.dseq},
            "state": deployed.state,
            "hash": world.hash_of(deployed),
            "created_at": str(deployed.height),
        },
        "leases": leases,
        "escrow_account": _escrow(deployed.dseq, deployed.escrow, deployed.state, spent=deployed.spent),
    }
    return {**shown, "name": deployed.name} if world.shape.keeps_names else shown


def settings(world: World, deployed: Deployed) -> dict[str, Any]:
    """`GET /v2/deployment-settings/{dseq}`; the older API knows nothing of limits."""
    at = "2026-11-01T00:00:00.000Z"
    known: dict[str, Any] = {
        **dict.fromkeys(("id", "userId"), "00000000-0000-4000-8000-000000000000"),
        "dseq": deployed.dseq,
        "autoTopUpEnabled": True,
        "estimatedTopUpAmount": 0,
        "topUpFrequencyMs": 0,
        "createdAt": at,
        "updatedAt": at,
    }
    if world.shape.limits_runtime:
        known |= {"runtimeLimitHours": deployed.limit, "runtimeEndsAt": None}
    return {"data": known}


def listing(world: World, skip: int, limit: int) -> dict[str, Any]:
    """`GET /v1/deployments`: open ones only."""
    found = [one for one in world.deployments.values() if one.state == "active"]
    page = [deployment(world, one, status=False) for one in found[skip : skip + limit]]
    more = skip + limit < len(found)
    pagination = {"total": len(found), "skip": skip, "limit": limit, "hasMore": more}
    return {"data": {"deployments": page, "pagination": pagination}}


def balances(world: World) -> dict[str, Any]:
    """`GET /v1/balances`, in US dollars."""
    held = world.total() - world.balance
    return {
        "data": {
            "balance": float(world.balance),
            "deployments": float(held),
            "total": float(world.balance + held),
        }
    }


def provider(one: Provider) -> dict[str, Any]:
    """`GET /v1/providers/{address}`."""
    return {
        **example("GET /v1/providers/{address}"),
        "owner": one.address,
        "hostUri": one.host_uri,
        "isAudited": one.audited,
        "isOnline": True,
        "uptime1d": one.uptime,
        "uptime7d": one.uptime,
        "uptime30d": one.uptime,
        "locationRegion": one.region,
        "ipRegion": one.region,
    }


def screening(found: list[Provider]) -> dict[str, Any]:
    """`POST /v1/bid-screening`."""
    return {
        "providers": [
            {
                "owner": one.address,
                "hostUri": one.host_uri,
                "isAudited": one.audited,
                "createdAt": "2025-01-01T00:00:00.000Z",
                "location": one.region,
                "organization": None,
                "incidents": [
                    {
                        "date": f"2026-11-{day + 1:02d}",
                        "hasOpenIncident": False,
                        "incidentCount": one.incidents if day == 0 else 0,
                        "downtimeSeconds": 0,
                    }
                    for day in range(_DAYS)
                ],
            }
            for one in found
        ]
    }


def screened(data: dict[str, Any]) -> dict[str, Any]:
    """What a screening asks, as a group of an SDL: `memory.quantity` there is `memory.size` here."""
    units = [{"resource": unit["resource"], "count": unit["count"]} for unit in data["resources"]]
    wants = data.get("requirements") or {}
    return {"requirements": wants, "resources": units}


def gpu_prices(world: World) -> dict[str, Any]:
    """`GET /v1/gpu-prices`: what the providers with a GPU ask."""
    models = []
    for one in world.providers:
        if one.gpu:
            model, _, ram = one.gpu.partition("/")
            usd = float(Decimal(one.price) * BLOCKS_AN_HOUR / MILLIONTH)
            models.append(
                {
                    **emptiest_item("GET /v1/gpu-prices", "models"),
                    "vendor": "nvidia",
                    "model": model,
                    "ram": ram,
                    "interface": "pcie",
                    "price": {
                        "currency": "USD",
                        **dict.fromkeys(("min", "max", "avg", "weightedAverage", "med"), usd),
                    },
                }
            )
    return {"availability": {"total": len(models), "available": len(models)}, "models": models}


def _bid(deployed: Deployed, bid: Bidding) -> dict[str, Any]:
    return {
        "bid": {
            "id": {**_lease_id(deployed.dseq, bid.provider.address)},
            "state": bid.state,
            "price": {"denom": bid.provider.denom, "amount": f"{Decimal(bid.provider.price):.18f}"},
            "created_at": str(deployed.height + 2),
            "resources_offer": [_offer(bid.provider, group) for group in deployed.groups],
        },
        "escrow_account": _escrow(f"{deployed.dseq}/1/1/{bid.provider.address}", Decimal("0.5"), "open"),
    }


def _offer(one: Provider, group: dict[str, Any]) -> dict[str, Any]:
    unit = group["resources"][0]
    resource = unit["resource"]
    gpu: list[dict[str, str]] = []
    if one.gpu and int(resource["gpu"]["units"]["val"]):
        model, _, ram = one.gpu.partition("/")
        key = f"vendor/nvidia/model/{model}" + (f"/ram/{ram}" if ram else "")
        gpu = [{"key": key, "value": "true"}]
    return {
        "resources": {
            "cpu": {"units": resource["cpu"]["units"], "attributes": []},
            "gpu": {"units": resource["gpu"]["units"], "attributes": gpu},
            "memory": {"quantity": resource["memory"]["size"], "attributes": []},
            "storage": [
                {"name": volume["name"], "quantity": volume["size"], "attributes": []}
                for volume in resource["storage"]
            ],
            "endpoints": [{"kind": "SHARED_HTTP", "sequence_number": 0}],
        },
        "count": unit["count"],
    }


def _lease_id(dseq: str, address: str) -> dict[str, Any]:
    return {"owner": OWNER, "dseq": dseq, "gseq": 1, "oseq": 1, "provider": address, "bseq": 0}


def _lease(deployed: Deployed, leased: Leased, *, status: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": _lease_id(deployed.dseq, leased.provider.address),
        "state": leased.state,
        "price": {"denom": leased.provider.denom, "amount": f"{leased.price:.18f}"},
        "created_at": str(deployed.height + 5),
        "closed_on": "0" if leased.state == "active" else str(deployed.height + 9),
    }
    if leased.reason:
        shown["reason"] = leased.reason
    if status:
        shown["status"] = lease_status(deployed.dseq, leased)
    return shown


def lease_status(dseq: str, leased: Leased) -> dict[str, Any] | None:
    """What a provider says of a lease that it has the manifest of."""
    if leased.state != "active" or leased.manifest is None:
        return None
    url = leased.provider.runner.url(dseq) if leased.provider.behaviour == "runs" else None
    ready = int(url is not None)
    counts = {
        "observed_generation": 1,
        "replicas": 1,
        "updated_replicas": 1,
        "ready_replicas": ready,
        "available_replicas": ready,
    }
    uris = [url] if url else []
    return {
        "services": {"llm": {"name": "llm", "available": ready, "total": 1, "uris": uris, **counts}},
        "forwarded_ports": {},
        "ips": {},
    }


def _escrow(xid: str, dollars: Decimal, state: str, *, spent: Decimal = Decimal(0)) -> dict[str, Any]:
    amount = {"denom": "uact", "amount": f"{dollars * MILLIONTH:.18f}"}
    return {
        "id": {"scope": "deployment", "xid": f"{OWNER}/{xid}"},
        "state": {
            "owner": OWNER,
            "state": "open" if state in {"active", "open"} else "closed",
            "transferred": [{"denom": "uact", "amount": f"{spent * MILLIONTH:.18f}"}],
            "settled_at": "20000000",
            "funds": [amount],
            "deposits": [{"owner": OWNER, "height": "20000000", "source": "grant", "balance": amount}],
        },
    }
