"""Rules for a service: its image, its environment, its login, its mounts and permissions."""

from __future__ import annotations

import re

from akashllm.sdl.rules.exposure import check_expose
from akashllm.sdl.rules.place import Place, show
from akashllm.sdl.secrets import SEALED, is_placeholder

SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_IMAGE = re.compile(
    r"(?:(?P<host>[a-zA-Z0-9.-]+(?::[0-9]+)?)/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?P<digest>@sha256:[0-9a-f]{64})?"
)
_SECRET = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)")
_HARMLESS = re.compile(r"[0-9.]*|true|false|yes|no|on|off", re.IGNORECASE)
_KEYS = ("image", "command", "args", "env", "credentials", "expose", "params", "dependencies")
_FOREIGN = {
    "depends_on": "services of one placement start together: wait in the container",
    "depends-on": "services of one placement start together: wait in the container",
    "healthcheck": "Akash has no probes: have the container check itself",
    "volumes": "declare them under profiles.compute.*.resources.storage and mount them under params.storage",
    "restart": "containers are always restarted",
    "privileged": "providers run no privileged containers",
    "environment": "write env: as a list of NAME=value",
    "ports": "write expose:",
    "entrypoint": "write command:",
    "deploy": "write profiles: and deployment:",
}


def check_services(services: Place) -> None:
    """Every service by itself; what needs other sections is in `deployment`."""
    if not services.mapping():
        return
    if not services.value:
        services.add("services-empty", "there are no services", "add one under services:")
    for name, service in services.children():
        if not SERVICE_NAME.fullmatch(name) or len(name) > 63:
            service.add(
                "service-name",
                f"the service name {show(name)} is not a DNS label",
                "use lower case letters, digits and dashes, starting with a letter",
            )
        _check_service(service)


def _check_service(service: Place) -> None:
    if not isinstance(service.value, dict):
        service.wrong("a mapping with image: and expose:")
        return
    known = {*_KEYS, *(key for key in _FOREIGN if key in service.value)}
    for key in service.value:
        if key in _FOREIGN:
            service.child(key).add("unknown-key", f'"{key}" in {service} is not part of an SDL', _FOREIGN[key])
    service.mapping(known, required=("image",), nullable=("command", "args", "env", "expose", *_FOREIGN))
    if "image" in service.value:
        _check_image(service.child("image"))
    for key in ("command", "args"):
        if place := service.get(key):
            place.texts()
    if env := service.get("env"):
        _check_env(env)
    if credentials := service.get("credentials"):
        _check_credentials(credentials)
    if expose := service.get("expose"):
        check_expose(expose)
    if params := service.get("params"):
        _check_params(params)
    if dependencies := service.get("dependencies"):
        dependencies.add("no-effect", f"{dependencies} does nothing", "remove it and wait in the container")
        for item in dependencies.items():
            item.mapping(("service",))


def _check_image(image: Place) -> None:
    text = image.text()
    if text is None:
        return
    match = _IMAGE.fullmatch(text) if len(text) <= 512 else None
    if not match:
        what = "is empty" if not text.strip() else f"{show(text)} is no image reference"
        image.add("image", f"{image} {what}", "write it as name:tag or name@sha256:...")
        return
    if match["digest"]:
        return
    if match["tag"] in {None, "latest"}:
        image.add(
            "image-tag",
            f"{show(text)} has no fixed version: a node that has a copy keeps it for ever",
            "name a version, or better a digest",
        )
        return
    image.add("image-digest", f"{show(text)} is not pinned by digest", "add @sha256:... after the tag")


def _check_env(env: Place) -> None:
    seen: set[str] = set()
    for entry in env.texts():
        name, equals, value = entry.value.partition("=")
        if not _ENV_NAME.fullmatch(name) or name in {".", ".."} or name.startswith(".."):
            entry.add(
                "env-name",
                f"{show(name)} cannot name an environment variable",
                "write NAME=value without spaces around the name",
            )
            continue
        if name in seen:
            entry.add("env-duplicate", f"{name} is set twice", "keep the one you mean")
        seen.add(name)
        if equals and _SECRET.search(name.upper()) and not _hidden(value):
            entry.add(
                "env-secret",
                f"the value of {name} stands in the file",
                f"write {name}=${{{re.sub('[^A-Z0-9_]', '_', name.upper())}}} and fill it at deploy time",
            )
        if "$(" in value or "$$" in value:
            entry.add(
                "env-dollar", f"Kubernetes rewrites a dollar sign in {name}", "write $$ for one dollar sign"
            )


def _hidden(value: str) -> bool:
    return is_placeholder(value) or value.startswith(SEALED) or _HARMLESS.fullmatch(value) is not None


def _check_credentials(login: Place) -> None:
    if not login.mapping(("host", "username", "password", "email"), ("host", "username", "password")):
        return
    least = {"host": 1, "username": 1, "password": 6, "email": 5}
    for key, place in login.children():
        if key not in least or (key == "email" and place.value is None):
            continue
        text = place.text()
        if text is not None and (not text.strip() or len(text) < least[key]):
            place.add(
                "credentials", f"{place} is shorter than {least[key]} characters", "write the whole value"
            )
        elif text is not None and key == "password" and not _hidden(text):
            place.add(
                "credentials-plain", f"{place} stands in the file", "write ${REGISTRY_PASSWORD} and fill it"
            )


def _check_params(params: Place) -> None:
    if not params.mapping(("storage", "permissions", "tee")):
        return
    if (storage := params.get("storage")) and storage.mapping():
        _check_mounts(storage)
    if (permissions := params.get("permissions")) and permissions.mapping(("read",)):
        _check_permissions(permissions)
    if tee := params.get("tee"):
        if not tee.one_of("cpu", "cpu-gpu"):
            tee.add("tee", f"{show(tee.value)} is no kind of TEE", "write cpu or cpu-gpu")
        tee.add("newer-key", f"{tee} needs chain-sdk 1.0.0-alpha.36 or newer", "deploy with a current tool")


def _check_permissions(permissions: Place) -> None:
    read = permissions.get("read")
    for item in read.texts() if read else []:
        if not item.one_of("deployment", "logs", "events"):
            item.add("permissions", f"{show(item.value)} is no permission", "use deployment, logs or events")
        elif item.value == "events":
            item.add(
                "newer-key", f"{item} needs chain-sdk 1.0.0-alpha.30 or newer", "deploy with a current tool"
            )


def _check_mounts(storage: Place) -> None:
    taken: dict[str, str] = {}
    for name, mount in storage.children():
        if not mount.mapping(("mount", "readOnly"), nullable=("mount",)):
            continue
        if (read_only := mount.get("readOnly")) is not None:
            read_only.boolean()
        path = mount.get("mount")
        if path is None:
            mount.add("mount-path", f"the volume {show(name)} has no mount path", "add mount: /path")
            continue
        text = path.text()
        if text is None:
            continue
        if not text.startswith("/"):
            path.add("mount-path", f"the mount path {show(text)} is not absolute", "start it with /")
        elif text in taken:
            path.add(
                "mount-duplicate", f"{show(text)} already holds the volume {taken[text]}", "use another path"
            )
        taken.setdefault(text, name[:60])
