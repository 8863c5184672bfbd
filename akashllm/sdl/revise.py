"""An SDL with one variable more: everything else keeps its bytes."""

from __future__ import annotations

import re

from akashllm.errors import UsageError
from akashllm.sdl.document import BadYaml, Document, Path, parse
from akashllm.sdl.secrets import quote

_ITEM = re.compile(r"[ \t]*-[ \t]+")


def with_variable(text: str, name: str, value: str) -> str:
    """The SDL with `name` set to `value` in every service. Raises `UsageError` where it has no place for it."""
    count = len(parse(text).data.get("services") or {})
    for place in range(count):
        document = parse(text)
        service = sorted(document.data["services"])[place]
        text = _set(document, service, name, quote(f"{name}={value}"))
    try:
        found = parse(text).data["services"]
    except BadYaml:
        found = {"": {}}
    if any(f"{name}={value}" not in (service.get("env") or ()) for service in found.values()):
        raise UsageError(f"{name} cannot be set in this SDL", hint="write its env as a list, one item a line")
    return text


def _set(document: Document, service: str, name: str, item: str) -> str:
    text = document.text
    items = [path for path in document.spans if path[:3] == ("services", service, "env") and len(path) == 4]
    for path in items:
        if str(_value(document, path)).partition("=")[0] == name:
            start, end = document.spans[path]
            return text[:start] + item + text[end:]
    if items:
        start, _ = document.spans[min(items, key=lambda path: document.spans[path])]
        lead = text[text.rfind("\n", 0, start) + 1 : start]
        return text[:start] + item + (f"\n{lead}" if _ITEM.fullmatch(lead) else ", ") + text[start:]
    image = document.spans.get(("services", service, "image"))
    if image is None:
        return text
    begin = text.rfind("\n", 0, image[0]) + 1
    indent = text[begin : begin + len(text[begin:]) - len(text[begin:].lstrip(" \t"))]
    end = text.find("\n", image[1])
    end = len(text) if end < 0 else end
    return f"{text[:end]}\n{indent}env:\n{indent}  - {item}{text[end:]}"


def _value(document: Document, path: Path) -> object:
    return document.data["services"][path[1]]["env"][path[3]]
