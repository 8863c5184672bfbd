"""Offers of llama.cpp models: from files, adapters and wishes to an engine that is not loaded yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akashllm.server.defaults import NOTHING, Defaults
from akashllm.server.domain import ModelInfo
from akashllm.server.engine import Engine
from akashllm.server.engines.fetched import FetchedEngine
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.engines.llamacpp.memory import choose_context
from akashllm.server.library import Measured, Offer
from akashllm.server.models.footprint import footprint
from akashllm.server.models.weights import Weights
from akashllm.server.settings import Settings

_BY_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")


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
    """Makes engines and offers as the settings say. `budget` is bytes for all models (0: no limit)."""

    settings: Settings
    budget: int = 0

    def measure(self, files: Files, context: int = 0, slots: int | None = None) -> Measured:
        """What a model will take, from its header. Blocks."""
        return self._sized(files, context, slots)[0]

    def engine(self, name: str, files: Files, context: int = 0, slots: int | None = None) -> LlamaCppEngine:
        """The engine, its cache no larger than what the budget leaves beside the weights. Blocks."""
        settings = self.settings
        chosen: dict[str, Any] = {"batch": settings.batch} if settings.batch else {}
        return LlamaCppEngine(
            files.weights,
            name=name,
            context=context or settings.context,
            slots=slots or settings.concurrency,
            cache=self._sized(files, context, slots)[1],
            threads=settings.threads,
            gpu_layers=settings.gpu_layers,
            template=files.template,
            adapters=files.adapters,
            projector=files.projector,
            **chosen,
        )

    def offer(
        self,
        name: str,
        files: Files,
        *,
        coming: Weights | None = None,
        context: int = 0,
        slots: int | None = None,
        defaults: Defaults = NOTHING,
        **said: Any,
    ) -> Offer:
        """An offer of `files` as `name`. What is not said, the settings say; `said` goes into the `Offer`.

        Weights that are still `coming` have the place that is theirs once they are here, and not before.
        """

        def placed() -> Files:
            path = coming.here() if coming is not None else None
            return (
                files
                if path is None
                else Files(weights=path, adapters=files.adapters, projector=files.projector)
            )

        def build() -> Engine:
            if coming is None:
                return self.engine(name, files, context, slots)
            return FetchedEngine(
                coming,
                lambda _: self.engine(name, placed(), context, slots),
                name="llamacpp",
                info=ModelInfo(name=name),
            )

        version = (0, 0) if coming is not None else _version(files.weights)
        return Offer(
            name=name,
            key=(
                files,
                version,
                context,
                slots,
                said.get("preload"),
                said.get("pinned"),
                said.get("keep_alive"),
            ),
            build=build,
            measure=lambda: self.measure(placed(), context, slots),
            place=lambda: coming.here() if coming is not None else files.weights,
            slots=slots,
            defaults=defaults,
            **said,
        )

    def _sized(self, files: Files, context: int, slots: int | None) -> tuple[Measured, int]:
        """The measures, and the tokens of cache that they are with."""
        size = footprint(files.weights, files.extras)
        tokens = choose_context(context or self.settings.context, size.trained)
        cells = size.cells(tokens, slots or self.settings.concurrency, self.budget)
        return Measured(size.bytes(cells), tokens), cells


def _version(path: Path) -> tuple[int, int]:
    """What tells one content of a path from another. The store touches files that a model names."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino if _BY_DIGEST.fullmatch(path.name) else found.st_mtime_ns, found.st_size)
