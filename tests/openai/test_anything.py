"""Whatever JSON a client sends: a request that can be sent on, or a `BadRequest`. Nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.errors import BadRequest
from akashllm.server.domain import ModelInfo
from akashllm.server.wire.openai import read_chat, read_completion, read_embedding
from akashllm.server.wire.openai.parameters import CHAT, COMPLETIONS, EMBEDDINGS, EXTRAS, IGNORED, SAMPLING

INFO = ModelInfo(name="tiny:latest", vocab_size=2000, capabilities=("completion", "tools", "insert", "vision"))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
WORDS = st.sampled_from(
    [
        *(
            "role",
            "content",
            "type",
            "text",
            "function",
            "name",
            "arguments",
            "tool_calls",
            "parameters",
            "user",
        ),
        *("assistant", "tool", "image_url", "url", "json_schema", "schema", "json_object", "required", "none"),
        *("auto", "data:image/png;base64,AAAA", "get_weather", "mode", "tools", "allowed_tools", "base64"),
    ]
)
SHAPED = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers(-3, 3000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted({*SAMPLING, *EXTRAS, *CHAT, *COMPLETIONS, *EMBEDDINGS, *IGNORED, "options"})
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES | SHAPED, max_size=6)


@settings(max_examples=300, deadline=None)
@given(body=BODIES, messages=st.booleans())
def test_any_body(body: dict[str, Any], *, messages: bool) -> None:
    """Every body is read or refused, and what is read can cross to the engine's process."""
    if messages:
        body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"} | body
    for read in (read_chat, read_completion):
        with contextlib.suppress(BadRequest):
            for generation in read(body, name="tiny", model="tiny:latest", info=INFO).generations:
                msgspec.msgpack.encode(generation)
    with contextlib.suppress(BadRequest):
        msgspec.msgpack.encode(read_embedding(body, name="tiny", model="tiny:latest", info=INFO).embedding)
