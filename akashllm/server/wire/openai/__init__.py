"""OpenAI's dialect: pure conversions between its JSON and the neutral words."""

from __future__ import annotations

from akashllm.server.wire.openai.answers import Collected
from akashllm.server.wire.openai.call import Call
from akashllm.server.wire.openai.chat import ChatCall, ChatStream, chat_answer, read_chat
from akashllm.server.wire.openai.completions import (
    CompletionCall,
    CompletionStream,
    completion_answer,
    read_completion,
)
from akashllm.server.wire.openai.embeddings import EmbeddingCall, embedding_answer, read_embedding
from akashllm.server.wire.openai.errors import error_body, error_event, error_object
from akashllm.server.wire.openai.listing import model_answer, models_answer, short

__all__ = [
    "Call",
    "ChatCall",
    "ChatStream",
    "Collected",
    "CompletionCall",
    "CompletionStream",
    "EmbeddingCall",
    "chat_answer",
    "completion_answer",
    "embedding_answer",
    "error_body",
    "error_event",
    "error_object",
    "model_answer",
    "models_answer",
    "read_chat",
    "read_completion",
    "read_embedding",
    "short",
]
