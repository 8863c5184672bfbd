"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from akashllm.server.wire.openai.encoding import encode

OWNER = "library"
"""What Ollama says for models without a namespace."""

_LATEST = ":latest"


def short(name: str) -> str:
    """The id of a served name: `tiny` for `tiny:latest`, other tags stay.

    Clients look for the very name they were configured with in this list, and that has no `:latest`. Requests
    may use either form.
    """
    return name.removesuffix(_LATEST)


def model_object(identifier: str, created: int, context: int = 0) -> dict[str, Any]:
    """A `model` object. `created` is in seconds since the epoch; `max_model_len` in tokens, as vLLM has it."""
    namespace, _, _ = identifier.rpartition("/")
    return {
        "id": identifier,
        "object": "model",
        "created": created,
        "owned_by": namespace.rpartition("/")[2] or OWNER,
    } | ({"max_model_len": context} if context else {})


def models_answer(
    names: Sequence[str], created: int, context: int = 0, others: Iterable[tuple[str, int]] = ()
) -> bytes:
    """All served names, aliases included, and `others` with when each was made. Names are canonical."""
    identifiers = dict.fromkeys(short(name) for name in names if "*" not in name)
    data = [model_object(each, created, context) for each in identifiers]
    known = {each.lower() for each in identifiers}
    data += [model_object(short(name), made) for name, made in others if short(name).lower() not in known]
    return encode({"object": "list", "data": data})


def model_answer(identifier: str, created: int, context: int = 0) -> bytes:
    """One model, under the name it was asked for by."""
    return encode(model_object(identifier, created, context))
