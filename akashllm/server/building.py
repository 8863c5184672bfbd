"""Offers of llama.cpp models: from files, adapters and wishes to an engine that is not loaded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akashllm.server.defaults import NOTHING, Defaults
from akashllm.server.domain import Message
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.engines.llamacpp.memory import choose_context
from akashllm.server.library import Measured, Offer
from akashllm.server.models.footprint import footprint
from akashllm.server.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of one model, and the template that replaces its own."""

    weights: Path
    adapters: tuple[Path, ...] = ()
    projector: Path | None = None
    template: str | None = None

    @property
    def extras(self) -> Sequence[Path]:
        """The files beside the weights."""
        return (*self.adapters, *((self.projector,) if self.projector is not None else ()))


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes offers as the settings say. `budget` is bytes for all models (0: no limit)."""

    settings: Settings
    budget: int = 0

    def offer(
        self,
        name: str,
        files: Files,
        *,
        context: int = 0,
        slots: int | None = None,
        defaults: Defaults = NOTHING,
        **said: Any,
    ) -> Offer:
        """An offer of `files` as `name`. What is not said, the settings say; `said` goes into the `Offer`."""
        settings = self.settings
        places = slots or settings.concurrency
        chosen = {"batch": settings.batch} if settings.batch else {}

        def sized() -> tuple[Measured, int]:
            size = footprint(files.weights, files.extras)
            tokens = choose_context(context or settings.context, size.trained)
            cells = size.cells(tokens, places, self.budget)
            return Measured(size.bytes(cells), tokens), cells

        def build() -> LlamaCppEngine:
            return LlamaCppEngine(
                files.weights,
                name=name,
                context=context or settings.context,
                slots=places,
                cache=sized()[1],
                threads=settings.threads,
                gpu_layers=settings.gpu_layers,
                template=files.template,
                adapters=files.adapters,
                projector=files.projector,
                **chosen,
            )

        preload: tuple[Message, ...] = said.get("preload", ())
        return Offer(
            name=name,
            key=(files, _version(files.weights), context, places, preload, said.get("pinned", False)),
            build=build,
            measure=lambda: sized()[0],
            slots=places,
            defaults=defaults,
            **said,
        )


def _version(path: Path) -> tuple[int, int]:
    """What tells one content of a path from another."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
