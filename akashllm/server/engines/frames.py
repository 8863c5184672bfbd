"""What the service and an engine's child process say to each other.

A frame is a length (four bytes, big endian) and a MessagePack map. The protocol knows no engine: requests and
events are the neutral types of `akashllm.server.domain`, errors are a `Fault` with the name of the error class.
The child answers with one `Step` frame a decode step, whatever the number of running requests.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec

from akashllm import errors
from akashllm.errors import BadRequest, ContextOverflow, ServiceError
from akashllm.server.domain import (
    Delta,
    Done,
    Embedding,
    Embeddings,
    EngineStats,
    Finish,
    Generation,
    Heard,
    ModelInfo,
    Segment,
    Started,
    Transcription,
)

MAX_FRAME = 256 * 1024 * 1024
"""Bytes. A frame that claims to be longer is a fault of the other side, not a reason to allocate."""

HEADER = struct.Struct(">I")


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load", omit_defaults=True):
    """Load a model; the first frame a child receives. 0 means: choose.

    context     tokens one request may use
    slots       sequences decoded at the same time
    cache       tokens the key-value cache holds for all sequences together
    batch       tokens evaluated in one step at most;  micro_batch: in one pass of the device
    template    a Go template instead of the model's own; empty: the model's own
    adapters    LoRA files to add to the model;  projector: the file of what turns images into tokens
    options     what only one kind of engine knows of, in its own words
    """

    model: str
    name: str
    context: int = 0
    slots: int = 8
    cache: int = 0
    threads: int = 0
    gpu_layers: int = -1
    batch: int = 2048
    micro_batch: int = 512
    template: str = ""
    adapters: tuple[str, ...] = ()
    projector: str = ""
    options: dict[str, Any] = {}


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit"):
    """Start a request. `key` names it on this connection."""

    key: int
    request: Generation


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop a request; unknown keys are ignored, and nothing more is said about it."""

    key: int


class Hold(msgspec.Struct, frozen=True, kw_only=True, tag="hold"):
    """Stop or go on producing for a request whose reader is slow."""

    key: int
    on: bool


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Embed the inputs; answered by a `Reply` of `Embeddings`."""

    key: int
    request: Embedding


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Answered by a `Reply` of token ids."""

    key: int
    text: str
    special: bool = True
    bos: bool = False


class Detokenize(msgspec.Struct, frozen=True, kw_only=True, tag="detokenize"):
    """Answered by a `Reply` of text."""

    key: int
    tokens: tuple[int, ...]


class Transcribe(msgspec.Struct, frozen=True, kw_only=True, tag="transcribe"):
    """Write down what is said; answered by steps with `Heard`, `Segment`s and `Transcribed`."""

    key: int
    request: Transcription


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """Leave at once."""


Order = Load | Submit | Cancel | Hold | Embed | Tokenize | Detokenize | Transcribe | Shutdown


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How much of the model is loaded, 0 to 100."""

    percent: float


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and a first token came out."""

    info: ModelInfo


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", omit_defaults=True):
    """The model cannot be loaded, and trying again would not help. `fault`: whose that is (`blame`)."""

    reason: str
    fault: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag="fault", omit_defaults=True):
    """An error of one request. `kind` is a class of `akashllm.errors`; `numbers` are its counts, if any."""

    kind: str
    message: str
    hint: str = ""
    code: str | None = None
    param: str | None = None
    numbers: tuple[int, ...] = ()


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The end of the prompt as the model sees it: whether a template opened a thinking block shows there."""

    tail: str


class Transcribed(msgspec.Struct, frozen=True, kw_only=True, tag="transcribed"):
    """A transcription has ended."""


Told = Started | Delta | Finish | Done | Opened | Heard | Segment | Transcribed


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """One event of one request."""

    key: int
    event: Told | Fault


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Everything a step produced, for all requests, in order."""

    answers: list[Answer]


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply", omit_defaults=True):
    """The answer to an order that has one."""

    key: int
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    embeddings: Embeddings | None = None
    fault: Fault | None = None


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag="beat"):
    """The child is alive. `age`: seconds the present step has run; `tokens`: its size, 0 while idle."""

    stats: EngineStats
    age: float = 0.0
    tokens: int = 0


Report = Progress | Ready | Refused | Step | Reply | Beat

_encoder = msgspec.msgpack.Encoder()
_orders = msgspec.msgpack.Decoder(Order)
_reports = msgspec.msgpack.Decoder(Report)


def encode(frame: Order | Report) -> bytes:
    """The frame with its length in front."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


def decode_order(body: bytes | bytearray | memoryview) -> Order:
    """A frame on its way to the child. Raises `msgspec.ValidationError`."""
    order: Order = _orders.decode(body)
    return order


def decode_report(body: bytes | bytearray | memoryview) -> Report:
    """A frame on its way to the service. Raises `msgspec.ValidationError`."""
    report: Report = _reports.decode(body)
    return report


def receive(connection: socket.socket) -> bytes | None:
    """The body of the next frame from a blocking socket; None once the other side is gone."""
    header = _exactly(connection, HEADER.size)
    if header is None:
        return None
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME:
        return None
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        try:
            part = connection.recv(min(count, 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def fault(error: ServiceError) -> Fault:
    """An error as it crosses the connection."""
    numbers: tuple[int, ...] = ()
    if isinstance(error, ContextOverflow):
        numbers = (error.prompt_tokens, error.context)
    return Fault(
        kind=type(error).__name__,
        message=error.message,
        hint=error.hint,
        code=error.code,
        param=error.param,
        numbers=numbers,
    )


def revive(fault: Fault) -> ServiceError:
    """The error that crossed the connection, as the class it was."""
    if fault.kind == ContextOverflow.__name__ and len(fault.numbers) == 2:
        return ContextOverflow(*fault.numbers, param=fault.param)
    kind: Any = getattr(errors, fault.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, ServiceError)):
        kind = ServiceError
    if kind is ContextOverflow:
        kind = BadRequest
    error: ServiceError = kind(fault.message, hint=fault.hint, code=fault.code, param=fault.param)
    return error
