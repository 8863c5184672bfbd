"""Our requests as OpenAI's, for each kind of server that speaks the dialect.

Every body is made key by key from the neutral request: nothing a client wrote passes through unread.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from akashllm.errors import Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    Generation,
    InfillPrompt,
    Message,
    Sampling,
    TextPrompt,
    Tool,
)
from akashllm.server.engines.upstream import forced
from akashllm.server.engines.upstream.dialect import Known
from akashllm.server.engines.upstream.openai_context import remembered

_EXTRAS: Mapping[str, Mapping[str, str]] = {
    "llamacpp": {
        "top_k": "top_k",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repeat_penalty",
        "repeat_last_n": "repeat_last_n",
    },
    "vllm": {"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"},
    "akashllm": {
        "top_k": "top_k",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repeat_penalty",
        "repeat_last_n": "repeat_penalty_num",
    },
    "openai": {},
}
"""Sampler settings beyond OpenAI's, by the name each server has for them. Others are ignored there."""

_MIROSTAT = ("mirostat", "mirostat_tau", "mirostat_eta")
_ENDLESS = 2**31 - 1
_UNKNOWN_CONTEXT = 4096


def chat(request: Generation, prompt: ChatPrompt, known: Known, must: Sequence[Tool]) -> dict[str, Any]:
    """The body of `/v1/chat/completions`. `must` is what `forced.wanted` said."""
    messages = (*remembered(prompt.prefix_tokens), *prompt.messages)
    body = _common(request, known)
    body["messages"] = _messages(messages, known.flavour)
    if request.max_tokens is not None:
        body["max_tokens"] = max(request.max_tokens, 1)
    if prompt.tools and prompt.tool_choice.mode != "none":
        _tools(body, prompt, known, must)
    constraint = request.constraint
    if must and known.flavour == "llamacpp":
        # llama-server lets the model write text before a "required" call, without end if it makes none.
        value = msgspec.json.encode(forced.schema(must)).decode()
        constraint = Constraint(kind="json_schema", value=value)
    if constraint is not None and not (must and known.flavour != "llamacpp"):
        _constrain(body, constraint, known, chat=True)
    if prompt.continue_final:
        _continue(body, known)
    _think(body, prompt, known, constrained=constraint is not None)
    if request.logprobs is not None or request.score:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    return body


def completion(request: Generation, known: Known) -> dict[str, Any]:
    """The body of `/v1/completions`."""
    prompt = request.prompt
    body = _common(request, known)
    match prompt:
        case TextPrompt():
            body["prompt"] = prompt.text
        case InfillPrompt():
            if known.flavour == "vllm":
                raise Unsupported(
                    "vLLM does not fill gaps before a suffix", param="suffix", hint="leave it out"
                )
            body |= {"prompt": prompt.prefix, "suffix": prompt.suffix}
        case ChatPrompt():
            raise TypeError("a chat is no completion")
        case tokens:
            body["prompt"] = list(tokens.tokens)
    body["max_tokens"] = _most(request, known) if request.max_tokens is None else max(request.max_tokens, 1)
    if request.constraint is not None:
        _constrain(body, request.constraint, known, chat=False)
    if request.logprobs is not None or request.score:
        # llama-server takes 0 for none.
        body["logprobs"] = max(request.logprobs or 0, 1 if known.flavour == "llamacpp" else 0)
    return body


def infill(request: Generation, prompt: InfillPrompt, known: Known) -> dict[str, Any]:
    """The body of llama-server's `/infill`, its only way to fill a gap."""
    body = _sampling(request.sampling, known)
    body |= {"input_prefix": prompt.prefix, "input_suffix": prompt.suffix, "stream": True}
    body["n_predict"] = -1 if request.max_tokens is None else max(request.max_tokens, 1)
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs is not None or request.constraint is not None or request.score:
        raise Unsupported("llama-server fills gaps without log probabilities and shapes", param="suffix")
    return body


def _common(request: Generation, known: Known) -> dict[str, Any]:
    if request.prompt_logprobs is not None:
        raise Unsupported(
            "an upstream's prompts are not scored", param="echo", hint="leave out echo or logprobs"
        )
    body: dict[str, Any] = {"model": known.model, "stream": True, "stream_options": {"include_usage": True}}
    body |= _sampling(request.sampling, known)
    if request.n > 1:
        body["n"] = request.n
    if request.stop:
        body["stop"] = list(request.stop)
    if request.ignore_eos:
        if known.flavour == "openai":
            raise Unsupported("the upstream has no ignore_eos", param="ignore_eos", hint="leave it out")
        body["ignore_eos"] = True
    if known.flavour == "llamacpp":
        body["return_progress"] = True
    return body


def _sampling(sampling: Sampling, known: Known) -> dict[str, Any]:
    """All settings, as each server has defaults of its own; for an unknown one, what differs from OpenAI's.

    Models of OpenAI's that reason refuse even a temperature of 1.
    """
    body: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if known.flavour == "openai":
        off = Sampling()
        body = {key: value for key, value in body.items() if value != getattr(off, key)}
    for field, key in _EXTRAS[known.flavour].items():
        body[key] = getattr(sampling, field)
    if known.flavour == "llamacpp" and sampling.repeat_last_n < 0:
        body["repeat_last_n"] = known.info.context
    if sampling.mirostat and known.flavour in {"llamacpp", "akashllm"}:
        body |= {key: getattr(sampling, key) for key in _MIROSTAT}
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    return body


def _most(request: Generation, known: Known) -> int | None:
    """How to say "until the context ends" to a route whose default is 16 tokens."""
    match known.flavour:
        case "llamacpp":
            return -1
        case "vllm":
            return None
        case "akashllm":
            return _ENDLESS
        case _:
            return request.context or known.info.context or _UNKNOWN_CONTEXT


def _tools(body: dict[str, Any], prompt: ChatPrompt, known: Known, must: Sequence[Tool]) -> None:
    named = prompt.tool_choice.mode == "named"
    offered = must if must and known.flavour == "llamacpp" else prompt.tools
    body["tools"] = [_tool(tool) for tool in offered]
    if must and known.flavour != "llamacpp":
        name = {"type": "function", "function": {"name": prompt.tool_choice.name}}
        body["tool_choice"] = name if named else "required"
    if not prompt.parallel_tool_calls:
        body["parallel_tool_calls"] = False


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _constrain(body: dict[str, Any], constraint: Constraint, known: Known, *, chat: bool) -> None:
    match constraint.kind:
        case "json_object" if chat or known.flavour != "llamacpp":
            body["response_format"] = {"type": "json_object"}
        case "json_object":
            body["json_schema"] = {"type": "object"}
        case "json_schema" if chat or known.flavour != "llamacpp":
            schema = msgspec.json.decode(constraint.value)
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            }
        case "json_schema":
            body["json_schema"] = msgspec.json.decode(constraint.value)
        case "gbnf" if known.flavour in {"llamacpp", "akashllm"}:
            body["grammar"] = constraint.value
        case ("gbnf" | "regex") as kind if known.flavour == "vllm":
            key = "grammar" if kind == "gbnf" else "regex"
            body["structured_outputs"] = {key: constraint.value}
        case kind:
            raise Unsupported(f"the upstream cannot hold answers to a {kind} grammar", param="grammar")


def _continue(body: dict[str, Any], known: Known) -> None:
    match known.flavour:
        case "llamacpp":
            pass  # It continues a last message of the assistant's in any case.
        case "vllm":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        case "akashllm":
            body["continue_final_message"] = True
        case _:
            raise Unsupported("the upstream does not continue messages", param="continue_final_message")


def _think(body: dict[str, Any], prompt: ChatPrompt, known: Known, *, constrained: bool) -> None:
    think = prompt.think
    if known.flavour == "llamacpp" and constrained and known.tails:
        # The shape would be that of the thinking: llama-server begins it with the first token.
        think = False
    if think is None:
        return
    effort = think if isinstance(think, str) else None
    match known.flavour:
        case "llamacpp" | "vllm":
            options: dict[str, Any] = {"enable_thinking": bool(think)}
            if effort is not None:
                options["reasoning_effort"] = effort
            body["chat_template_kwargs"] = options
        case "akashllm":
            body["reasoning_effort"] = effort or ("medium" if think else "none")
        case _:
            if effort is not None:
                body["reasoning_effort"] = effort


# --- messages ------------------------------------------------------------------------------------------


def _messages(messages: Sequence[Message], flavour: str) -> list[dict[str, Any]]:
    """The messages, with an id for every call: results are matched to calls in order where they name none."""
    made: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.role == "assistant":
            calls = [
                (call.id or f"call_{len(made)}_{position}", call)
                for position, call in enumerate(message.tool_calls)
            ]
            open_calls = [(identifier, call.name) for identifier, call in calls]
            if calls:
                entry["tool_calls"] = [
                    {
                        "id": identifier,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for identifier, call in calls
                ]
                entry["content"] = entry["content"] or None
            if message.thinking and flavour != "openai":
                entry["reasoning_content"] = message.thinking
        elif message.role == "tool":
            entry["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name)
        made.append(entry)
    return made


def _answered(open_calls: list[tuple[str, str]], name: str | None) -> str:
    """The id of the call that a result without one answers: the first of that name, else the first."""
    for position, (identifier, called) in enumerate(open_calls):
        if name in {None, called}:
            del open_calls[position]
            return identifier
    return open_calls.pop(0)[0] if open_calls else f"call_{name or 'unknown'}"


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for image in message.images:
        data = base64.b64encode(image.data).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:{image.media_type};base64,{data}"}})
    return parts
