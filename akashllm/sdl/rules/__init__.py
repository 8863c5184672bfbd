"""Every rule of an SDL, over anyone's file."""

from __future__ import annotations

from akashllm.sdl.document import BadYaml, Document, parse
from akashllm.sdl.findings import Finding
from akashllm.sdl.rules.catalogue import RULES
from akashllm.sdl.rules.compute import check_compute
from akashllm.sdl.rules.deployment import check_deployment, check_reclamation
from akashllm.sdl.rules.exposure import check_endpoints, check_reach
from akashllm.sdl.rules.place import Place, Report, show
from akashllm.sdl.rules.placement import check_placement
from akashllm.sdl.rules.services import check_services

__all__ = ["RULES", "check", "validate"]

_TOP = ("version", "services", "profiles", "deployment", "endpoints", "include", "reclamation")


def validate(text: str) -> list[Finding]:
    """What is wrong with an SDL, by line; empty if nothing is. Never raises on a malformed or hostile file."""
    try:
        return check(parse(text))
    except BadYaml as error:
        severity, _ = RULES[error.rule]
        return [Finding(error.line, error.rule, severity, error.message, error.fix)]


def check(document: Document) -> list[Finding]:
    """The findings for a file that is YAML, by line and rule."""
    report = Report(document)
    root = Place(report, (), document.data)
    root.mapping(_TOP, ("version", "services", "profiles", "deployment"))
    if "version" in document.data:
        _check_version(root.child("version"))
    if include := root.get("include"):
        include.texts()
        include.add("no-effect", "include is read and never used", "remove it")
    if services := root.get("services"):
        check_services(services)
    elif "services" in document.data:
        root.child("services").add("services-empty", "there are no services", "add one under services:")
    for key in ("profiles", "deployment"):
        if key in document.data and document.data[key] is None:
            root.child(key).wrong("a mapping")
    profiles = root.get("profiles")
    if profiles is not None and profiles.mapping(("compute", "placement"), ("compute", "placement")):
        for key in ("compute", "placement"):
            if profiles.value[key] is None:
                profiles.child(key).wrong("a mapping")
        check_compute(profiles)
        check_placement(profiles)
    check_endpoints(root)
    check_reach(root)
    check_deployment(root)
    check_reclamation(root)
    return sorted(set(report.findings))


def _check_version(version: Place) -> None:
    if version.one_of("2.0", "2.1"):
        return
    unquoted = isinstance(version.value, float) and version.value in (2.0, 2.1)
    version.add(
        "version",
        "the version is a number" if unquoted else f"{show(version.value)} is no version of the SDL",
        f'write version: "{version.value if unquoted else "2.0"}", with quotes',
    )
