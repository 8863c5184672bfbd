"""The named limits of a request, each with its own error: after the dialects, before the queue."""

from __future__ import annotations

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import ChatPrompt, Embedding, Generation, InfillPrompt, Message, TextPrompt
from akashllm.server.guard.media import image_size
from akashllm.server.settings import PREFIX, Settings

_BYTES_A_TOKEN = 4
"""What a token id weighs against the limit on prompt bytes."""


def check(request: Generation | Embedding, settings: Settings) -> None:
    """Raise `BadRequest`, with the parameter and the limit's variable, for the first limit that is passed."""
    if isinstance(request, Embedding):
        _at_most(len(request.inputs), settings.max_inputs, "inputs", "input", "MAX_INPUTS")
        _at_most(
            sum(map(_weight, request.inputs)), settings.max_prompt_bytes, "bytes of input", "input", _PROMPT
        )
        return
    _check_prompt(request, settings)
    _at_most(request.n, settings.max_n, "choices", "n", "MAX_N")
    _at_most(len(request.stop), settings.max_stop, "stop strings", "stop", "MAX_STOP")
    stop_bytes = sum(_weight(stop) for stop in request.stop)
    _at_most(stop_bytes, settings.max_stop_bytes, "bytes of stop strings", "stop", "MAX_STOP_BYTES")
    for value, param in ((request.logprobs, "top_logprobs"), (request.prompt_logprobs, "logprobs")):
        if value is not None:
            _at_most(value, settings.max_logprobs, "alternatives a token", param, "MAX_LOGPROBS")
    bias = len(request.sampling.logit_bias)
    _at_most(bias, settings.max_logit_bias, "entries of logit_bias", "logit_bias", "MAX_LOGIT_BIAS")
    if request.constraint is not None:
        size = _weight(request.constraint.value)
        _at_most(
            size, settings.max_schema_bytes, "bytes of schema or grammar", "response_format", "MAX_SCHEMA_BYTES"
        )


_PROMPT = "MAX_PROMPT_BYTES"


def _check_prompt(request: Generation, settings: Settings) -> None:
    match request.prompt:
        case ChatPrompt() as prompt:
            _at_most(len(prompt.messages), settings.max_messages, "messages", "messages", "MAX_MESSAGES")
            size = sum(map(_message_weight, prompt.messages)) + _BYTES_A_TOKEN * len(prompt.prefix_tokens)
            _at_most(size, settings.max_prompt_bytes, "bytes of messages", "messages", _PROMPT)
            _check_images(prompt, settings)
            _at_most(len(prompt.tools), settings.max_tools, "tools", "tools", "MAX_TOOLS")
            if prompt.tools:
                size = len(msgspec.json.encode(prompt.tools))
                _at_most(size, settings.max_tool_bytes, "bytes of tools", "tools", "MAX_TOOL_BYTES")
        case TextPrompt(text=text):
            _at_most(_weight(text), settings.max_prompt_bytes, "bytes of prompt", "prompt", _PROMPT)
        case InfillPrompt(prefix=prefix, suffix=suffix):
            size = _weight(prefix) + _weight(suffix)
            _at_most(size, settings.max_prompt_bytes, "bytes of prompt", "prompt", _PROMPT)
        case prompt:
            _at_most(_weight(prompt.tokens), settings.max_prompt_bytes, "bytes of prompt", "prompt", _PROMPT)


def _check_images(prompt: ChatPrompt, settings: Settings) -> None:
    """Before anything is decoded: how many images, how large, and how large they say they become."""
    images = [image for message in prompt.messages for image in message.images]
    _at_most(len(images), settings.max_images, "images", "messages", "MAX_IMAGES")
    for image in images:
        _at_most(len(image.data), settings.max_image_bytes, "bytes in an image", "messages", "MAX_IMAGE_BYTES")
        size = image_size(image.data)
        if size is None or not min(size):
            raise BadRequest("an image has no size: it is damaged", param="messages", code="invalid_image")
        pixels = size[0] * size[1]
        _at_most(pixels, settings.max_image_pixels, "pixels in an image", "messages", "MAX_IMAGE_PIXELS")
        if max(size) > _SLIMMEST * min(size):
            raise BadRequest(
                f"an image of {size[0]} by {size[1]} pixels is too slim to be looked at",
                param="messages",
                code="invalid_image",
            )


_SLIMMEST = 100
"""How many times longer than wide an image may be: some projectors divide by what is left after scaling."""


def _at_most(value: int, limit: int, what: str, param: str, variable: str) -> None:
    if value > limit:
        raise BadRequest(
            f"the request has {value} {what}; the limit is {limit}, set by {PREFIX}{variable}",
            param=param,
            code="limit_exceeded",
        )


def _weight(part: str | tuple[int, ...]) -> int:
    """UTF-8 bytes of a text, without encoding what is plainly small; four a token id."""
    if isinstance(part, str):
        return len(part) if part.isascii() else len(part.encode(errors="surrogatepass"))
    return _BYTES_A_TOKEN * len(part)


def _message_weight(message: Message) -> int:
    calls = sum(_weight(call.name) + _weight(call.arguments) for call in message.tool_calls)
    return _weight(message.content) + _weight(message.thinking) + calls
