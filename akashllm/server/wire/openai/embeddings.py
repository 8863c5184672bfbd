"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from akashllm.server.domain import Embedding, Embeddings, ModelInfo
from akashllm.server.wire.openai.call import new_id
from akashllm.server.wire.openai.encoding import encode
from akashllm.server.wire.openai.reading import Fields, invalid
from akashllm.server.wire.openai.sampling import read_inputs

MAX_INPUTS = 2048
"""OpenAI's own limit."""


class EmbeddingCall(msgspec.Struct, frozen=True, kw_only=True):
    """What to embed, and how to write the vectors down. `model` is the name the client typed."""

    model: str
    embedding: Embedding
    encoding: str = "float"


def read_embedding(values: Mapping[str, Any], *, name: str, model: str, info: ModelInfo) -> EmbeddingCall:
    """A request from its JSON. An input that is too long is refused, never cut: OpenAI's rule, not Ollama's."""
    body = Fields(values)
    inputs, _ = read_inputs(body, "input", info.vocab_size, limit=MAX_INPUTS)
    for position, text in enumerate(inputs):
        if not text:
            where = "input" if len(inputs) == 1 else f"input[{position}]"
            raise invalid(where, "must not be empty")
    encoding = body.choice("encoding_format", ("float", "base64")) or "float"
    dimensions = body.integer("dimensions", 1, info.embedding_length or None)
    return EmbeddingCall(
        model=name,
        encoding=encoding,
        embedding=Embedding(
            id=new_id("embd"), model=model, inputs=tuple(inputs), truncate=False, dimensions=dimensions
        ),
    )


def embedding_answer(call: EmbeddingCall, found: Embeddings) -> bytes:
    """A list of `embedding` objects, in the order of the inputs."""
    return encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _vector(vector, call.encoding)}
                for index, vector in enumerate(found.vectors)
            ],
            "model": call.model,
            "usage": {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens},
        }
    )


def _vector(vector: Sequence[float], encoding: str) -> Sequence[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
