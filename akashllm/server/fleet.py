"""All models of one service: the deployed one, those of a configuration, those of the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from akashllm.errors import UsageError
from akashllm.names import ModelName
from akashllm.server.admission import Admission
from akashllm.server.building import Builder, Files
from akashllm.server.config import Config, read_config
from akashllm.server.configured import Configured
from akashllm.server.engine import Engine
from akashllm.server.fetching import model_path
from akashllm.server.library import Library, Offer
from akashllm.server.machine import memory_for_models
from akashllm.server.room import Room
from akashllm.server.runtime import Runtime
from akashllm.server.settings import PREFIX, Settings
from akashllm.server.stock import Stock, Store

_ENDLESS = 1 << 62


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings, and in them what the configuration they name says: where to listen, what is deployed.

    The environment wins. Raises `BadSettings` and `BadConfig`, each with all its faults, and `UsageError` for
    an engine that has one model only.
    """
    path = environ.get(f"{PREFIX}CONFIG", "").strip()
    if not path:
        return Settings.from_env(environ)
    config = read_config(Path(path))
    settings = Settings.from_env(config.environment | {k: v for k, v in environ.items() if v.strip()})
    if settings.engine != "llamacpp":
        raise UsageError(
            f"a configuration file is for the engine llamacpp, and this service has {settings.engine}",
            hint=f"leave {PREFIX}ENGINE out, or {PREFIX}CONFIG",
        )
    return _first_of(settings, config)


def _first_of(settings: Settings, config: Config) -> Settings:
    """The settings with the model that a configuration puts in the deployed one's place.

    That is its first model that is always there, or its first. Where the settings name a model of their own,
    that one is deployed, and the configuration's are served beside it.
    """
    if settings.model != "tiny" or settings.weights:
        return settings
    chosen = next((model for model in config.models if model.pinned), config.models[0])
    return dataclasses.replace(settings, model=str(chosen.file or chosen.url), model_name=chosen.name)


def make_runtime(settings: Settings, engine: Engine, *, store: Store | None = None) -> Runtime:
    """The runtime of a service whose deployed model is `engine`'s.

    Only llama.cpp has further models: the other engines are built around one, or manage their own.
    """
    if settings.engine != "llamacpp" or (store is None and not settings.config and not settings.memory):
        return Runtime(settings, engine)
    builder = make_builder(settings)
    libraries: list[Library] = []
    deployed = builder.offer(settings.served_name, Files(weights=settings.model_file))
    deployed = dataclasses.replace(
        deployed,
        measure=lambda: builder.measure(Files(weights=model_path(settings, engine) or Path())),
        place=lambda: model_path(settings, engine),
    )
    crowd: Admission | None = None
    always: tuple[str, ...] = ()
    lazy = False
    if settings.config:
        config = read_config(Path(settings.config))
        configured = Configured(config, builder)
        libraries.append(configured)
        first = configured.find(ModelName.parse(settings.served_name))
        if first is not None:
            deployed, lazy = first, not first.pinned
        if config.concurrency is not None:
            crowd = Admission(config.concurrency, _ENDLESS)
        always = tuple(model.name for model in config.models if model.pinned)
    if store is not None:
        libraries.append(Stock(store, builder))
    return Runtime(
        settings,
        engine,
        libraries=libraries,
        room=Room(builder.budget, settings.max_loaded, strict=settings.memory > 0),
        crowd=crowd,
        deployed=deployed,
        always=always,
        lazy=lazy,
    )


def make_builder(settings: Settings) -> Builder:
    """What makes the engines of further models, and of the one a configuration deploys."""
    return Builder(settings, settings.memory or memory_for_models(gpu=settings.gpu_layers != 0))


def configured_model(settings: Settings) -> Offer | None:
    """The deployed model, if the configuration describes it."""
    if not settings.config or settings.engine != "llamacpp":
        return None
    configured = Configured(read_config(Path(settings.config)), make_builder(settings))
    return configured.find(ModelName.parse(settings.served_name))
