"""A document that broke no rule, as types. The rules run first: nothing here guards against malformed data."""

from __future__ import annotations

from typing import Any

from akashllm.sdl.document import Document
from akashllm.sdl.quantities import parse_cpu, parse_gpu_units, parse_size
from akashllm.sdl.types import (
    DEFAULT_BODY,
    DEFAULT_CASES,
    DEFAULT_TIMEOUT,
    DEFAULT_TRIES,
    Compute,
    Credentials,
    Deployment,
    Expose,
    Gpu,
    HttpOptions,
    Mount,
    Placement,
    Price,
    Sdl,
    Service,
    Target,
    Volume,
)

TRUE_WORDS = frozenset({"true", "on", "yes"})
FALSE_WORDS = frozenset({"false", "off", "no"})


def read(document: Document) -> Sdl:
    """The typed SDL of a valid document."""
    data = document.data
    profiles = data["profiles"]
    return Sdl(
        version=data["version"],
        services={name: _service(name, value) for name, value in data["services"].items()},
        compute={name: _compute(value["resources"]) for name, value in profiles["compute"].items()},
        placement={name: _placement(value) for name, value in profiles["placement"].items()},
        deployment={
            service: {
                placement: Deployment(profile=entry["profile"], count=entry["count"])
                for placement, entry in targets.items()
            }
            for service, targets in data["deployment"].items()
        },
        endpoints=tuple(data.get("endpoints") or ()),
        document=document,
    )


def as_bool(value: Any) -> bool:
    """A storage attribute's boolean, which the chain's parser also takes as a word."""
    return value if isinstance(value, bool) else str(value).lower() in TRUE_WORDS


def _service(name: str, data: dict[str, Any]) -> Service:
    params = data.get("params")
    login = data.get("credentials")
    permissions = (params or {}).get("permissions")
    return Service(
        name=name,
        image=data["image"],
        command=tuple(data.get("command") or ()),
        args=tuple(data.get("args") or ()),
        env=tuple(data.get("env") or ()),
        expose=tuple(_expose(entry) for entry in data.get("expose") or ()),
        mounts=tuple(
            Mount(volume=volume, path=mount.get("mount") or "", read_only=bool(mount.get("readOnly")))
            for volume, mount in sorted(((params or {}).get("storage") or {}).items())
        ),
        has_params=params is not None,
        permissions=None if permissions is None else tuple(permissions.get("read") or ()),
        tee=(params or {}).get("tee") or "",
        credentials=Credentials(
            host=login["host"],
            username=login["username"],
            password=login["password"],
            email=login.get("email") or "",
        )
        if login
        else None,
    )


def _expose(data: dict[str, Any]) -> Expose:
    http = data.get("http_options") or {}
    return Expose(
        port=data["port"],
        external=data.get("as") or 0,
        proto=(data.get("proto") or "TCP").upper(),
        to=tuple(
            Target(is_global=bool(to.get("global")), service=to.get("service") or "", ip=to.get("ip") or "")
            for to in data.get("to") or ()
        ),
        accept=tuple(data.get("accept") or ()),
        http=HttpOptions(
            max_body_size=http.get("max_body_size") or DEFAULT_BODY,
            read_timeout=http.get("read_timeout") or DEFAULT_TIMEOUT,
            send_timeout=http.get("send_timeout") or DEFAULT_TIMEOUT,
            next_tries=http.get("next_tries") or DEFAULT_TRIES,
            next_timeout=http.get("next_timeout") or 0,
            next_cases=tuple(http.get("next_cases") or DEFAULT_CASES),
            proxy_buffer_size=http.get("proxy_buffer_size") or 0,
        ),
    )


def _compute(data: dict[str, Any]) -> Compute:
    gpu = data.get("gpu") or {}
    units = parse_gpu_units(gpu.get("units", 0)) or 0
    storage = data["storage"]
    volumes = storage if isinstance(storage, list) else [{**storage, "name": "default"}]
    return Compute(
        cpu=parse_cpu(data["cpu"]["units"]) or 0,
        memory=parse_size(data["memory"]["size"]) or 0,
        storage=tuple(_volume(volume) for volume in volumes),
        arch=(data["cpu"].get("attributes") or {}).get("arch") or "",
        gpu_units=units,
        gpus=tuple(
            Gpu(
                model=entry.get("model") or "",
                ram=parse_size(entry["ram"], decimal=False) or 0 if entry.get("ram") else 0,
                interface=entry.get("interface") or "",
            )
            for entry in gpu["attributes"]["vendor"]["nvidia"] or ()
        )
        if units
        else None,
    )


def _volume(data: dict[str, Any]) -> Volume:
    attributes = data.get("attributes")
    return Volume(
        name=data.get("name") or "default",
        size=parse_size(data["size"]) or 0,
        storage_class=(attributes or {}).get("class") or "",
        persistent=as_bool(attributes.get("persistent", False)) if attributes else None,
    )


def _placement(data: dict[str, Any]) -> Placement:
    signed = data.get("signedBy") or {}
    return Placement(
        attributes=tuple(sorted((key, _text(value)) for key, value in (data.get("attributes") or {}).items())),
        any_of=tuple(signed.get("anyOf") or ()),
        all_of=tuple(signed.get("allOf") or ()),
        pricing={
            profile: Price(denom=price["denom"], amount=str(price["amount"]))
            for profile, price in data["pricing"].items()
        },
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
