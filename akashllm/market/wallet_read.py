"""What Akash's command line prints, as ours. Its JSON may stand between other lines, or be cut short."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from akashllm.errors import MarketUnavailable
from akashllm.market.console_read import DeploymentRead, deployment_of, items, mapping

_DECODER = json.JSONDecoder()


def documents(text: str) -> Iterator[Any]:
    """Every JSON object or list that begins a line, in order; what lies between is passed over."""
    place = 0
    while True:
        found = _begin(text, place)
        if found is None:
            return
        try:
            value, place = _DECODER.raw_decode(text, found)
        except (ValueError, RecursionError):
            place = found + 1
            continue
        yield value


def flowing(pieces: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """The objects of a stream, each as soon as all of it has come."""
    text = ""
    for piece in pieces:
        text += piece
        while (found := _begin(text, 0)) is not None:
            try:
                value, end = _DECODER.raw_decode(text, found)
            except (ValueError, RecursionError):
                break
            text = text[end:]
            if isinstance(value, dict):
                yield value
        if len(text) > _MOST:
            text = ""


_MOST = 4 << 20


def answer(text: str, call: str) -> Mapping[str, Any]:
    """The object that a query printed. Raises `MarketUnavailable`."""
    for value in documents(text):
        if isinstance(value, dict):
            return value
    raise MarketUnavailable(
        f"Akash's command line answered {call} with something else than JSON", hint="run the command again"
    )


def rows(text: str, name: str, call: str) -> tuple[Sequence[Any], str]:
    """The list of that name, and the key of the next page. Raises `MarketUnavailable`."""
    whole = answer(text, call)
    if not isinstance(whole.get(name), list):
        raise MarketUnavailable(f"{call} has answered without {name}", hint="run the command again")
    key = mapping(whole.get("pagination")).get("next_key")
    return items(whole[name]), key if isinstance(key, str) else ""


def deployment(whole: Mapping[str, Any], leases: Sequence[Any] = ()) -> DeploymentRead:
    """A deployment of the chain, with its leases: the shape that Console passes on as well."""
    found = [mapping(entry).get("lease") for entry in leases]
    return deployment_of({**whole, "leases": [one for one in found if one]}, "query deployment")


def _begin(text: str, place: int) -> int | None:
    """Where the next line begins that a JSON object or list begins."""
    while place < len(text):
        if text[place] in "{[" and (place == 0 or text[place - 1] in "\n\r}]"):
            return place
        following = [found for mark in ("\n", "\r") if (found := text.find(mark, place)) >= 0]
        if not following:
            return None
        place = min(following) + 1
    return None
