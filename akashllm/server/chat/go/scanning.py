"""From a template's text to tokens: text between actions, and what stands inside them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

LEFT: Final = "{{"
RIGHT: Final = "}}"
KEYWORDS: Final = frozenset(
    {"block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"}
)

_SPACES: Final = " \t\r\n"
_OPEN_COMMENT: Final = "/*"
_CLOSE_COMMENT: Final = "*/"
_TERMINATORS: Final = frozenset(" \t\r\n.,|:)(")
_NUMBER: Final = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?"
    r"|0[bB][01_]*(?:\.[01_]*)?"
    r"|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_CHARACTER: Final = re.compile(r"'(?:[^'\\\n]|\\[^\n])*'")
_RAW: Final = re.compile(r"`[^`]*`")


class Token(NamedTuple):
    """`kind` is a keyword itself, or one of the words used below. `at` is the place in the source."""

    kind: str
    text: str
    at: int
    line: int

    def __str__(self) -> str:
        """As Go names a token in a complaint."""
        if self.kind == "eof":
            return "EOF"
        if self.kind == "error":
            return self.text
        if self.kind in KEYWORDS or self.kind == "dot":
            return f"<{self.text}>"
        return quoted(self.text) if len(self.text) <= 10 else f"{quoted(self.text[:10])}..."


def quoted(text: str) -> str:
    """Text in Go's double quotes, for complaints."""
    return json.dumps(text, ensure_ascii=False)


def scan(source: str) -> Iterator[Token]:
    """All tokens, the last of kind `eof` or `error`."""
    return _Scanner(source).tokens()


class _Scanner:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._line = 1

    def _token(self, kind: str, end: int) -> Token:
        """The token up to `end`, which becomes the place to go on from."""
        token = Token(kind, self._source[self._at : end], self._at, self._line)
        self._skip(end)
        return token

    def _skip(self, end: int) -> None:
        self._line += self._source.count("\n", self._at, end)
        self._at = end

    def _error(self, message: str) -> Token:
        return Token("error", message, self._at, self._line)

    def tokens(self) -> Iterator[Token]:
        source = self._source
        while True:
            left = source.find(LEFT, self._at)
            if left < 0:
                break
            trimmed = _trims_left(source, left + 2)
            text = source[self._at : left]
            end = self._at + len(text.rstrip(_SPACES) if trimmed else text)
            if end > self._at:
                yield self._token("text", end)
            self._skip(left)
            inside = left + 2 + (2 if trimmed else 0)
            if source.startswith(_OPEN_COMMENT, inside):
                fault = self._comment(inside)
                if fault is not None:
                    yield fault
                    return
                continue
            yield self._token("left", left + 2)
            self._skip(inside)
            for token in self._action():
                yield token
                if token.kind == "error":
                    return
        if self._at < len(source):
            yield self._token("text", len(source))
        yield self._token("eof", len(source))

    def _comment(self, start: int) -> Token | None:
        self._skip(start)
        end = self._source.find(_CLOSE_COMMENT, start + 2)
        if end < 0:
            return self._error("unclosed comment")
        end += 2
        trimmed = _trims_right(self._source, end)
        if not trimmed and not self._source.startswith(RIGHT, end):
            return self._error("comment ends before closing delimiter")
        self._close(end, trimmed=trimmed)
        return None

    def _close(self, end: int, *, trimmed: bool) -> None:
        """Step over the right delimiter at `end` and the spaces it trims."""
        end += 4 if trimmed else 2
        if trimmed:
            rest = self._source[end:]
            end += len(rest) - len(rest.lstrip(_SPACES))
        self._skip(end)

    def _action(self) -> Iterator[Token]:
        """The tokens of one action, its right delimiter or an error last."""
        depth = 0
        source = self._source
        while True:
            at = self._at
            trimmed = _trims_right(source, at)
            if trimmed or source.startswith(RIGHT, at):
                if depth:
                    yield self._error("unclosed left paren")
                    return
                if trimmed:
                    self._skip(at + 2)
                yield self._token("right", self._at + 2)
                if trimmed:
                    rest = source[self._at :]
                    self._skip(self._at + len(rest) - len(rest.lstrip(_SPACES)))
                return
            if at >= len(source):
                yield self._error("unclosed action")
                return
            token = self._inside(source[at])
            depth += {"(": 1, ")": -1}.get(token.kind, 0)
            yield token
            if depth < 0:
                yield self._error("unexpected right paren U+0029 ')'")
            if token.kind == "error" or depth < 0:
                return

    def _inside(self, char: str) -> Token:
        at, source = self._at, self._source
        if char in _SPACES:
            return self._space()
        if char in "=|()":
            return self._token({"=": "assign", "|": "pipe"}.get(char, char), at + 1)
        if char == ":":
            return self._token("declare", at + 2) if source.startswith(":=", at) else self._error("expected :=")
        if char == "`":
            return self._matched(_RAW, "raw", "unterminated raw quoted string")
        if char == '"':
            return self._matched(_STRING, "string", "unterminated quoted string")
        if char == "'":
            return self._matched(_CHARACTER, "character", "unterminated character constant")
        if char == "$":
            return self._word(at + 1, "variable", "variable")
        if char == "." and at + 1 < len(source) and not _is_digit(source[at + 1]):
            return self._word(at + 1, "field", "dot")
        if char in "+-." or _is_digit(char):
            return self._number()
        if _is_word(char):
            return self._word(at, "identifier", "identifier")
        if char.isascii() and char.isprintable():
            return self._token("char", at + 1)
        return self._error(f"unrecognized character in action: {_unicode(char)}")

    def _space(self) -> Token:
        source, at = self._source, self._at
        end = at
        while end < len(source) and source[end] in _SPACES:
            end += 1
        # The last space may belong to a right delimiter that trims.
        if _trims_right(source, end - 1):
            end -= 1
        return self._token("space", end)

    def _matched(self, pattern: re.Pattern[str], kind: str, fault: str) -> Token:
        found = pattern.match(self._source, self._at)
        return self._token(kind, found.end()) if found else self._error(fault)

    def _word(self, start: int, kind: str, alone: str) -> Token:
        source, end = self._source, start
        while end < len(source) and _is_word(source[end]):
            end += 1
        following = source[end : end + 1]
        if following and following not in _TERMINATORS and not source.startswith(RIGHT, end):
            return self._error(f"bad character {_unicode(following)}")
        word = source[self._at : end]
        if end == start:
            return self._token(alone, end)
        if kind == "identifier" and word in KEYWORDS:
            return self._token(word, end)
        return self._token("bool" if kind == "identifier" and word in {"true", "false"} else kind, end)

    def _number(self) -> Token:
        end, good = self._digits(self._at)
        if good and self._source[end : end + 1] in {"+", "-"}:
            end, good = self._digits(end)
            good = good and self._source[end - 1] == "i"
        return (
            self._token("number", end)
            if good
            else self._error(f"bad number syntax: {quoted(self._source[self._at : end])}")
        )

    def _digits(self, at: int) -> tuple[int, bool]:
        """Where a number ends, and whether what follows may follow one; if not, one character of that."""
        found = _NUMBER.match(self._source, at)
        end = found.end() if found else at
        following = self._source[end : end + 1]
        wrong = following != "" and _is_word(following)
        return end + wrong, not wrong


def _trims_left(source: str, at: int) -> bool:
    return source[at : at + 1] == "-" and source[at + 1 : at + 2] in {" ", "\t", "\r", "\n"}


def _trims_right(source: str, at: int) -> bool:
    return source[at : at + 1] in {" ", "\t", "\r", "\n"} and source.startswith("-" + RIGHT, at + 1)


def _is_digit(char: str) -> bool:
    return char != "" and char in "0123456789"


def _is_word(char: str) -> bool:
    return char == "_" or unicodedata.category(char) in {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd"}


def _unicode(char: str) -> str:
    shown = f" '{char}'" if char.isprintable() else ""
    return f"U+{ord(char):04X}{shown}"
