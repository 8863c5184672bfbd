"""The models of a configuration file as a library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from akashllm.names import ModelName
from akashllm.server.building import Builder, Files
from akashllm.server.config import Config, ConfiguredModel
from akashllm.server.defaults import Defaults
from akashllm.server.fetching import weights_of
from akashllm.server.library import Offer


class Configured:
    """What a configuration offers; the first model of the file first."""

    def __init__(self, config: Config, builder: Builder) -> None:
        self._builder = builder
        self._models = {ModelName.parse(model.name): model for model in config.models}

    def find(self, name: ModelName) -> Offer | None:
        """The model of that name."""
        model = self._models.get(name)
        return None if model is None else self._offer(model)

    def list(self) -> Sequence[Offer]:
        """Every model of the file."""
        return [self._offer(model) for model in self._models.values()]

    def _offer(self, model: ConfiguredModel) -> Offer:
        here = model.file is not None and (model.file.is_file() or not model.url)
        coming = None if here else weights_of(model.origin, self._builder.settings)
        return self._builder.offer(
            model.name,
            Files(
                weights=model.file if here and model.file is not None else Path(model.origin),
                adapters=model.adapters,
                projector=model.projector,
            ),
            coming=coming,
            context=model.context,
            slots=model.slots,
            defaults=Defaults(parameters=model.parameters),
            keep_alive=model.ttl,
            pinned=model.pinned,
            preload=model.preload,
        )
