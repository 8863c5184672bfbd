"""The tables of parameters against the official client's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from akashllm.server.wire.openai.parameters import CHAT, COMPLETIONS, EMBEDDINGS, EXTRAS, IGNORED, SAMPLING

SEED_DOCUMENT = """
    stream temperature max_tokens top_p stop seed frequency_penalty presence_penalty best_of n logprobs
    top_logprobs logit_bias response_format tools tool_choice suffix echo
    top_k min_p repeat_penalty_num repeat_penalty
"""


@pytest.mark.parametrize(
    ("body", "table"),
    [
        (chat_create_params.CompletionCreateParamsBase, {**SAMPLING, **CHAT}),
        (completion_create_params.CompletionCreateParamsBase, {**SAMPLING, **COMPLETIONS}),
        (embedding_create_params.EmbeddingCreateParams, EMBEDDINGS),
    ],
)
def test_every_parameter_of_the_client_is_decided(body: type[Any], table: Mapping[str, str]) -> None:
    """Each parameter the official client can send either works or is ignored for a written reason."""
    undecided = set(get_type_hints(body)) - table.keys() - IGNORED.keys()
    assert not undecided


def test_every_parameter_of_the_endpoint_document_works() -> None:
    """Nothing the endpoint document promises is on the list of what is ignored."""
    works = SAMPLING.keys() | CHAT.keys() | COMPLETIONS.keys() | EXTRAS.keys()
    assert set(SEED_DOCUMENT.split()) <= works
    assert not works & IGNORED.keys()
