"""Rules for the ports of a service, and for leased IPs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from akashllm.sdl.rules.place import Place, show

MAX_BODY = 104_857_600
MAX_TIMEOUT = 60_000
MAX_BUFFER = 1_048_576
UINT32 = 2**32 - 1
_CASES = ("error", "timeout", "500", "502", "503", "504", "403", "404", "429", "off")
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ENDPOINT = re.compile(r"[a-z]+[-_0-9a-z]+")
_LIMITS = {
    "max_body_size": (MAX_BODY, "bytes"),
    "read_timeout": (MAX_TIMEOUT, "milliseconds"),
    "send_timeout": (MAX_TIMEOUT, "milliseconds"),
    "next_tries": (UINT32, "tries"),
    "next_timeout": (UINT32, "milliseconds"),
    "proxy_buffer_size": (MAX_BUFFER, "bytes"),
}


def check_expose(expose: Place) -> None:
    """Each port of one service."""
    for entry in expose.items():
        if not entry.mapping(("port", "as", "proto", "to", "accept", "http_options"), nullable=("port",)):
            continue
        _check_port(entry)
        if (accept := entry.get("accept")) is not None:
            for host in accept.texts():
                if not _HOST.fullmatch(host.value) or len(host.value) > 253:
                    host.add(
                        "accept", f"{show(host.value)} is no host name", "write a lower case name without port"
                    )
        if (options := entry.get("http_options")) is not None:
            _check_http(options)
        _check_targets(entry)


def _check_port(entry: Place) -> None:
    if entry.get("port") is None:
        entry.add("missing-key", f"{entry} has no port", "add port: and the number the container listens on")
    for key in ("port", "as"):
        place = entry.get(key)
        number = place.integer() if place else None
        if place and number is not None and not 1 <= number <= 65535:
            place.add("port", f"{place} is {show(number)}", "use 1 to 65535")
    proto = entry.get("proto")
    if proto and not proto.one_of("TCP", "UDP", "tcp", "udp"):
        proto.add("proto", f"{show(proto.value)} is no protocol", "write TCP or UDP; HTTP is TCP with as: 80")


def _check_targets(entry: Place) -> None:
    to = entry.get("to")
    if to is None or to.value == []:
        entry.add(
            "expose-to",
            f"{entry} does not say to whom: it reaches nobody or the other services, by the tool that reads it",
            "add to: with global: true or service: NAME",
        )
        return
    for target in to.items():
        if not target.mapping(("global", "service", "ip")):
            continue
        for key, kind in (("global", bool), ("service", str), ("ip", str)):
            place = target.get(key)
            if place is not None and not isinstance(place.value, kind):
                place.wrong("true or false, without quotes" if kind is bool else "text")
        if (ip := target.get("ip")) is not None and target.value.get("global") is not True:
            ip.add("ip-global", "a leased IP needs a global port", "add global: true beside it")
        if not target.value.get("global") and not target.value.get("service"):
            target.add("expose-to", f"{target} names nobody", "write global: true or service: NAME")


def _check_http(options: Place) -> None:
    if not options.mapping((*_LIMITS, "next_cases")):
        return
    for key, (limit, unit) in _LIMITS.items():
        place = options.get(key)
        number = place.integer() if place else None
        if place and number is not None and not 0 <= number <= limit:
            place.add("http-limit", f"{place} is {show(number)}", f"use 0 to {limit} {unit}")
    if buffer := options.get("proxy_buffer_size"):
        buffer.add(
            "newer-key", f"{buffer} needs chain-sdk 1.0.0-alpha.39 or newer", "deploy with a current tool"
        )
    cases = options.get("next_cases")
    for case in cases.items() if cases else ():
        if not isinstance(case.value, str) or case.value not in _CASES:
            hint = "quote it" if str(case.value).lower() in {*_CASES, "false"} else f"use {', '.join(_CASES)}"
            case.add("http-next-cases", f"{show(case.value)} is no next case", hint)
        elif case.value == "off" and cases and len(cases.value) > 1:
            case.add("http-next-cases", "off stands beside other cases", 'write next_cases: ["off"]')


def check_endpoints(root: Place) -> None:
    """Leased IPs: declared well, used at least once, each port once."""
    services = root.value.get("services")
    endpoints = root.get("endpoints")
    declared: dict[str, Place] = {}
    if endpoints is not None and endpoints.mapping():
        for name, endpoint in endpoints.children():
            declared[name] = endpoint
            if not _ENDPOINT.fullmatch(name):
                endpoint.add(
                    "endpoint-name", f"{show(name)} is no endpoint name", "use two or more of a-z, 0-9, - and _"
                )
            if endpoint.mapping(("kind",), ("kind",)) and endpoint.value["kind"] != "ip":
                endpoint.child("kind").add("endpoint-kind", "the only kind of endpoint is ip", "write kind: ip")
    used = _used_ips(root, declared) if isinstance(services, dict) else set()
    for name, endpoint in declared.items():
        if name not in used:
            endpoint.add("endpoint-unused", f"no service uses the endpoint {show(name)}", "remove it")


def _used_ips(root: Place, declared: dict[str, Place]) -> set[str]:
    used: set[str] = set()
    taken: dict[tuple[str, str, str], str] = {}
    for name, entry, target in targets(root):
        ip = target.get("ip")
        if ip is None or not isinstance(ip.value, str):
            continue
        used.add(ip.value)
        if ip.value not in declared:
            ip.add("endpoint-unknown", f"no endpoint is named {show(ip.value)}", "declare it under endpoints:")
        outside = entry.value.get("as") or entry.value.get("port")
        key = (ip.value, str(outside), str(entry.value.get("proto") or "TCP").upper())
        if key in taken:
            ip.add(
                "ip-port-taken", f"port {show(outside)} of this IP is taken by {taken[key]}", "use another port"
            )
        taken.setdefault(key, name[:60])
    return used


def targets(root: Place) -> Iterator[tuple[str, Place, Place]]:
    """(service, expose entry, one of its `to`) over the whole file, whatever is well-formed of it."""
    services = root.get("services")
    for name, service in services.children() if services and isinstance(services.value, dict) else ():
        expose = service.get("expose") if isinstance(service.value, dict) else None
        for entry in expose.items() if expose and isinstance(expose.value, list) else ():
            to = entry.get("to")
            for target in to.items() if to and isinstance(to.value, list) else ():
                if isinstance(target.value, dict):
                    yield name, entry, target


def check_reach(root: Place) -> None:
    """What the world reaches: at least one port, better one with TLS, with sane HTTP options."""
    services = root.get("services")
    if services is None or not isinstance(services.value, dict) or not services.value:
        return
    hosts: set[str] = set()
    ingress: list[Place] = []
    world = False
    names = set(services.value)
    seen: set[int] = set()
    for _, entry, target in targets(root):
        if target.value.get("global") is True:
            world = True
            if _is_ingress(entry) and id(entry.value) not in seen:
                ingress.append(entry)
        service = target.value.get("service")
        if isinstance(service, str) and service and service not in names:
            target.add("expose-service", f"there is no service {show(service)}", "name a service of this file")
        if id(entry.value) not in seen:
            seen.add(id(entry.value))
            _check_hosts(entry, hosts)
    if not world:
        services.add("global-none", "no port is open to the world", "add to: [{global: true}] to one port")
    elif not ingress:
        services.add(
            "ingress-none",
            "no global port is port 80: clients get a random port of the provider, without host name or TLS",
            "add as: 80 to the HTTP port",
        )
    for entry in ingress:
        _check_serving(entry)
    if len(ingress) > 1:
        ingress[1].add("ingress-many", "more than one port is the HTTP ingress", "check that both are meant")


def _is_ingress(entry: Place) -> bool:
    outside = entry.value.get("as") or entry.value.get("port")
    return outside == 80 and str(entry.value.get("proto") or "TCP").upper() == "TCP"


def _check_hosts(entry: Place, hosts: set[str]) -> None:
    accept = entry.get("accept")
    for host in accept.items() if accept and isinstance(accept.value, list) else ():
        if isinstance(host.value, str):
            if host.value in hosts:
                host.add("accept", f"the host {show(host.value)} stands twice", "keep it in one place")
            hosts.add(host.value)


def _check_serving(entry: Place) -> None:
    options = entry.get("http_options")
    if options is None or not isinstance(options.value, dict) or "max_body_size" not in options.value:
        entry.add(
            "http-defaults",
            "the ingress cuts request bodies at 1 MiB: large prompts and images fail",
            "add http_options: {max_body_size: 104857600}",
        )
    if options is None or not isinstance(options.value, dict) or options.value.get("next_cases") != ["off"]:
        entry.add(
            "http-retries",
            "the ingress sends a POST again when the first try fails or is slow",
            'add next_cases: ["off"] to http_options',
        )
