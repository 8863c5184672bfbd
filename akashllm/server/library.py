"""Where models come from that were not deployed: a store, a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from akashllm.names import ModelName
from akashllm.server.defaults import NOTHING, Defaults
from akashllm.server.domain import Message
from akashllm.server.engine import Engine


class Measured(NamedTuple):
    """Bytes a model is thought to take in memory, and tokens one request may use; 0: not known yet."""

    need: int = 0
    context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model that can be loaded.

    name        as it is served: `model:tag`
    key         what is loaded for it; offers with equal keys share one engine
    build       makes the engine, not loaded; may block, so it is called in a thread
    digest      of its manifest, 64 hexadecimal digits
    modified    nanoseconds since 1970
    measure     what it will take, read from its files; may block
    place       its weights, if they are here;  None: its digest says all there is to say
    slots       answers at once;  keep_alive: seconds; the settings' where None
    pinned      loaded at the start and never unloaded
    preload     messages to evaluate once it is loaded
    """

    name: str
    key: Hashable
    build: Callable[[], Engine]
    digest: str = ""
    modified: int = 0
    measure: Callable[[], Measured] = Measured
    place: Callable[[], Path | None] | None = None
    slots: int | None = None
    keep_alive: float | None = None
    pinned: bool = False
    preload: tuple[Message, ...] = ()
    defaults: Defaults = NOTHING


class Library(Protocol):
    """A source of models. Its methods may block: they are called in a thread."""

    def find(self, name: ModelName) -> Offer | None:
        """The model of that name, as it is now; None if there is none."""
        ...

    def list(self) -> Sequence[Offer]:
        """Everything there is."""
        ...
