"""What the key-value cache holds, and which of it a new prompt can use."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from akashllm.server.engines.llamacpp.pictures import Span, position
from akashllm.server.engines.llamacpp.pictures import whole as uncut


class Resident:
    """One sequence in the cache: its tokens in order, and the cells they are in.

    owner     whatever is decoding in it; None: idle, kept for those who come with the same beginning
    plan      the tokens its owner is going to evaluate, of which `tokens` is the part that is there
    stable    tokens at the start that stand for themselves; those after a context shift do not
    blocks    tokens at the start that are evaluated in whole blocks (see `compose`)
    pure      tokens at the start that were evaluated as `blocks` says; None: all
    pictures  images among the tokens and the plan
    """

    __slots__ = ("blocks", "cells", "id", "owner", "pictures", "plan", "pure", "stable", "tokens", "used")

    def __init__(self, id: int) -> None:  # noqa: A002 - llama.cpp's word
        self.id = id
        self.owner: Any = None
        self.tokens: array[int] = array("i")
        self.cells: array[int] = array("i")
        self.plan: array[int] = array("i")
        self.stable: int | None = None
        self.blocks = 0
        self.pure: int | None = None
        self.used = 0
        self.pictures: tuple[Span, ...] = ()

    def position(self, place: int) -> int:
        """The position in the cache of a place in the list of tokens."""
        return position(self.pictures, place) if self.pictures else place


def common_prefix(a: array[int], b: array[int]) -> int:
    """How many tokens two sequences begin with in common."""
    count = min(len(a), len(b))
    if not count or a[0] != b[0]:
        return 0
    differing = np.flatnonzero(np.frombuffer(a, np.int32, count) != np.frombuffer(b, np.int32, count))
    return int(differing[0]) if len(differing) else count


def usable(resident: Resident, prompt: array[int], *, whole: bool) -> int:
    """Tokens of `prompt` the resident already has. `whole`: only all of its tokens or none can be used."""
    shared = common_prefix(resident.tokens, prompt)
    if resident.stable is not None:
        shared = min(shared, resident.stable)
    if resident.pictures:
        shared = uncut(resident.pictures, shared)
    if whole and shared < len(resident.tokens):
        return 0
    return shared


def faithful(source: Resident, blocks: int, shared: int) -> int:
    """How many of the shared tokens were evaluated just as a prompt with so many tokens in blocks would be."""
    if source.pure is not None:
        shared = min(shared, source.pure)
    return shared if source.blocks == blocks else min(shared, source.blocks, blocks)


def longest(
    residents: Iterable[Resident], prompt: array[int], *, whole: bool = False
) -> tuple[Resident | None, int]:
    """The resident that has most of the prompt. Among equals an idle one, then the one used last."""
    best: Resident | None = None
    rank = (0, False, 0)
    for resident in residents:
        shared = usable(resident, prompt, whole=whole)
        if shared and (shared, resident.owner is None, resident.used) > rank:
            best, rank = resident, (shared, resident.owner is None, resident.used)
    return best, rank[0]


def leader(residents: Iterable[Resident], prompt: array[int]) -> tuple[Resident | None, int]:
    """The running resident that is going to have most of the prompt, and how much of it that will be."""
    best: Resident | None = None
    most = 0
    for resident in residents:
        if resident.owner is not None and resident.stable is None and len(resident.tokens) < len(resident.plan):
            shared = common_prefix(resident.plan, prompt)
            if shared > most:
                best, most = resident, shared
    return best, most
