"""The catalogue: find a model by the name people type, or say which one they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from akashllm.catalog.gpus import Gpu, load_gpus
from akashllm.catalog.model import Model
from akashllm.catalog.reading import build, table
from akashllm.errors import UnknownModel, UsageError


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models and GPUs, read once. Iterating gives the models in the order of the file."""

    models: tuple[Model, ...]
    gpus: tuple[Gpu, ...]

    @classmethod
    def load(cls) -> Catalog:
        """The catalogue that comes with akashllm."""
        return _load()

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def get(self, name: str) -> Model | None:
        """The model of that alias, Ollama name or repository; letters' case and `:latest` do not matter."""
        return _index(self).get(_fold(name))

    def find(self, name: str) -> Model:
        """As `get`, but a name that is not there is an `UnknownModel` with a suggestion."""
        model = self.get(name)
        if model is None:
            near = self.suggest(name)
            hint = f"did you mean {' or '.join(near)}?" if near else "`akashllm models` lists what is there"
            raise UnknownModel(f"no model named {name!r} in the catalogue", hint=hint)
        return model

    def held(self, name: str) -> str:
        """What a named repository has of its model: `gguf`, `ct2`, or a quantisation for vLLM.

        Empty where the name means the model: an alias, Ollama's name, the original weights, or none of ours.
        """
        model = self.get(name)
        if model is None or _fold(name) in map(_fold, (*model.names(), model.sources.ollama, model.sources.hf)):
            return ""
        source = model.sources
        kinds = {"gguf": source.gguf, "ct2": source.ct2, **dict(source.quantised)}
        return next(kind for kind, repository in kinds.items() if _fold(repository) == _fold(name))

    def suggest(self, name: str, limit: int = 3) -> tuple[str, ...]:
        """Up to `limit` aliases that look like `name`, best first."""
        keys = _index(self)
        near = difflib.get_close_matches(_fold(name), sorted(keys), n=limit * 3, cutoff=0.6)
        return tuple(dict.fromkeys(keys[key].alias for key in near))[:limit]

    def search(self, text: str) -> tuple[Model, ...]:
        """Models in which every word of `text` occurs: name, title, family, task, modality, licence, source."""
        words = text.lower().split()
        return tuple(model for model in self.models if all(word in _haystack(model) for word in words))

    def gpu_names(self) -> tuple[str, ...]:
        """Market names, sorted, each once."""
        return tuple(sorted({gpu.model for gpu in self.gpus}))


def _fold(name: str) -> str:
    folded = name.strip().lower()
    return folded.removesuffix(":latest").removeprefix("hf.co/")


def _haystack(model: Model) -> str:
    source = model.sources
    parts = (*model.names(), model.title, model.family, model.task, *model.modality, model.licence)
    return " ".join((*parts, source.ollama, source.hf, source.gguf, source.ct2, model.tool_parser)).lower()


@cache
def _index(catalog: Catalog) -> dict[str, Model]:
    found: dict[str, Model] = {}
    for model in catalog.models:
        for name in model.names():
            if found.setdefault(_fold(name), model) is not model:
                raise UsageError(f"models.toml: the name {name!r} stands in two entries")
    for model in catalog.models:
        repositories = (
            model.sources.hf,
            model.sources.gguf,
            model.sources.ct2,
            *dict(model.sources.quantised).values(),
        )
        for name in filter(None, (model.sources.ollama, *repositories)):
            found.setdefault(_fold(name), model)
    return found


@cache
def _load() -> Catalog:
    data = table("models.toml")
    rows = data["model"]
    models = tuple(
        build(Model, {"read": data["read"], **row}, f"models.toml: {row.get('alias', '?')}") for row in rows
    )
    return Catalog(models, load_gpus())
