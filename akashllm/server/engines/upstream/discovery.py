"""Finding out what an upstream is, which model it has, and what the model can do.

`/v1/models` tells llama-server (`owned_by: llamacpp`) and vLLM (`vllm`); `/version` tells this service;
`/api/version` tells Ollama. Whatever else answers on `/v1/models` is taken for OpenAI's dialect with nothing
added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import msgspec

from akashllm.errors import EngineFailed, ServiceError
from akashllm.server.chat.formats import ChatFormat, looks_like_thinking, looks_like_tools
from akashllm.server.domain import Capability, ModelInfo
from akashllm.server.engines.upstream.dialect import Known
from akashllm.server.engines.upstream.link import Link, Unreachable
from akashllm.server.engines.upstream.payload import count, entries, text

QUICK = 10.0
"""Seconds the questions about an upstream may take, each."""

_PROBE = 120.0
_LATEST = ":latest"
_MODALITIES: tuple[Capability, ...] = ("completion", "tools", "thinking", "insert", "vision")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided: what this service calls the model, what the upstream does, and sizes."""

    name: str
    model: str = ""
    dialect: str = "auto"
    context: int = 0
    slots: int = 8


async def discover(link: Link, wish: Wish) -> Known:
    """All there is to know. Raises `Unreachable`, `Busy` while it loads, `EngineFailed` with the reason."""
    refused: EngineFailed | None = None
    listed: list[dict[str, Any]] = []
    if wish.dialect != "ollama":
        try:
            listed = entries((await _object(link, "GET", "/v1/models")).get("data"))
        except Unreachable:
            raise
        except EngineFailed as error:
            refused = error
        owner = text(listed[0].get("owned_by")) if listed else ""
        if owner == "llamacpp":
            return await _llama_server(link, wish, listed[0])
        if owner == "vllm":
            return _vllm(wish, _pick(listed, wish.model))
        if refused is None and "engine" in await _maybe(link, "GET", "/version"):
            return await _shown(link, wish, _pick(listed, wish.model), "akashllm")
    if wish.dialect != "openai" and await _maybe(link, "GET", "/api/version"):
        tags = entries((await _object(link, "GET", "/api/tags")).get("models"))
        return await _shown(link, wish, _pick(tags, wish.model, key="model"), "ollama")
    if refused is not None:
        raise refused
    if wish.dialect == "ollama":
        raise EngineFailed("what answers is not Ollama", hint="see AKASHLLM_UPSTREAM_DIALECT")
    return _other(wish, _pick(listed, wish.model))


def _pick(listed: Sequence[dict[str, Any]], wanted: str, *, key: str = "id") -> dict[str, Any]:
    """The entry of the model that is wanted, the first where none is."""
    names = [text(entry.get(key)) or text(entry.get("name")) for entry in listed]
    for entry, name in zip(listed, names, strict=True):
        if not wanted or name.removesuffix(_LATEST).lower() == wanted.removesuffix(_LATEST).lower():
            return entry | {"id": name}
    if not listed:
        raise EngineFailed("the upstream has no model", hint="have it load or pull one")
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise EngineFailed(
        f"the upstream has no model {wanted}; it has {shown}", hint="see AKASHLLM_UPSTREAM_MODEL"
    )


async def _llama_server(link: Link, wish: Wish, entry: dict[str, Any]) -> Known:
    """llama-server: one model, whatever it is called, told by `/v1/models` and `/props`."""
    props = await _object(link, "GET", "/props")
    meta = entry.get("meta")
    told = meta if isinstance(meta, dict) else {}
    template = text(props.get("chat_template"))
    settings = props.get("default_generation_settings")
    context = count(settings.get("n_ctx")) if isinstance(settings, dict) else 0
    modalities = props.get("modalities")
    capabilities: list[Capability] = ["completion"]
    capabilities += ["tools"] if looks_like_tools(template) else []
    capabilities += ["thinking"] if looks_like_thinking(template) else []
    capabilities += ["vision"] if isinstance(modalities, dict) and modalities.get("vision") else []
    gap = {"input_prefix": "a", "input_suffix": "b", "n_predict": 1}
    capabilities += ["insert"] if await _maybe(link, "POST", "/infill", gap) else []
    form = ChatFormat.detect(template) if template else None
    return Known(
        model=text(entry.get("id")),
        flavour="llamacpp",
        form=form,
        tails=await _tails(link, form) if form is not None and form.thinking is not None else {},
        info=ModelInfo(
            name=wish.name,
            quantization=text(told.get("ftype")),
            parameters=count(told.get("n_params")),
            context=_least(wish.context, context),
            train_context=count(told.get("n_ctx_train")),
            embedding_length=count(told.get("n_embd")),
            vocab_size=count(told.get("n_vocab")),
            slots=wish.slots,
            size=count(told.get("size")),
            memory=count(told.get("size")),
            capabilities=tuple(capabilities),
            chat_template=template,
            bos=text(props.get("bos_token")),
            eos=text(props.get("eos_token")),
        ),
    )


async def _tails(link: Link, form: ChatFormat) -> dict[bool | None, str]:
    """How prompts end, where the template opens the thinking and llama-server leaves it in the text."""
    tails: dict[bool | None, str] = {}
    for think in (None, True, False):
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
        if think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": think}
        tails[think] = text((await _maybe(link, "POST", "/apply-template", body)).get("prompt"))[-200:]
    opened = next((think for think, tail in tails.items() if form.thinks_inside(tail)), False)
    if opened is False:
        return {}
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    if opened is not None:
        body["chat_template_kwargs"] = {"enable_thinking": opened}
    answer = await link.ask("POST", "/v1/chat/completions", body, within=_PROBE)
    choices = entries(answer.get("choices")) if isinstance(answer, dict) else []
    message = choices[0].get("message") if choices else None
    split = isinstance(message, dict) and bool(message.get("reasoning_content"))
    return {} if split else tails


def _vllm(wish: Wish, entry: dict[str, Any]) -> Known:
    """VLLM tells the length of its context; its parsers, if it was started with them, do the rest."""
    context = count(entry.get("max_model_len"))
    capabilities: tuple[Capability, ...] = ("completion", "tools", "thinking", "vision")
    return Known(
        model=entry["id"],
        flavour="vllm",
        info=ModelInfo(
            name=wish.name,
            format="safetensors",
            context=_least(wish.context, context),
            train_context=context,
            slots=wish.slots,
            capabilities=capabilities,
        ),
    )


def _other(wish: Wish, entry: dict[str, Any]) -> Known:
    """A server that tells nothing: everything may be tried, and it refuses what it has not."""
    context = _least(wish.context, count(entry.get("max_model_len")) or count(entry.get("context_length")))
    return Known(
        model=entry["id"],
        flavour="openai",
        info=ModelInfo(name=wish.name, format="", context=context, slots=wish.slots, capabilities=_MODALITIES),
    )


async def _shown(link: Link, wish: Wish, entry: dict[str, Any], flavour: str) -> Known:
    """Ollama and this service: `/api/show` has the file's own header."""
    model = entry["id"]
    shown = await _object(link, "POST", "/api/show", {"model": model})
    details = shown.get("details")
    told = details if isinstance(details, dict) else {}
    header = shown.get("model_info")
    metadata = (
        {key: value for key, value in header.items() if value is not None} if isinstance(header, dict) else {}
    )
    family = text(metadata.get("general.architecture")) or text(told.get("family"))
    trained = count(metadata.get(f"{family}.context_length"))
    known = set(get_args(Capability))
    names = shown.get("capabilities")
    capabilities = [name for name in names if name in known] if isinstance(names, list) else ["completion"]
    digest = text(entry.get("digest")).removeprefix("sha256:")
    return Known(
        model=model,
        flavour=flavour,
        context=wish.context if flavour == "ollama" else 0,
        digest=digest if len(digest) == 64 else None,
        info=ModelInfo(
            name=wish.name,
            format=text(told.get("format")) or "gguf",
            family=family,
            parameters=count(metadata.get("general.parameter_count")),
            quantization=text(told.get("quantization_level")),
            context=_least(wish.context, count(entry.get("max_model_len")) or trained),
            train_context=trained,
            embedding_length=count(metadata.get(f"{family}.embedding_length")),
            vocab_size=count(metadata.get(f"{family}.vocab_size")),
            slots=wish.slots,
            size=count(entry.get("size")),
            memory=count(entry.get("size")),
            capabilities=cast("tuple[Capability, ...]", tuple(capabilities)),
            chat_template=text(shown.get("template")),
            metadata=metadata,
        ),
    )


async def loaded(link: Link, known: Known) -> dict[str, int]:
    """What Ollama says of the model in memory: context, and bytes in all and on GPUs."""
    running = entries((await _maybe(link, "GET", "/api/ps")).get("models"))
    entry = next((each for each in running if known.model in {each.get("model"), each.get("name")}), {})
    return {
        "context": count(entry.get("context_length")),
        "memory": count(entry.get("size")),
        "vram": count(entry.get("size_vram")),
    }


def _least(asked: int, has: int) -> int:
    return min(asked, has) if asked and has else asked or has


async def _object(link: Link, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await link.ask(method, path, body, within=QUICK)
    if not isinstance(answer, dict):
        raise EngineFailed(f"what answers is no model server: {path} is no object")
    return answer


async def _maybe(link: Link, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer of a route that an upstream need not have; empty where it has not."""
    try:
        return await _object(link, method, path, body)
    except Unreachable:
        raise
    except ServiceError:
        return {}
