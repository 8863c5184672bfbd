"""Control tokens written by a client are text, not control.

A tokenizer that recognises `<|im_start|>` in a template's output recognises it in a user's words as well, and
a user who writes it opens a system message. So before a template sees the client's texts, the first character
of every control token (`<`, `[` ...) is replaced by a private character; afterwards each one is put back, and
where a control token of the vocabulary now begins at such a place it is the client's: it is cut in two, so
that no tokenizer can see it whole. This holds whatever the template does to the text in between, and one
private character for one character keeps lengths. Texts without such tokens come out as one piece, so their
tokens are those of the whole rendered text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec

from akashllm.errors import BadRequest

_PRIVATE: Final = re.compile("[\ue000-\uf8ff]")
_PRIVATE_ESCAPE: Final = re.compile(r"\\u([ef][0-9a-f]{3})", re.IGNORECASE)
_BARS: Final = "|\N{FULLWIDTH VERTICAL LINE}"
_GUESSED: Final = re.compile(
    rf"<[{_BARS}][^{_BARS}<>\s]{{1,60}}[{_BARS}]>|"
    r"<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>|</?[A-Za-z_]{1,30}>|\[/?[A-Z_]{3,30}\]|</?s>"
)


class Segment(msgspec.Struct, frozen=True):
    """A part of a prompt. Where `special` is false, control tokens in the text must not be recognised."""

    text: str
    special: bool


THINKING_MARKS: Final = ("<think>", "</think>", "[THINK]", "[/THINK]")
"""What an assistant's message may hold as it is: templates look for it in there."""


def guess_control(source: str) -> frozenset[str]:
    """What looks like a control token in a template's source; for callers that do not know the vocabulary."""
    return frozenset(_GUESSED.findall(source))


class Mask:
    """Hides the beginnings of control tokens from a template, and finds them again in what it rendered."""

    def __init__(self, control: Collection[str], *, avoid: Iterable[str], keep: Collection[str] = ()) -> None:
        """`avoid` are the texts whose private characters must not be used; `keep` markers are never hidden."""
        tokens = sorted((token for token in control if token.strip()), key=len, reverse=True)
        starts = sorted({token[0] for token in tokens})
        free = _free_characters(avoid)
        self._hide = {start: next(free) for start in starts}
        self._show = str.maketrans({hidden: start for start, hidden in self._hide.items()})
        self.cut: Final = next(free)
        """A private character nobody else uses: the caller's own mark."""
        self._starts = _any_of(starts)
        self._hidden = _any_of(self._hide.values())
        self._escaped = _any_of([json.dumps(hidden)[1:-1] for hidden in self._hide.values()], re.IGNORECASE)
        self._tokens = _any_of(tokens)
        self._kept = _any_of(sorted(keep, key=len, reverse=True))

    def before_cut(self, rendered: str) -> str:
        """What was rendered up to the mark. Raises `BadRequest` if the template did not let it through."""
        text, found, _ = rendered.rpartition(self.cut)
        if not found:
            raise BadRequest(
                "this model's chat template cannot continue a message of the assistant", param="messages"
            )
        return text

    def hide(self, text: str, *, keep: bool = False) -> str:
        """`text` with every character hidden that could begin a control token, but for kept markers."""
        if not keep:
            return self._starts.sub(lambda found: self._hide[found[0]], text)
        out, at = [], 0
        for kept in self._kept.finditer(text):
            out += [self.hide(text[at : kept.start()]), kept[0]]
            at = kept.end()
        return "".join([*out, self.hide(text[at:])])

    def hide_value(self, value: Any, *, keep: bool = False) -> Any:
        """A JSON value with all its texts hidden, keys included."""
        if isinstance(value, str):
            return self.hide(value, keep=keep)
        if isinstance(value, Mapping):
            return {self.hide(str(key)): self.hide_value(item, keep=keep) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide_value(item, keep=keep) for item in value]
        return value

    def reveal(self, rendered: str) -> list[Segment]:
        """What was rendered, with the client's characters back and its control tokens cut in two."""
        # A template that writes ASCII JSON turns a private character into six; they become one again.
        rendered = self._escaped.sub(lambda found: json.loads(f'"{found[0]}"'), rendered)
        text = rendered.translate(self._show)
        client = (self._tokens.match(text, found.start()) for found in self._hidden.finditer(rendered))
        return _cut(text, [found.span() for found in client if found is not None])


def texts(value: Any) -> list[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return []


def _free_characters(avoid: Iterable[str]) -> Iterator[str]:
    used: set[str] = set()
    for text in avoid:
        used.update(_PRIVATE.findall(text))
        used.update(chr(int(code, 16)) for code in _PRIVATE_ESCAPE.findall(text))
    free = (chr(code) for code in range(0xE000, 0xF900))
    return (char for char in free if char not in used)


def _any_of(texts: Iterable[str], flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """A pattern that matches any of the texts, the earlier one first; none of none."""
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)", flags)


def _cut(text: str, tokens: list[tuple[int, int]]) -> list[Segment]:
    """Cut around each token and after its first character; what is inside one is not special."""
    if not tokens:
        return [Segment(text, special=True)]
    edges = sorted({0, len(text), *(edge for start, end in tokens for edge in (start, start + 1, end))})
    out: list[Segment] = []
    reach, token = 0, iter([*tokens, (len(text) + 1, len(text) + 1)])
    start, end = next(token)
    for left, right in pairwise(edges):
        while start <= left:
            reach = max(reach, end)
            start, end = next(token)
        out.append(Segment(text[left:right], special=left >= reach))
    return out
