"""A place in an SDL: its value, its line, and the questions that the rules ask of both."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from akashllm.sdl.document import Document, Path
from akashllm.sdl.findings import Finding
from akashllm.sdl.rules.catalogue import RULES

_TYPES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
MAX_FINDINGS = 500


def show(value: Any) -> str:
    """A value for a person: on one line, short, with nothing a terminal would act on."""
    text = value if isinstance(value, str) else _word(value)
    text = "".join(character if character.isprintable() else "?" for character in text[:61])
    return f'"{text[:60]}..."' if len(text) > 60 else f'"{text}"'


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(slots=True)
class Report:
    """The findings so far. A hostile file gets the first few hundred."""

    document: Document
    findings: list[Finding] = field(default_factory=list)

    def add(self, path: Path, rule: str, message: str, fix: str) -> None:
        """Note one broken rule."""
        if len(self.findings) < MAX_FINDINGS:
            severity, _ = RULES[rule]
            self.findings.append(Finding(self.document.line(path), rule, severity, message, fix))


@dataclass(frozen=True, slots=True)
class Place:
    """One value of the document. Its questions answer None (or False) after they have reported a fault."""

    report: Report
    path: Path
    value: Any

    def __str__(self) -> str:
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        return "".join(character if character.isprintable() else "?" for character in text)[:120]

    def add(self, rule: str, message: str, fix: str) -> None:
        """Report a rule broken here."""
        self.report.add(self.path, rule, message, fix)

    def child(self, key: str | int) -> Place:
        """A place below; its value must exist."""
        return Place(self.report, (*self.path, key), self.value[key])

    def get(self, key: str) -> Place | None:
        """A place below, or None if the key is absent or null."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return None if value is None else Place(self.report, (*self.path, key), value)

    def wrong(self, wanted: str) -> None:
        """Report that the type is wrong."""
        found = "null" if self.value is None else _TYPES.get(type(self.value), "something else")
        self.add("wrong-type", f"{self} is {found}", f"write {wanted}")

    def mapping(
        self,
        known: Collection[str] | None = None,
        required: Collection[str] = (),
        *,
        nullable: Collection[str] = (),
    ) -> bool:
        """Whether this is a mapping with all required keys.

        Unknown keys, and keys without a value that are neither required nor `nullable`, are reported but do
        not make it False.
        """
        if not isinstance(self.value, dict):
            self.wrong("a mapping")
            return False
        if known is not None:
            for key in self.value:
                if key not in known:
                    self._unknown(key, known)
                elif self.value[key] is None and key not in required and key not in nullable:
                    self.child(key).add(
                        "wrong-type", f"{self.child(key)} has no value", "write one, or remove the line"
                    )
        missing = [key for key in required if key not in self.value]
        for key in missing:
            self.add("missing-key", f"{self if self.path else 'the file'} has no {key}", f"add {key}:")
        return not missing

    def _unknown(self, key: str, known: Collection[str]) -> None:
        close = difflib.get_close_matches(key[:64], known, n=1)
        fix = f"write {close[0]}" if close else f"remove it; known here: {', '.join(sorted(known))}"
        where = f" in {self}" if self.path else ""
        self.report.add((*self.path, key), "unknown-key", f"{show(key)}{where} is not part of an SDL", fix)

    def children(self) -> Iterator[tuple[str, Place]]:
        """The entries of a mapping."""
        for key in self.value:
            yield key, self.child(key)

    def items(self) -> Iterator[Place]:
        """The entries of a list; reports and yields nothing if it is none."""
        if not isinstance(self.value, list):
            self.wrong("a list, one - a line")
            return
        for index in range(len(self.value)):
            yield self.child(index)

    def one_of(self, *words: str) -> bool:
        """Whether this is one of these words."""
        return isinstance(self.value, str) and self.value in words

    def text(self) -> str | None:
        """Text, or None."""
        if isinstance(self.value, str):
            return self.value
        self.wrong("text, in quotes")
        return None

    def texts(self) -> list[Place]:
        """The entries of a list that are text; the others are reported."""
        return [item for item in self.items() if item.text() is not None]

    def integer(self) -> int | None:
        """A whole number, or None."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return self.value
        self.wrong("a whole number, without quotes")
        return None

    def boolean(self) -> bool | None:
        """A boolean, or None."""
        if isinstance(self.value, bool):
            return self.value
        self.wrong("true or false, without quotes")
        return None
