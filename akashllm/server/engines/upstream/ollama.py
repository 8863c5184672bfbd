"""Ollama's own dialect, for Ollama and whatever speaks as it does.

Sampler settings that Ollama does not know it ignores. What would change the answer's meaning is refused:
`logit_bias`, grammars other than JSON's, `ignore_eos`, scored prompts.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from akashllm.errors import Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Embedding,
    Embeddings,
    Generation,
    InfillPrompt,
    Message,
    TextPrompt,
    Tool,
    ToolCall,
)
from akashllm.server.engines.upstream import forced
from akashllm.server.engines.upstream.choices import Choice
from akashllm.server.engines.upstream.dialect import Asked, Known
from akashllm.server.engines.upstream.faults import garbage
from akashllm.server.engines.upstream.ollama_answers import OllamaReader
from akashllm.server.engines.upstream.payload import count, vectors

_SAMPLERS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)


class OllamaDialect:
    """Asks `/api/chat`, `/api/generate` and `/api/embed`."""

    choices = False
    """One answer a request."""

    takes_tokens = False
    """Ollama has no field for them."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def ask(self, request: Generation) -> Asked:
        """A chat where there are messages and no `context`, which only `/api/generate` has."""
        _refuse(request)
        prompt = request.prompt
        body: dict[str, Any] = {"model": self._known.model, "stream": True}
        must: Sequence[Tool] = ()
        path = "/api/generate"
        match prompt:
            case ChatPrompt() if request.want_context or prompt.prefix_tokens or prompt.template:
                body |= _spoken(prompt)
            case ChatPrompt():
                path = "/api/chat"
                must = forced.wanted(prompt)
                body |= _chat(prompt, must)
            case TextPrompt():
                body |= {"prompt": prompt.text, "raw": True}
            case InfillPrompt():
                body |= {"prompt": prompt.prefix, "suffix": prompt.suffix}
                if prompt.template:
                    body["template"] = prompt.template
            case _:
                raise Unsupported("Ollama takes no token ids", param="prompt", hint="send a string")
        body |= self._common(request, must)
        reader = OllamaReader(request, Choice(request, 0, must=must))
        return Asked(path=path, body=body, reader=reader, events=False)

    def _common(self, request: Generation, must: Sequence[Tool]) -> dict[str, Any]:
        """What both routes have. `truncate` and `shift` are always told: Ollama's own default cuts silently."""
        prompt = request.prompt
        body: dict[str, Any] = {
            "options": self._options(request),
            "truncate": isinstance(prompt, ChatPrompt) and prompt.drop_oldest,
            "shift": request.shift,
        }
        constraint = request.constraint
        if must:
            body["format"] = forced.schema(must)
        elif constraint is not None:
            body["format"] = (
                "json" if constraint.kind == "json_object" else msgspec.json.decode(constraint.value)
            )
        if isinstance(prompt, ChatPrompt) and prompt.think is not None:
            body["think"] = prompt.think
        if request.logprobs is not None or request.score:
            body["logprobs"] = True
            if request.logprobs:
                body["top_logprobs"] = request.logprobs
        return body

    def _options(self, request: Generation) -> dict[str, Any]:
        """Samplers and ends. `num_ctx` never follows a request: the model would be loaded again."""
        sampling = request.sampling
        options: dict[str, Any] = {name: getattr(sampling, name) for name in _SAMPLERS}
        # Ollama hands a negative window on to an engine that refuses it.
        options["repeat_last_n"] = (
            sampling.repeat_last_n if sampling.repeat_last_n >= 0 else self._known.info.context or 64
        )
        options["num_predict"] = -1 if request.max_tokens is None else max(request.max_tokens, 1)
        if request.shift:
            options["num_keep"] = request.num_keep
        if sampling.seed is not None:
            options["seed"] = sampling.seed
        if request.stop:
            options["stop"] = list(request.stop)
        if self._known.context:
            options["num_ctx"] = self._known.context
        return options

    def embedding(self, request: Embedding) -> tuple[str, dict[str, Any]]:
        """All inputs at once; they are texts."""
        body: dict[str, Any] = {
            "model": self._known.model,
            "input": list(request.inputs),
            "truncate": request.truncate,
        }
        if self._known.context:
            body["options"] = {"num_ctx": self._known.context}
        return "/api/embed", body

    def embeddings(self, answer: Any) -> Embeddings:
        """The vectors are in order."""
        if not isinstance(answer, dict):
            raise garbage("an answer without embeddings")
        return Embeddings(
            vectors=vectors(answer.get("embeddings")),
            prompt_tokens=count(answer.get("prompt_eval_count")),
        )

    def tokens(self, text: str, *, special: bool, bos: bool) -> tuple[str, dict[str, Any]]:
        """Ollama has no route for it."""
        del text, special, bos
        raise Unsupported("Ollama does not show its tokens")

    def text(self, tokens: list[int]) -> tuple[str, dict[str, Any]]:
        """Ollama has no route for it."""
        del tokens
        raise Unsupported("Ollama does not turn token ids into text")


def _refuse(request: Generation) -> None:
    """What Ollama would ignore although the answer depends on it."""
    if request.prompt_logprobs is not None:
        raise Unsupported("Ollama does not score prompts", param="echo", hint="leave out echo or logprobs")
    if request.sampling.logit_bias:
        raise Unsupported("Ollama has no logit_bias", param="logit_bias", hint="leave it out")
    if request.ignore_eos:
        raise Unsupported("Ollama has no ignore_eos", param="ignore_eos", hint="leave it out")
    if request.constraint is not None and request.constraint.kind not in {"json_object", "json_schema"}:
        raise Unsupported("Ollama holds answers to JSON Schemas only", param="grammar", hint="send a schema")


def _chat(prompt: ChatPrompt, must: Sequence[Tool]) -> dict[str, Any]:
    messages = forced.instructed(prompt.messages, must) if must else prompt.messages
    body: dict[str, Any] = {"messages": [_message(message) for message in messages]}
    if prompt.tools and not must and prompt.tool_choice.mode != "none":
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    return body


def _spoken(prompt: ChatPrompt) -> dict[str, Any]:
    """The fields of `/api/generate`: what was asked there, perhaps with a system message and a `context`."""
    *before, last = prompt.messages
    if any(message.role != "system" for message in before) or last.role != "user":
        raise Unsupported(
            "Ollama has a context and a template for single prompts only", param="context", hint="send messages"
        )
    body: dict[str, Any] = {"prompt": last.content}
    if before:
        body["system"] = "\n\n".join(message.content for message in before)
    if last.images:
        body["images"] = _images(last)
    if prompt.template:
        body["template"] = prompt.template
    if prompt.prefix_tokens:
        body["context"] = list(prompt.prefix_tokens)
    return body


def _message(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        entry["thinking"] = message.thinking
    if message.images:
        entry["images"] = _images(message)
    if message.tool_calls:
        entry["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_name:
        entry["tool_name"] = message.tool_name
    if message.tool_call_id:
        entry["tool_call_id"] = message.tool_call_id
    return entry


def _images(message: Message) -> list[str]:
    return [base64.b64encode(image.data).decode() for image in message.images]


def _call(call: ToolCall) -> dict[str, Any]:
    made: dict[str, Any] = {
        "function": {"name": call.name, "arguments": msgspec.json.decode(call.arguments)},
    }
    return {"id": call.id} | made if call.id else made


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
