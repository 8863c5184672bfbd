"""What both dialects are to the engine: how to ask, and how to read what comes back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from akashllm.server.chat.formats import ChatFormat
from akashllm.server.domain import Embedding, Embeddings, Event, Generation, ModelInfo


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about an upstream when it was connected.

    model    what it calls the model
    flavour  which server it is: llamacpp, vllm, akashllm, ollama, or openai for any other
    tails    the end of a prompt in the upstream's own template, by what `think` was; only where the upstream
             leaves the thinking in the text
    context  tokens to ask for with every request (Ollama's `num_ctx`, always the same: another would make it
             load the model again); 0: none
    digest   of the model, 64 hexadecimal digits, if the upstream tells
    """

    model: str
    flavour: str
    info: ModelInfo
    form: ChatFormat | None = None
    tails: dict[bool | None, str] = {}
    context: int = 0
    digest: str | None = None


class Reader(Protocol):
    """Reads one answer. Raises a `ServiceError` for one that breaks off or says that it failed."""

    over: bool
    """The end mark has come."""

    def feed(self, data: bytes) -> Iterable[Event]:
        """The events of one payload of the stream."""
        ...

    def end(self) -> Iterable[Event]:
        """The stream is over: what is still to say, `Done` last."""
        ...


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it goes out, and the reader of its answer. `events`: server-sent events, else NDJSON."""

    path: str
    body: dict[str, Any]
    reader: Reader
    events: bool


class Dialect(Protocol):
    """How one kind of upstream is spoken with."""

    @property
    def choices(self) -> bool:
        """Whether one request can have several choices; otherwise each choice is a request."""
        ...

    @property
    def takes_tokens(self) -> bool:
        """Whether prompts and inputs may be token ids; otherwise they are spelled out before."""
        ...

    def ask(self, request: Generation) -> Asked:
        """The upstream's request for ours. Raises `Unsupported` for what it cannot do."""
        ...

    def embedding(self, request: Embedding) -> tuple[str, dict[str, Any]]:
        """Path and body of a request for embeddings."""
        ...

    def embeddings(self, answer: Any) -> Embeddings:
        """The vectors of an answer, as they came."""
        ...

    def tokens(self, text: str, *, special: bool, bos: bool) -> tuple[str, dict[str, Any]]:
        """Path and body of a request to tokenise. The answer has `tokens`. Raises `Unsupported`."""
        ...

    def text(self, tokens: list[int]) -> tuple[str, dict[str, Any]]:
        """Path and body of a request for the text of tokens. Only where tokens are taken."""
        ...
