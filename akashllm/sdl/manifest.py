"""The manifest a provider gets, its canonical bytes and their hash, as the chain's Go code makes them.

Facts: chain-sdk go/sdl/groupBuilder_v2.go, groupBuilder_v2_1.go, storage.go, gpu.go and
go/manifest/v2beta3/manifest.go (`Version`: sha256 over key-sorted JSON as Go's encoder writes it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from akashllm.sdl.quantities import GI
from akashllm.sdl.types import INGRESS_PORT, Compute, Expose, Sdl, Service, Target, Volume

SHARED_HTTP, RANDOM_PORT, LEASED_IP = 0, 1, 2

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def manifest(sdl: Sdl) -> list[dict[str, Any]]:
    """One group a placement, by name: the services with their resources, ports and volumes."""
    groups, _ = _build(sdl)
    return groups


def group_specs(sdl: Sdl) -> list[dict[str, Any]]:
    """One specification a placement, by name: what goes on the chain and providers bid for."""
    _, specs = _build(sdl)
    return specs


def canonical_json(value: Any) -> bytes:
    """Key-sorted JSON without spaces, escaped the way Go's encoder does it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character, escape in _GO_ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode()


def manifest_json(sdl: Sdl) -> bytes:
    """The bytes that are hashed, and that a provider accepts as the manifest."""
    return canonical_json(manifest(sdl))


def manifest_hash(sdl: Sdl) -> str:
    """The deployment's version on the chain: sha256 of `manifest_json`, as hex."""
    return hashlib.sha256(manifest_json(sdl)).hexdigest()


def _build(sdl: Sdl) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    sequence = _endpoint_numbers(sdl)
    share = sdl.version != "2.0"
    groups: dict[str, dict[str, Any]] = {}
    specs: dict[str, dict[str, Any]] = {}
    bound: dict[tuple[str, str], int] = {}
    for name in sorted(sdl.deployment):
        service = sdl.services[name]
        for where in sorted(sdl.deployment[name]):
            deployment = sdl.deployment[name][where]
            compute = sdl.compute[deployment.profile]
            if where not in groups:
                groups[where] = {"name": where, "services": []}
                specs[where] = _spec(sdl, where)
            if service.tee:
                _require_tee(specs[where], service.tee)
            units = specs[where]["resources"]
            exposes = _exposes(service, sequence)
            endpoints = [endpoint for expose in exposes for endpoint in _endpoints(expose)]
            known = bound.get((where, deployment.profile)) if share else None
            if known is None:
                number = len(units) + 1
                price = sdl.placement[where].pricing[deployment.profile]
                units.append(
                    {
                        "resource": _resources(number, compute, endpoints),
                        "count": deployment.count,
                        "price": {"denom": price.denom, "amount": f"{Decimal(price.amount):.18f}"},
                    }
                )
                bound[where, deployment.profile] = len(units) - 1
            else:
                unit = units[known]
                number = unit["resource"]["id"]
                unit["count"] += deployment.count
                unit["resource"]["endpoints"] = sorted(
                    unit["resource"]["endpoints"] + endpoints,
                    key=lambda endpoint: (endpoint.get("kind", SHARED_HTTP), endpoint["sequence_number"]),
                )
            groups[where]["services"].append(
                _service(
                    service, exposes, _resources(number, compute, endpoints), deployment.count, share=share
                )
            )
    names = sorted(groups)
    return [groups[name] for name in names], [specs[name] for name in names]


def _spec(sdl: Sdl, where: str) -> dict[str, Any]:
    placement = sdl.placement[where]
    return {
        "name": where,
        "requirements": {
            "signed_by": {"all_of": list(placement.all_of) or None, "any_of": list(placement.any_of) or None},
            "attributes": [{"key": key, "value": value} for key, value in placement.attributes],
        },
        "resources": [],
    }


def _require_tee(spec: dict[str, Any], tee: str) -> None:
    attributes = spec["requirements"]["attributes"]
    if not any(attribute["key"] == "tee/type" for attribute in attributes):
        attributes.append({"key": "tee/type", "value": tee})
        attributes.sort(key=lambda attribute: attribute["key"])


def _service(
    service: Service, exposes: list[dict[str, Any]], resources: dict[str, Any], count: int, *, share: bool
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": service.name,
        "image": service.image,
        "command": list(service.command) or None,
        "args": list(service.args) or None,
        "env": list(service.env) or None,
        "resources": resources,
        "count": count,
        "expose": exposes,
        "credentials": None,
    }
    if service.has_params:
        params: dict[str, Any] = {
            "storage": [
                {"name": mount.volume, "mount": mount.path, "readOnly": mount.read_only}
                for mount in service.mounts
            ]
        }
        if service.permissions is not None:
            params["permissions"] = {"read": list(service.permissions)}
        if service.tee:
            params["tee"] = service.tee
        result["params"] = params
    if service.credentials:
        login = service.credentials
        trim = str.strip if share else str
        result["credentials"] = {
            "host": trim(login.host),
            "email": trim(login.email),
            "username": trim(login.username),
            "password": trim(login.password),
        }
    return result


def _endpoint_numbers(sdl: Sdl) -> dict[str, int]:
    """A leased IP's number is its last place among all uses, sorted by name."""
    uses = sorted(
        to.ip
        for name in sdl.deployment
        for expose in sdl.services[name].expose
        for to in expose.to
        if to.is_global and to.ip
    )
    return {name: number for number, name in enumerate(uses, 1)}


def _exposes(service: Service, sequence: dict[str, int]) -> list[dict[str, Any]]:
    entries = [_expose(expose, to, sequence) for expose in service.expose for to in (expose.to or (Target(),))]
    return sorted(
        entries, key=lambda entry: (entry["service"], entry["port"], entry["proto"], not entry["global"])
    )


def _expose(expose: Expose, to: Target, sequence: dict[str, int]) -> dict[str, Any]:
    http = expose.http
    options: dict[str, Any] = {
        "maxBodySize": http.max_body_size,
        "readTimeout": http.read_timeout,
        "sendTimeout": http.send_timeout,
        "nextTries": http.next_tries,
        "nextTimeout": http.next_timeout,
        "nextCases": list(http.next_cases),
    }
    if http.proxy_buffer_size:
        options["proxyBufferSize"] = http.proxy_buffer_size
    return {
        "port": expose.port,
        "externalPort": expose.external,
        "proto": expose.proto,
        "service": to.service,
        "global": to.is_global,
        "hosts": list(expose.accept) or None,
        "httpOptions": options,
        "ip": to.ip,
        "endpointSequenceNumber": sequence.get(to.ip, 0) if to.is_global else 0,
    }


def _endpoints(expose: dict[str, Any]) -> list[dict[str, int]]:
    if not expose["global"]:
        return []
    ingress = expose["proto"] == "TCP" and (expose["externalPort"] or expose["port"]) == INGRESS_PORT
    kinds = [(SHARED_HTTP if ingress else RANDOM_PORT, 0)]
    if expose["ip"]:
        kinds.append((LEASED_IP, expose["endpointSequenceNumber"]))
    # Go leaves out a kind of zero.
    return [
        {"kind": kind, "sequence_number": number} if kind else {"sequence_number": number}
        for kind, number in kinds
    ]


def _resources(number: int, compute: Compute, endpoints: list[dict[str, int]]) -> dict[str, Any]:
    cpu: dict[str, Any] = {"units": _value(compute.cpu)}
    if compute.arch:
        cpu["attributes"] = [{"key": "arch", "value": compute.arch}]
    gpu: dict[str, Any] = {"units": _value(compute.gpu_units)}
    if compute.gpus is not None:
        gpu["attributes"] = [{"key": key, "value": "true"} for key in gpu_attributes(compute)]
    return {
        "id": number,
        "cpu": cpu,
        "memory": {"size": _value(compute.memory)},
        "storage": [_volume(volume) for volume in sort_volumes(compute.storage)],
        "gpu": gpu,
        "endpoints": [dict(endpoint) for endpoint in endpoints],
    }


def gpu_attributes(compute: Compute) -> list[str]:
    """The attribute keys a provider must have one of, sorted."""
    keys = []
    for gpu in compute.gpus or ():
        key = f"vendor/nvidia/model/{gpu.model}"
        if gpu.ram:
            key += f"/ram/{gpu.ram // GI}Gi"
        if gpu.interface:
            key += f"/interface/{gpu.interface}"
        keys.append(key)
    return sorted(keys) or ["vendor/nvidia/model/*"]


def _volume(volume: Volume) -> dict[str, Any]:
    result: dict[str, Any] = {"name": volume.name, "size": _value(volume.size)}
    attributes = _attributes(volume)
    if attributes:
        result["attributes"] = [{"key": key, "value": value} for key, value in sorted(attributes.items())]
    return result


def _attributes(volume: Volume) -> dict[str, str]:
    if volume.persistent is None:
        return {}
    result = {"persistent": "true" if volume.persistent else "false"}
    if volume.storage_class or volume.persistent:
        result["class"] = volume.storage_class or "default"
    return result


def sort_volumes(volumes: Iterable[Volume]) -> list[Volume]:
    """Smallest first; equal sizes in the order that Go's insertion sort and its comparison leave them."""
    result = list(volumes)
    for i in range(1, len(result)):
        j = i
        while j > 0 and _before(result[j], result[j - 1]):
            result[j], result[j - 1] = result[j - 1], result[j]
            j -= 1
    return result


def _before(left: Volume, right: Volume) -> bool:
    if left.size != right.size:
        return left.size < right.size
    has_left, has_right = left.persistent is not None, right.persistent is not None
    if has_right and (not has_left or bool(left.persistent) < bool(right.persistent)):
        return True
    if has_left and not has_right:
        return False
    if not left.persistent:
        return True
    return bool(right.persistent) and left.name < right.name


def _value(number: int) -> dict[str, str]:
    return {"val": str(number)}
