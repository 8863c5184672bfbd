"""Modelfiles: Ollama's recipe of a model, read and written.

The grammar is that of Ollama's `parser/parser.go`: one command a line, names in any case. A value is bare to
the end of its line, or in one or three double quotes and may then have line breaks; nothing is escaped. A quote
ends where a line ends with it. Control characters are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from akashllm.errors import BadRequest
from akashllm.server.models import parameters

COMMANDS: Final = (
    *(
        "from",
        "license",
        "template",
        "system",
        "adapter",
        "draft",
        "renderer",
        "parser",
        "parameter",
        "message",
    ),
    "requires",
)
ROLES: Final = ("system", "user", "assistant")

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SPACES: Final = " \t"
_LINE: Final = re.compile(r"\r\n|\r|\n")
_WORD: Final = re.compile(r"[A-Za-z]+", re.ASCII)
_PARAMETER: Final = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_VERSION: Final = re.compile(r"v?\d{1,9}(\.\d{1,9}){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)
_QUOTES: Final = ('"' * 3, '"')

_NO_COMMAND: Final = (
    "command must be one of " + ", ".join(f'"{name}"' for name in COMMANDS[:-1]) + f', or "{COMMANDS[-1]}"'
)
_NO_ROLE: Final = 'message role must be one of "system", "user", or "assistant"'


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `name` is in lower case; `key` is a PARAMETER's name or a MESSAGE's role."""

    name: str
    value: str
    key: str = ""
    line: int = 0

    def __str__(self) -> str:
        head = f"{self.name.upper()} {self.key}".rstrip()
        return f"{head} {quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands of a Modelfile, in order."""

    commands: tuple[Command, ...]

    @classmethod
    def read(cls, source: str | bytes) -> Modelfile:
        """Raises `BadRequest` in Ollama's words, with the line."""
        commands = tuple(_commands(_decoded(source) if isinstance(source, bytes) else source))
        found = cls(commands)
        if not found.all("from"):
            raise BadRequest("no FROM line", param="modelfile")
        for command in commands:
            if command.name == "requires" and not _VERSION.fullmatch(command.value):
                raise _fault(command.line, "requires must be a valid semver (e.g. 0.14.0)")
        return found

    def __str__(self) -> str:
        return "".join(f"{command}\n" for command in self.commands)

    def all(self, name: str) -> list[str]:
        """The values of a command, in order."""
        return [command.value for command in self.commands if command.name == name]

    def last(self, name: str) -> str | None:
        """The value of a command that counts once: the last one."""
        return next(reversed(self.all(name)), None)

    @property
    def parameters(self) -> dict[str, Any]:
        """PARAMETERs, typed. Raises `BadRequest` for unknown names and values of another type."""
        found: list[tuple[str, str]] = []
        for command in self.commands:
            if command.name == "parameter":
                found.append((command.key, command.value))
                try:
                    parameters.written(found[-1:])
                except BadRequest as error:
                    raise _fault(command.line, error.message) from error
        return parameters.written(found)

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """MESSAGEs as (role, content)."""
        return tuple((command.key, command.value) for command in self.commands if command.name == "message")


def quoted(value: str) -> str:
    """A value as it has to be written to be read again. One whose line ends in three quotes cannot be."""
    bare = value.strip() == value and not _LINE.search(value) and not value.startswith('"')
    if bare and value:
        return value
    mark = _QUOTES[0] if '"' in value else _QUOTES[1]
    return f"{mark}{value}{mark}"


def _decoded(source: bytes) -> str:
    for mark, encoding in _BOMS:
        if source.startswith(mark):
            return source.decode(encoding, "replace")
    return source.decode("utf-8", "replace")


def _commands(source: str) -> Iterator[Command]:
    text = source.removeprefix("\ufeff")
    lines = _Lines(text)
    while (line := lines.next()) is not None:
        rest = line.lstrip(_SPACES)
        if not rest or rest.startswith("#"):
            continue
        at = lines.number
        name, rest = _first(_WORD, rest)
        command = name.lower()
        if command not in COMMANDS or not rest:
            raise _fault(at, _NO_COMMAND)
        key = ""
        if command in {"parameter", "message"}:
            key, rest = _first(_PARAMETER if command == "parameter" else _WORD, rest.lstrip(_SPACES))
            if command == "message" and key not in ROLES:
                raise _fault(at, _NO_ROLE)
            if not key or not rest:
                raise BadRequest(
                    f"unexpected EOF: the {command.upper()} on line {at} has no value", param="modelfile"
                )
        yield Command(command, _CONTROL.sub("", lines.value(rest, at)), key, at)


class _Lines:
    """The lines of a text, with their ends at hand for values that go on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._end = ""
        self.number = 0

    def next(self) -> str | None:
        """The next line, None after the last."""
        if self._at >= len(self._text):
            return None
        found = _LINE.search(self._text, self._at)
        stop = found.start() if found else len(self._text)
        line, self._end = self._text[self._at : stop], found[0] if found else ""
        self._at = found.end() if found else len(self._text)
        self.number += 1
        return line

    def value(self, first: str, at: int) -> str:
        """The value that begins with `first` on line `at`: up to the end of a line that closes its quote."""
        held, last = first.strip(), first
        parts: list[str] = [first.lstrip()]
        mark = next((mark for mark in _QUOTES if held.startswith(mark)), "")
        if not mark:
            return held
        size = len(held)
        while not (last.rstrip().endswith(mark) and size >= 2 * len(mark)):
            parts.append(self._end)
            line = self.next()
            if line is None:
                raise BadRequest(f"unexpected EOF: the quote on line {at} is never closed", param="modelfile")
            last = line
            parts.append(line)
            size += len(line) + 1
        whole = "".join(parts).rstrip()
        return whole[len(mark) : -len(mark)]


def _first(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    """The word a text begins with, and what follows its space; the rest is empty if no space does."""
    found = pattern.match(text)
    end = found.end() if found else 0
    if not found or text[end : end + 1] not in {" ", "\t"}:
        return (text[:end] if end == len(text) else ""), ""
    return found[0], text[end:]


def _fault(line: int, words: str) -> BadRequest:
    return BadRequest(f"(line {line}): {words}", param="modelfile")
