"""Requests as Ollama reads them: from decoded JSON to plain types, every field checked, nothing looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from akashllm.errors import BadName, BadRequest
from akashllm.names import ModelName
from akashllm.server.domain import Constraint, Image, Message, Tool, ToolCall
from akashllm.server.wire.ollama.options import Chosen, choose
from akashllm.server.wire.ollama.reading import Fields, mismatch
from akashllm.server.wire.ollama.values import constraint, images, keep_alive, think

MAX_TOP_LOGPROBS = 20
_OBJECT = "map[string]interface {}"


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/generate`. `logprobs` is None for none, else how many alternatives."""

    model: str
    prompt: str
    suffix: str
    system: str
    template: str
    context: tuple[int, ...]
    stream: bool
    raw: bool
    constraint: Constraint | None
    keep_alive: float | None
    images: tuple[Image, ...]
    options: Chosen
    think: bool | str | None
    truncate: bool
    shift: bool
    logprobs: int | None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/chat`. An empty list of tools is no tools, as ollama-python sends one with every chat."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    stream: bool
    constraint: Constraint | None
    keep_alive: float | None
    options: Chosen
    think: bool | str | None
    truncate: bool
    shift: bool
    logprobs: int | None


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/embed`, and `/api/embeddings` with its one prompt. `dimensions` None is all of them."""

    model: str
    inputs: tuple[str, ...]
    keep_alive: float | None
    truncate: bool = True
    dimensions: int | None = None


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /api/show`. `options` and `system` only change what is shown."""

    model: str
    system: str
    verbose: bool
    options: dict[str, Any]


def generate(body: Mapping[str, Any]) -> GenerateRequest:
    """Read the body of `/api/generate`."""
    fields = Fields(body, "GenerateRequest")
    request = GenerateRequest(
        model=fields.text("model"),
        prompt=fields.text("prompt"),
        suffix=fields.text("suffix"),
        system=fields.text("system"),
        template=fields.text("template"),
        context=fields.integers("context"),
        stream=fields.flag("stream", default=True),
        raw=fields.flag("raw"),
        constraint=constraint(fields.get("format")),
        keep_alive=keep_alive(fields.get("keep_alive")),
        images=images(fields),
        options=choose(fields.object("options", _OBJECT)),
        think=think(fields.get("think")),
        truncate=fields.flag("truncate", default=True),
        shift=fields.flag("shift", default=True),
        logprobs=_logprobs(fields),
    )
    if request.raw and (request.template or request.system or request.context):
        raise BadRequest("raw mode does not support template, system, or context", param="raw")
    return request


def chat(body: Mapping[str, Any]) -> ChatRequest:
    """Read the body of `/api/chat`."""
    fields = Fields(body, "ChatRequest")
    request = ChatRequest(
        model=fields.text("model"),
        messages=tuple(_message(message) for message in fields.each("messages", "api.Message")),
        tools=tuple(_tool(tool) for tool in fields.each("tools", "api.Tool")),
        stream=fields.flag("stream", default=True),
        constraint=constraint(fields.get("format")),
        keep_alive=keep_alive(fields.get("keep_alive")),
        options=choose(fields.object("options", _OBJECT)),
        think=think(fields.get("think")),
        truncate=fields.flag("truncate", default=True),
        shift=fields.flag("shift", default=True),
        logprobs=_logprobs(fields),
    )
    if not request.model:
        raise BadRequest("model is required", param="model")
    return request


def embed(body: Mapping[str, Any]) -> EmbedRequest:
    """Read the body of `/api/embed`: one text or a list of them; nothing is an empty list."""
    fields = Fields(body, "EmbedRequest")
    value = fields.get("input")
    if value is None or value == "":
        inputs: list[Any] = []
    elif isinstance(value, str):
        inputs = [value]
    else:
        inputs = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in inputs):
        raise BadRequest("invalid input type", param="input")
    dimensions = fields.integer("dimensions")
    if dimensions < 0:
        raise BadRequest("dimensions must not be negative", param="dimensions")
    choose(fields.object("options", _OBJECT))
    return EmbedRequest(
        model=fields.text("model"),
        inputs=tuple(inputs),
        keep_alive=keep_alive(fields.get("keep_alive")),
        truncate=fields.flag("truncate", default=True),
        dimensions=dimensions or None,
    )


def embeddings(body: Mapping[str, Any]) -> EmbedRequest:
    """Read the body of `/api/embeddings`, the older form: one prompt."""
    fields = Fields(body, "EmbeddingRequest")
    prompt = fields.text("prompt")
    choose(fields.object("options", _OBJECT))
    request = EmbedRequest(
        model=fields.text("model"),
        inputs=(prompt,) if prompt else (),
        keep_alive=keep_alive(fields.get("keep_alive")),
    )
    if not request.model:
        raise BadRequest("model is required", param="model")
    return request


def show(body: Mapping[str, Any]) -> ShowRequest:
    """Read the body of `/api/show`; `name` is the older word for `model`."""
    fields = Fields(body, "ShowRequest")
    request = ShowRequest(
        model=fields.text("model") or fields.text("name"),
        system=fields.text("system"),
        verbose=fields.flag("verbose"),
        options=fields.object("options", _OBJECT),
    )
    if not request.model:
        raise BadRequest("model is required", param="model")
    return request


def model_name(text: str) -> ModelName:
    """The name a request means. `:local` says where to look and is dropped: everything here is local."""
    lower = text.lower()
    if ":cloud" in lower and ":local" in lower:
        raise BadRequest(f'use either :local or :cloud, not both: "{text[:128]}"', param="model")
    try:
        return ModelName.parse(text[: -len(":local")] if lower.endswith(":local") else text)
    except BadName as error:
        raise BadRequest("invalid model name", hint=error.hint, param="model") from error


def _logprobs(fields: Fields) -> int | None:
    wanted, top = fields.flag("logprobs"), fields.integer("top_logprobs")
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise BadRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", param="top_logprobs")
    return top if wanted else None


def _message(fields: Fields) -> Message:
    role = fields.text("role").lower()
    if not role:
        raise BadRequest("every message needs a role: system, user, assistant or tool", param="messages")
    return Message(
        role=role,
        content=fields.text("content"),
        thinking=fields.text("thinking"),
        images=images(fields),
        tool_calls=tuple(_tool_call(call) for call in fields.each("tool_calls", "api.ToolCall")),
        tool_name=fields.text("tool_name") or None,
        tool_call_id=fields.text("tool_call_id") or None,
    )


def _tool_call(fields: Fields) -> ToolCall:
    function = fields.nested("function", "api.ToolCallFunction")
    arguments = function.object("arguments", "api.ToolCallFunctionArguments")
    return ToolCall(
        id=fields.text("id"),
        name=function.text("name"),
        arguments=msgspec.json.encode(arguments).decode(),
    )


def _tool(fields: Fields) -> Tool:
    function = fields.nested("function", "api.ToolFunction")
    name = function.text("name")
    if not name:
        raise BadRequest("every tool needs a function with a name", param="tools")
    if fields.text("type") not in {"", "function"}:
        mismatch(fields.get("type"), fields.at("type"), 'the tool type "function"')
    parameters = function.object("parameters", "api.ToolFunctionParameters")
    try:
        msgspec.msgpack.encode(parameters)
    except OverflowError as error:
        # Schemas travel to the engine's process as they are, and integers there have 64 bits.
        message = f"the parameters of the tool {name!r} have an integer of more than 64 bits"
        raise BadRequest(message, param="tools") from error
    return Tool(name=name, description=function.text("description"), parameters=parameters)
