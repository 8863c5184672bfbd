"""From the name in a request to a model whose figures are known: catalogue, outside, or flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from akashllm.catalog import Catalog, Model, Shape, Sources
from akashllm.catalog.reference import Reference, parse_reference
from akashllm.errors import UnknownModel, UsageError
from akashllm.plan import DeployRequest, EngineName, ModelSource
from akashllm.planning.asked import shown

Lookup = Callable[[Reference, EngineName], Model]
"""Reads the figures of a model from its files; `akashllm.catalog.remote.Hub().describe` is one."""


def as_named(request: DeployRequest, catalog: Catalog) -> DeployRequest:
    """The request with the quantisation of the repository that it names, where the catalogue knows that one.

    Raises `UsageError` where the engine reads other weights than it holds.
    """
    held = catalog.held(request.model)
    reader: EngineName = "llamacpp" if held in {"gguf", "ct2"} else "vllm"
    if not held or request.engine == reader == "llamacpp" or (held == "gguf" and request.engine == "ollama"):
        return request
    if request.engine != reader:
        raise UsageError(
            f"{request.model} holds {held} weights, which {request.engine} does not read",
            hint=f"use --engine {reader}, or --model {catalog.find(request.model).alias}",
        )
    if request.quant is not None and request.quant.lower() != held:
        raise UsageError(
            f"{request.model} holds {held} weights, not {shown(request.quant)}", hint="leave --quant out"
        )
    return dataclasses.replace(request, quant=held)


def find_model(
    request: DeployRequest, catalog: Catalog, lookup: Lookup | None
) -> tuple[Model, Reference | None]:
    """The model a request names, with every figure that sizing needs; what is not known is asked for."""
    known = catalog.get(request.model)
    # Ollama fetches a repository of GGUF files that is named; its library may have other files of the model.
    if known is not None and not (request.engine == "ollama" and catalog.held(request.model)):
        if flags := given(request):
            raise UsageError(f"the figures of {known.alias} are known", hint=f"leave {', '.join(flags)} out")
        return known, None
    reference = parse_reference(request.model, request.engine)
    if reference is None:
        near = catalog.suggest(request.model)
        hint = f"did you mean {' or '.join(near)}?" if near else "`akashllm models` lists what is there"
        raise UnknownModel(f"no model named {request.model!r} in the catalogue", hint=hint)
    if given(request):
        return from_flags(request, reference), reference
    if lookup is None:
        near = catalog.suggest(request.model)
        raise UnknownModel(
            f"{request.model!r} is not in the catalogue and its files were not read",
            hint=(f"did you mean {' or '.join(near)}? or " if near else "")
            + f"give {', '.join(_NEEDED.values())}",
        )
    if reference.where == "hub" and request.quant and not reference.tag and request.engine != "vllm":
        reference = dataclasses.replace(reference, tag=request.quant)
    return lookup(reference, request.engine), reference


_FIGURES = {
    "parameters": "--parameters",
    "layers": "--layers",
    "kv_heads": "--kv-heads",
    "head_size": "--head-size",
    "hidden": "--hidden",
    "heads": "--heads",
    "vocab": "--vocab",
}
_NEEDED = {name: flag for name, flag in _FIGURES.items() if name not in {"heads", "vocab"}} | {
    "context": "--context"
}
"""The head size tells how many heads there are, and a vocabulary matters little."""


def given(request: DeployRequest) -> tuple[str, ...]:
    """The flags of the request that are figures of the model itself."""
    return tuple(flag for name, flag in _FIGURES.items() if getattr(request, name) is not None)


def from_flags(request: DeployRequest, reference: Reference) -> Model:
    """A model from the figures in the request; the ones that cannot be done without are asked for by name."""
    missing = [flag for name, flag in _NEEDED.items() if getattr(request, name) is None]
    if missing:
        raise UsageError(
            f"the size of {request.model!r} is not known", hint=f"give {', '.join(missing)} as well"
        )
    hidden, head_size = request.hidden or 0, request.head_size or 0
    shape = Shape(
        layers=request.layers or 0,
        hidden=hidden,
        heads=request.heads or max(1, hidden // head_size),
        kv_heads=request.kv_heads or 0,
        head_size=head_size,
        ffn=4 * hidden,
        # Only the logits' working memory follows from it; the largest vocabulary in use is the safe side.
        vocab=request.vocab or 262_144,
        tied=True,
    )
    return Model(
        alias=request.model,
        title=request.model,
        family="",
        shape=shape,
        parameters=request.parameters or 0,
        context=request.context or 0,
        sources=sources_of(reference),
        facts=(("shape", "given by flags"),),
    )


def sources_of(reference: Reference) -> Sources:
    """Where the engines find what a reference names."""
    if reference.where == "hub":
        return Sources(hf=reference.name, gguf=reference.name, ollama=f"hf.co/{reference.name}")
    if reference.where == "ollama":
        return Sources(
            ollama=reference.name if reference.tag == "latest" else f"{reference.name}:{reference.tag}"
        )
    return Sources()


def source_for(model: Model, reference: Reference | None, engine: EngineName, quant: str) -> ModelSource:
    """What the container is told to load, or a `UsageError` that names an engine which can."""
    base = ModelSource(alias=model.alias, kind="hf", gated=model.gated, licence=model.licence)
    source = model.sources
    if reference is not None and reference.where == "file":
        if engine == "vllm":
            raise _elsewhere(model, engine, ("llamacpp",))
        return dataclasses.replace(base, kind="file", file=reference.name)
    if source.bundled and engine == "llamacpp":
        return dataclasses.replace(base, kind="bundled", file="tiny-q8_0.gguf")
    if engine == "llamacpp" and source.gguf:
        file = source.gguf_file.replace("{quant}", quant)
        # A catalogue's GGUF repository is not behind the licence gate of the original; any other one may be.
        return dataclasses.replace(
            base,
            kind="gguf",
            repository=source.gguf,
            file=file,
            revision=source.gguf_revision,
            gated=model.gated and reference is not None,
        )
    if engine == "llamacpp" and source.ct2:
        return dataclasses.replace(base, kind="ct2", repository=source.ct2, revision=source.ct2_revision)
    if engine == "vllm" and source.hf:
        other = source.repository_for(quant)
        if other:
            return dataclasses.replace(base, repository=other, gated=False)
        return dataclasses.replace(base, repository=source.hf, revision=source.hf_revision)
    if engine == "ollama" and source.ollama:
        usual = source.ollama_quant or model.default_quant or "Q4_K_M"
        if quant.lower() != usual.lower() and source.gguf and not source.ollama.startswith("hf.co/"):
            return dataclasses.replace(
                base, kind="ollama", repository=f"hf.co/{source.gguf}:{quant}", gated=False
            )
        tag = f":{quant}" if source.ollama.startswith("hf.co/") else ""
        return dataclasses.replace(base, kind="ollama", repository=source.ollama + tag, gated=False)
    raise _elsewhere(model, engine, engines_of(model))


def engines_of(model: Model) -> tuple[EngineName, ...]:
    """The engines that have a source for this model."""
    source = model.sources
    found: list[EngineName] = []
    if source.bundled or source.gguf or source.ct2:
        found.append("llamacpp")
    if source.ollama:
        found.append("ollama")
    if source.hf:
        found.append("vllm")
    return tuple(found)


def _elsewhere(model: Model, engine: str, others: tuple[str, ...]) -> UsageError:
    hint = f"use --engine {' or '.join(others)}" if others else "choose another model"
    return UsageError(f"{engine} has no source for {model.alias}", hint=hint)
