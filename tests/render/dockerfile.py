"""A small reader and linter of Dockerfiles: what hadolint would say about the things that matter here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

INSTRUCTIONS = frozenset(
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN"}
    | {"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its continuation lines joined and comments left out."""

    line: int
    name: str
    value: str


def read(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile."""
    found: list[Instruction] = []
    start, parts = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        if not parts:
            start = number
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            name, _, value = " ".join(parts).strip().partition(" ")
            found.append(Instruction(start, name, value.strip()))
            parts = []
    assert not parts, "the file ends inside an instruction"
    return found


def lint(text: str) -> list[str]:
    """What is wrong with a Dockerfile of ours, one line each."""
    faults: list[str] = []
    instructions = read(text)
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    user = ""
    for item in instructions:
        at = f"line {item.line}: "
        if item.name not in INSTRUCTIONS:
            faults.append(at + f"{item.name} is no instruction we use")
        if item.name == "ARG":
            name, _, value = item.value.partition("=")
            arguments[name] = expand(value.strip('"'), arguments)
        if item.name == "FROM":
            image, _, stage = item.value.partition(" AS ")
            image = expand(image, arguments)
            if image not in stages and "@sha256:" not in image:
                faults.append(at + f"the base {image} is not pinned")
            if not stage:
                faults.append(at + "a stage has no name")
            stages.add(stage)
            user = ""
        if item.name == "USER":
            user = expand(item.value, arguments)
        if item.name == "ADD":
            faults.append(at + "COPY instead of ADD")
        if item.name in {"CMD", "ENTRYPOINT", "VOLUME", "SHELL"} and not _is_list(item.value):
            faults.append(at + f"{item.name} is not in its JSON form")
        if item.name == "HEALTHCHECK" and not _is_list(item.value.partition("CMD ")[2]):
            faults.append(at + "HEALTHCHECK is not in its JSON form")
        if item.name in {"ENV", "ARG"} and re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*=", item.value):
            faults.append(at + "a secret in the image")
        if item.name == "RUN":
            faults += [at + fault for fault in _run(item.value)]
    if user.split(":")[0] in {"", "0", "root"}:
        faults.append("the last stage runs as root")
    return faults


def expand(text: str, arguments: dict[str, str]) -> str:
    """`${NAME}` replaced by the argument's default."""
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], text)


def _is_list(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _run(command: str) -> list[str]:
    faults = []
    if re.search(r"(curl|wget)[^|;&]*\|", command):
        faults.append("pipes a download into something")
    if "--mount" in command:
        faults.append("needs BuildKit")
    if "apt-get install" in command:
        if "--no-install-recommends" not in command or "rm -rf /var/lib/apt/lists" not in command:
            faults.append("apt-get leaves recommended packages or its lists behind")
        if "apt-get update" not in command:
            faults.append("apt-get install without update")
    for call in re.findall(r"pip (?:--python \S+ )?install.*?(?=&&|;|$)", command):
        local = "--no-index" in call
        if "--no-cache-dir" not in call or "--no-deps" not in call or not (local or "--require-hashes" in call):
            faults.append("pip install without lock, hashes or with a cache")
    if "sudo" in command.split() or "chmod 777" in command:
        faults.append("too many rights")
    return faults
