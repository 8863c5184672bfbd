"""YAML text to plain data that remembers its lines: YAML 1.2, bounded in size, depth and nodes.

The tree is built here from the parser's events, so that a hostile file (aliases that multiply, deep nesting,
tags that build objects, many documents) meets a limit before it costs anything. Nothing in a file can run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

MAX_BYTES = 512 * 1024
"""The Console refuses a larger SDL."""

MAX_DEPTH = 40
MAX_NODES = 40_000

Path = tuple[str | int, ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CORE = "tag:yaml.org,2002:"


class BadYaml(Exception):
    """The text is not one YAML document of a sane size. `line` counts from 1; `rule` names what broke."""

    def __init__(self, line: int, rule: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.line = line
        self.rule = rule
        self.message = message
        self.fix = fix


@dataclass(slots=True)
class _Node:
    line: int
    start: int
    end: int
    kind: str
    value: Any = None
    items: list[_Node] = field(default_factory=list)
    keys: list[_Node] = field(default_factory=list)
    alias: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) with the place of every value.

    lines   path of keys and indexes -> line, from 1; a key's line, not its value's
    spans   path of a scalar value -> (start, end) offsets in `text`
    """

    text: str
    data: dict[str, Any]
    lines: Mapping[Path, int]
    spans: Mapping[Path, tuple[int, int]]

    def line(self, path: Path) -> int:
        """The line of a path, or of its nearest ancestor that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str) -> Document:
    """Read one YAML document whose root is a mapping; `BadYaml` says where and why it is not."""
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise BadYaml(1, "yaml-size", f"the file is larger than {MAX_BYTES // 1024} KiB", "an SDL is a few KiB")
    text = text.removeprefix("\ufeff")
    root = _compose(text)
    if root is None or root.kind != "map":
        raise BadYaml(
            root.line if root else 1,
            "yaml-root",
            "the file is not a mapping" if root else "the file is empty",
            "start with version:, services:, profiles:, deployment:",
        )
    builder = _Builder()
    data = builder.build(root, (), root.line)
    assert isinstance(data, dict)
    return Document(text, data, builder.lines, builder.spans)


def _events(text: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        problem = " ".join(str(error.problem or error.context or "malformed").split())[:200]
        raise BadYaml(line, "yaml-syntax", f"not YAML: {problem}", "check the indentation and quotes") from None
    except (YAMLError, ValueError, IndexError, AssertionError, TypeError, AttributeError, KeyError):
        # The parser has more ways to give up on garbage than its own error classes.
        raise BadYaml(
            1, "yaml-syntax", "not YAML: a character is not allowed here", "save it as UTF-8 text"
        ) from None


def _compose(text: str) -> _Node | None:
    """The node tree of the only document. Depth and count are bounded while it grows."""
    anchors: dict[str, _Node] = {}
    stack: list[tuple[_Node, str]] = []
    root: _Node | None = None
    pending: list[_Node] = []
    documents = count = 0
    for event in _events(text):
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise BadYaml(
                    line, "yaml-documents", "the file holds more than one document", "keep one, remove ---"
                )
            continue
        if isinstance(event, (SequenceEndEvent, MappingEndEvent)):
            node, _ = stack.pop()
            if node.kind == "map":
                pairs = node.items
                node.keys, node.items = pairs[0::2], pairs[1::2]
            continue
        if not isinstance(event, (AliasEvent, ScalarEvent, SequenceStartEvent, MappingStartEvent)):
            continue
        count += 1
        if count > MAX_NODES:
            raise BadYaml(
                line, "yaml-size", f"the file holds more than {MAX_NODES} values", "an SDL has a few hundred"
            )
        node = _node(event, line, anchors)
        if stack:
            stack[-1][0].items.append(node)
        else:
            root = node
        if isinstance(event, (SequenceStartEvent, MappingStartEvent)):
            if len(stack) >= MAX_DEPTH:
                raise BadYaml(
                    line, "yaml-depth", f"nested deeper than {MAX_DEPTH} levels", "an SDL needs about ten"
                )
            stack.append((node, node.kind))
        pending.clear()
    return root


def _node(event: Any, line: int, anchors: dict[str, _Node]) -> _Node:
    start, end = event.start_mark.index, event.end_mark.index
    if isinstance(event, AliasEvent):
        found = anchors.get(event.anchor)
        if found is None:
            raise BadYaml(
                line, "yaml-alias", f"*{event.anchor[:40]} names no anchor", "define it first with &name"
            )
        return _Node(line, start, end, "alias", found)
    tag = str(getattr(event, "tag", None) or "")
    kind = (
        "scalar"
        if isinstance(event, ScalarEvent)
        else "seq"
        if isinstance(event, SequenceStartEvent)
        else "map"
    )
    node = _Node(line, start, end, kind)
    if kind == "scalar":
        node.value = _scalar(event.value, tag, plain=event.style is None, line=line)
    elif tag and tag not in {"!", _CORE + kind}:
        raise BadYaml(line, "yaml-tag", f"the tag {tag[:60]!r} has no meaning in an SDL", "remove the tag")
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _scalar(text: str, tag: str, *, plain: bool, line: int) -> Any:
    """A scalar by YAML 1.2's core schema: `off`, `yes` and `012` are what they look like to Go's and Node's."""
    if tag and tag != "!":
        short = tag.removeprefix(_CORE)
        if short == "str":
            return text
        if short not in {"int", "float", "bool", "null"} or tag == short:
            raise BadYaml(line, "yaml-tag", f"the tag {tag[:60]!r} has no meaning in an SDL", "remove the tag")
        plain = True
    if not plain or tag == "!":
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if len(text) <= 64 and _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Builder:
    """Nodes to data; aliases are expanded here, so the count of nodes is bounded again."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.spans: dict[Path, tuple[int, int]] = {}
        self.count = 0
        self.open: set[int] = set()
        self.alias_line: int | None = None

    def build(self, node: _Node, path: Path, line: int) -> Any:
        self.count += 1
        if self.count > MAX_NODES or len(path) > 2 * MAX_DEPTH:
            place = self.alias_line or line
            raise BadYaml(place, "yaml-alias", "aliases make the file explode", "write the values out")
        self.lines[path] = line
        target = node
        while target.kind == "alias":
            target = target.value
        outermost = self.alias_line
        if target is not node and outermost is None:
            self.alias_line = node.line
        if target.kind == "scalar":
            if target is node:
                self.spans[path] = (node.start, node.end)
            self.alias_line = outermost
            return target.value
        if id(target) in self.open:
            raise BadYaml(line, "yaml-alias", "an alias contains itself", "write the values out")
        self.open.add(id(target))
        try:
            if target.kind == "seq":
                return [self.build(item, (*path, i), item.line) for i, item in enumerate(target.items)]
            return self._mapping(target, path)
        finally:
            self.open.discard(id(target))
            self.alias_line = outermost

    def _mapping(self, node: _Node, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[tuple[_Node, int]] = []
        for key, item in zip(node.keys, node.items, strict=True):
            if key.kind == "scalar" and key.value == "<<":
                merged.append((item, key.line))
                continue
            name = key.value if key.kind == "scalar" else None
            if isinstance(name, (bool, int, float)):
                name = str(name).lower()
            if not isinstance(name, str):
                raise BadYaml(key.line, "yaml-key", "a key is not plain text", "quote the key")
            if name in result:
                raise BadYaml(
                    key.line, "yaml-duplicate-key", f"the key {name[:60]!r} stands twice", "keep one of them"
                )
            result[name] = self.build(item, (*path, name), key.line)
        for item, line in merged:
            self._merge(item, path, line, result)
        return result

    def _merge(self, item: _Node, path: Path, line: int, result: dict[str, Any]) -> None:
        """`<<`: what the merged mappings hold and this one does not, the first one winning."""
        while item.kind == "alias":
            item = item.value
        for source in item.items if item.kind == "seq" else [item]:
            before = dict(self.lines), dict(self.spans)
            value = self.build(source, (*path, "<<"), line)
            self.lines, self.spans = before
            if not isinstance(value, dict):
                raise BadYaml(line, "yaml-merge", "<< merges something that is not a mapping", "name a mapping")
            for name, entry in value.items():
                if name not in result:
                    result[name] = entry
                    self.lines[(*path, name)] = line
