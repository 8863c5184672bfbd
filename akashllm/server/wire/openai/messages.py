"""The `messages` of a chat, and the parts that content may have."""

from __future__ import annotations

import base64
import binascii
import re

from akashllm.errors import Unsupported
from akashllm.server.domain import Image, Message, ModelInfo
from akashllm.server.wire.images import media_type
from akashllm.server.wire.openai.reading import Fields, invalid, missing, wrong_type
from akashllm.server.wire.openai.tools import read_calls

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_DATA_URI = re.compile(r"data:(?:image/(?:png|jpe?g|webp))?;base64,", re.IGNORECASE | re.ASCII)


def read_messages(body: Fields, info: ModelInfo) -> tuple[Message, ...]:
    """All messages. Empty lists are refused: there is nothing to answer."""
    if body.get("messages") is None:
        raise missing("messages")
    messages: list[Message] = []
    names: dict[str, str] = {}
    for fields in body.objects("messages"):
        message = _message(fields, info, names)
        names.update({call.id: call.name for call in message.tool_calls if call.id})
        messages.append(message)
    if not messages:
        raise invalid("messages", "must have at least one message", code="empty_array")
    return tuple(messages)


def _message(fields: Fields, info: ModelInfo, names: dict[str, str]) -> Message:
    role = fields.required_string("role")
    if role not in _ROLES:
        raise invalid(fields.at("role"), f"must be one of {', '.join(_ROLES)}", code="unsupported_value")
    if role == "assistant":
        return _assistant(fields, info)
    text, images = _content(fields, info)
    if role in ("tool", "function"):
        identifier = fields.string("tool_call_id")
        if role == "tool" and identifier is None:
            raise missing(fields.at("tool_call_id"))
        name = names.get(identifier or "") or fields.string("name")
        return Message(role="tool", content=text, tool_call_id=identifier, tool_name=name, images=images)
    if role == "developer" and "developer" not in info.chat_template:
        # OpenAI's newer word for system. A template that does not know it would drop the message.
        role = "system"
    return Message(role=role, content=text, images=images)


def _assistant(fields: Fields, info: ModelInfo) -> Message:
    calls = read_calls(fields)
    refusal = fields.string("refusal")
    text = ""
    images: tuple[Image, ...] = ()
    if fields.get("content") is not None:
        text, images = _content(fields, info)
    elif refusal is not None:
        text = refusal
    elif not calls:
        raise invalid(fields.at("content"), "may be null only beside 'tool_calls'", code="invalid_type")
    thinking = fields.string("reasoning_content") or fields.string("reasoning") or ""
    return Message(role="assistant", content=text, images=images, tool_calls=calls, thinking=thinking)


def _content(fields: Fields, info: ModelInfo) -> tuple[str, tuple[Image, ...]]:
    """Text and images. Text parts are joined by line breaks, as llama.cpp and vLLM do."""
    value = fields.get("content")
    if isinstance(value, str):
        return value, ()
    if value is None:
        if "content" in fields.values:
            raise wrong_type(fields.at("content"), "a string or an array of parts", value)
        raise missing(fields.at("content"))
    if not isinstance(value, list):
        raise wrong_type(fields.at("content"), "a string or an array of parts", value)
    texts: list[str] = []
    images: list[Image] = []
    for part in fields.objects("content"):
        match part.required_string("type"):
            case "text":
                texts.append(part.required_string("text"))
            case "refusal":
                texts.append(part.required_string("refusal"))
            case "image_url":
                images.append(_image(part, info))
            case other:
                raise Unsupported(
                    f"'{part.at('type')}' is {other[:40]!r}: this service reads text and image_url parts only",
                    param=part.at("type"),
                    code="unsupported_value",
                )
    return "\n".join(texts), tuple(images)


def _image(part: Fields, info: ModelInfo) -> Image:
    """One image of a `data:` address. Other addresses are never fetched."""
    if "vision" not in info.capabilities:
        raise Unsupported("this model cannot see images", param=part.at("image_url"), hint="send text only")
    holder, key = part, "image_url"
    if isinstance(part.get("image_url"), dict):
        holder, key = part.required_object("image_url"), "url"
    url = holder.required_string(key)
    head = _DATA_URI.match(url)
    if head is None:
        raise invalid(
            holder.at(key),
            "must be a data: address with a base64 PNG, JPEG or WebP image; other addresses are not fetched",
            code="invalid_image_url",
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except binascii.Error as error:
        raise invalid(holder.at(key), "is not valid base64", code="invalid_base64") from error
    kind = media_type(data)
    if kind is None:
        raise invalid(holder.at(key), "is not a PNG, JPEG or WebP image", code="invalid_image_format")
    return Image(media_type=kind, data=data)
