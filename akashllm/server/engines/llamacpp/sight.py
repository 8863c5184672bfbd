"""The projector: from an image's bytes to embeddings the model reads, through llama.cpp's libmtmd.

Decoding and encoding happen on a thread of their own, while others' answers go on. What an image became is kept
for a while, by the digest of its bytes: a question that follows up needs no second look.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import llama_cpp.llama_cpp as api
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from akashllm.errors import BadModelFile, BadRequest, ServiceError
from akashllm.gguf import read_header
from akashllm.server.domain import ChatPrompt, Image, Message
from akashllm.server.engines.llamacpp.pictures import Picture, Piece

_GREEDY = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger")
_GREEDY_TOKENS = 4096
"""Projectors that make as many tokens as an image has room for, up to this; a grid goes in one step."""

KEPT = 256 * 1024 * 1024
"""Bytes of embeddings that are kept."""

READABLE = ("image/png", "image/jpeg")
"""What libmtmd decodes by itself."""


class Sight:
    """What sees for one model. A step takes `batch` tokens at most, `micro_batch` of them in one pass.

    Raises `ValueError` if the projector cannot be loaded or is none for images.
    """

    def __init__(
        self,
        path: Path,
        model: ctypes.c_void_p,
        *,
        threads: int,
        on_gpu: bool,
        batch: int,
        micro_batch: int,
        log: Any,
    ) -> None:
        mtmd.mtmd_helper_log_set(log, ctypes.c_void_p(0))
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = on_gpu
        params.print_timings = False
        params.n_threads = threads
        params.warmup = False
        if _kind(path) in _GREEDY and batch < _GREEDY_TOKENS:
            params.image_max_tokens = batch
        self._raw = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self._raw:
            message = f"llama.cpp cannot load the projector {path.name}"
            raise ValueError(message)
        if not mtmd.mtmd_support_vision(self._raw):
            message = f"the projector {path.name} is not for images"
            raise ValueError(message)
        self._marker = mtmd.mtmd_default_marker()
        self._width = int(api.llama_model_n_embd_inp(model))
        self._batch = batch
        self._micro_batch = micro_batch
        self._mrope = bool(mtmd.mtmd_decode_use_mrope(self._raw))
        self._looking = Lock()
        self._lock = Lock()
        self._seen: OrderedDict[bytes, tuple[Piece, ...]] = OrderedDict()
        self._size = 0
        # Nobody outside can write it, so nobody can name an image that was not sent along.
        self._secret = secrets.token_hex(16)
        self._mark = re.compile(rf"{self._secret}([0-9a-f]{{64}})")

    def look(self, image: Image) -> tuple[Piece, ...]:
        """What the model sees of an image. Raises `BadRequest` for what is none; may take seconds."""
        digest = hashlib.sha256(image.data).digest()
        pieces = self._known(digest)
        if pieces is None:
            if image.media_type not in READABLE:
                raise BadRequest(
                    f"this engine does not read {image.media_type}", hint="send PNG or JPEG", param="images"
                )
            with self._looking:
                pieces = self._known(digest) or self._keep(digest, self._encode(digest, image.data))
        return pieces

    def shown(
        self, prompt: ChatPrompt, wanted: Callable[[], bool]
    ) -> tuple[ChatPrompt, dict[bytes, tuple[Piece, ...]]]:
        """The chat with a mark in place of each image, and what each mark stands for.

        Images come before the text of their message, as in Ollama. Between two, it is asked whether the
        request is still wanted.
        """
        found: dict[bytes, tuple[Piece, ...]] = {}
        messages: list[Message] = []
        for message in prompt.messages:
            marks: list[str] = []
            for image in message.images:
                if not wanted():
                    raise ServiceError("the request was given up")
                digest = hashlib.sha256(image.data).digest()
                found[digest] = self.look(image)
                marks.append(self._secret + digest.hex())
            text = "\n".join(part for part in ("".join(marks), message.content) if part)
            messages.append(replace(message, content=text, images=()) if marks else message)
        return replace(prompt, messages=tuple(messages)), found

    def marked(self, text: str) -> list[str]:
        """Text, mark, text, mark ... text: the odd ones are digests in hexadecimal."""
        return self._mark.split(text)

    # --- libmtmd -----------------------------------------------------------------------------------------

    def _encode(self, digest: bytes, data: bytes) -> tuple[Piece, ...]:
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(self._raw, buffer, len(data), False)
        if not bitmap:
            raise BadRequest("an image cannot be decoded: it is damaged", param="images")
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text()
            text.text, text.text_len = self._marker, len(self._marker)
            text.add_special, text.parse_special = False, True
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._raw, chunks, ctypes.byref(text), bitmaps, 1):
                raise BadRequest("an image has a shape this model cannot look at", param="images")
            return tuple(
                self._piece(digest, number, mtmd.mtmd_input_chunks_get(chunks, number))
                for number in range(mtmd.mtmd_input_chunks_size(chunks))
            )
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _piece(self, digest: bytes, number: int, chunk: Any) -> Piece:
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            length = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(length))
            return tuple(tokens[: length.value])
        count = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        positions = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        causal = not mtmd.mtmd_decode_use_non_causal(self._raw, chunk)
        # Text can be cut anywhere; what sees all of itself, or lies in a grid, goes in one piece.
        most = self._micro_batch if not causal else self._batch if positions != count else count
        if count > most:
            raise BadRequest(
                f"an image takes {count} tokens, and this service reads {most} of one at most",
                hint="send a smaller image",
                param="images",
            )
        if mtmd.mtmd_encode_chunk(self._raw, chunk):
            raise ServiceError("the engine could not look at an image")
        output = mtmd.mtmd_get_output_embd(self._raw)
        embedding = np.ctypeslib.as_array(output, (count, self._width)).copy()
        return Picture(
            digest + number.to_bytes(4, "big"),
            embedding,
            positions=positions,
            places=_Grid(chunk, count) if self._mrope else _line(count),
            causal=causal,
        )

    def _known(self, digest: bytes) -> tuple[Piece, ...] | None:
        with self._lock:
            if digest in self._seen:
                self._seen.move_to_end(digest)
            return self._seen.get(digest)

    def _keep(self, digest: bytes, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        with self._lock:
            self._seen[digest] = pieces
            self._size += _weight(pieces)
            while self._size > KEPT and len(self._seen) > 1:
                _, oldest = self._seen.popitem(last=False)
                self._size -= _weight(oldest)
        return pieces


class _Grid:
    """Positions in a grid, as libmtmd lays them out. Keeps what it needs of a chunk, not its pixels."""

    def __init__(self, chunk: Any, count: int) -> None:
        self._chunk = mtmd.mtmd_input_chunk_get_placeholder(chunk)
        self._count = count

    def __call__(self, first: int) -> NDArray[np.int32]:
        """Four rows: time, line, column, and one that is not used."""
        tokens = mtmd.mtmd_input_chunk_get_tokens_image(self._chunk)
        places = (mtmd.mtmd_decoder_pos * self._count)()
        mtmd.mtmd_helper_image_get_decoder_pos(tokens, first, places)
        table = np.frombuffer(memoryview(places).cast("B"), np.uint32).reshape(self._count, 4)
        return np.ascontiguousarray(table[:, (0, 2, 1, 3)].T.astype(np.int32))

    def __del__(self) -> None:
        mtmd.mtmd_input_chunk_free(self._chunk)


def _kind(path: Path) -> str:
    """What kind of projector a file has; empty where it cannot be told."""
    try:
        header = read_header(path)
    except BadModelFile:
        return ""
    return header.text("clip.projector_type") or header.text("clip.vision.projector_type")


def _line(count: int) -> Callable[[int], NDArray[np.int32]]:
    return lambda first: np.arange(first, first + count, dtype=np.int32).reshape(1, count)


def _weight(pieces: Sequence[Piece]) -> int:
    return sum(piece.embedding.nbytes for piece in pieces if isinstance(piece, Picture))
