"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, all four always there."""

from __future__ import annotations

from typing import Any

import msgspec

from akashllm.errors import ServiceError

_SERVER_FAULT = 500


def error_object(error: ServiceError) -> dict[str, Any]:
    """The value of `error`. The type follows the status: the client's fault, or the server's."""
    status = error.http_status or _SERVER_FAULT
    return {
        "message": f"{error.message}; {error.hint}" if error.hint else error.message,
        "type": "server_error" if status >= _SERVER_FAULT else "invalid_request_error",
        "param": error.param,
        "code": error.code,
    }


def error_body(error: ServiceError) -> bytes:
    """The body of an error response."""
    return msgspec.json.encode({"error": error_object(error)})


def error_event(error: ServiceError) -> bytes:
    """The end of a stream that broke: the official clients raise on it, others see that the stream is over."""
    return b"data: " + error_body(error) + b"\n\ndata: [DONE]\n\n"
