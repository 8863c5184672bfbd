"""One llama.cpp context: its cache, its decode call, its logits as numpy."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as api
import numpy as np
from numpy.typing import NDArray

from akashllm.server.engines.llamacpp.batch import Batch

CACHE_FULL = 1
ABORTED = 2


class Context:
    """A context of `sequences` sequences that share `cells` cells of cache.

    Raises `MemoryError` if llama.cpp cannot make it.
    """

    def __init__(
        self,
        model: ctypes.c_void_p,
        *,
        vocab_size: int,
        cells: int,
        sequences: int,
        batch: int,
        micro_batch: int,
        outputs: int,
        threads: int,
        embeddings: bool = False,
        pooling: int = api.LLAMA_POOLING_TYPE_UNSPECIFIED,
    ) -> None:
        params = api.llama_context_default_params()
        check_layout(params)
        params.n_ctx = cells
        params.n_batch = batch
        params.n_ubatch = min(micro_batch, batch)
        params.n_seq_max = sequences
        params.n_outputs_max = 0 if embeddings else min(outputs, batch)
        params.n_outputs_max_per_seq = 0
        params.n_threads = threads
        params.n_threads_batch = threads
        params.embeddings = embeddings
        params.pooling_type = pooling
        params.kv_unified = True
        params.no_perf = True
        # The callback is asked between the operations of a step. strlen of a one-byte string is a flag that can
        # be read without Python, hence without its lock: "" goes on, "x" aborts.
        self._flag = ctypes.create_string_buffer(2)
        self._callback = api.ggml_abort_callback(_address(ctypes.CDLL(None).strlen))
        params.abort_callback = self._callback
        params.abort_callback_data = ctypes.addressof(self._flag)
        raw = api.llama_init_from_model(model, params)
        if not raw:
            message = f"llama.cpp cannot make a context of {cells} tokens"
            raise MemoryError(message)
        self.raw = raw
        self.memory = api.llama_get_memory(raw)
        self.cells = int(api.llama_n_ctx(raw))
        self.vocab_size = vocab_size
        self.batch = Batch(batch)
        prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
        library = api._lib  # noqa: SLF001 - the package offers no other way to the function's address
        self._logits_address = prototype(_address(library.llama_get_logits))
        self._view: tuple[int, int, NDArray[np.float32]] | None = None

    def decode(self) -> int:
        """Evaluate the batch: 0, `CACHE_FULL`, `ABORTED`, or negative for what llama.cpp refuses."""
        return int(api.llama_decode(self.raw, self.batch.ready()))

    def look(
        self, embedding: NDArray[np.float32], places: NDArray[np.int32], sequence: int, *, causal: bool
    ) -> int:
        """Evaluate embeddings of a picture in a step of their own; as `decode`. `places`: a row a dimension."""
        count = len(embedding)
        sequences = np.full(count, sequence, np.int32)
        start = sequences.ctypes.data
        pointers = np.arange(start, start + 4 * count, 4, dtype=np.uintp)
        ones, outputs = np.ones(count, np.int32), np.zeros(count, np.int8)
        raw: Any = api.llama_batch()
        raw.n_tokens = count
        raw.token = None
        raw.embd = ctypes.cast(embedding.ctypes.data, ctypes.POINTER(ctypes.c_float))
        raw.pos = ctypes.cast(places.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        raw.n_seq_id = ctypes.cast(ones.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        raw.seq_id = ctypes.cast(pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        raw.logits = ctypes.cast(outputs.ctypes.data, ctypes.POINTER(ctypes.c_int8))
        if not causal:
            api.llama_set_causal_attn(self.raw, False)
        try:
            return int(api.llama_decode(self.raw, raw))
        finally:
            if not causal:
                api.llama_set_causal_attn(self.raw, True)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """The logits of the last step, a row an output, in the order of the batch; ours until the next step."""
        address = self._logits_address(self.raw)
        if self._view is None or self._view[0] != address or self._view[1] < rows:
            buffer = (ctypes.c_float * (rows * self.vocab_size)).from_address(address)
            view = np.frombuffer(memoryview(buffer), np.float32).reshape(rows, self.vocab_size)
            self._view = (address, rows, view)
        return self._view[2][:rows]

    def pooled(self, sequence: int, length: int) -> NDArray[np.float32] | None:
        """The pooled embedding of a sequence of the last batch."""
        pointer = api.llama_get_embeddings_seq(self.raw, sequence)
        return np.ctypeslib.as_array(pointer, (length,)).copy() if pointer else None

    def abort(self) -> None:
        """Stop the step that is running; callable from any thread."""
        self._flag.raw = b"x\0"

    def resume(self) -> None:
        """Let the next step run."""
        self._flag.raw = b"\0\0"

    def clear(self) -> None:
        """Forget every sequence."""
        api.llama_memory_clear(self.memory, False)

    def remove(self, sequence: int, start: int, end: int = -1) -> bool:
        """Take positions out of a sequence; False where the memory cannot do that in part."""
        return bool(api.llama_memory_seq_rm(self.memory, sequence, start, end))

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Share positions of one sequence with another."""
        api.llama_memory_seq_cp(self.memory, source, target, start, end)

    def shift(self, sequence: int, start: int, by: int) -> None:
        """Move the positions from `start` on."""
        api.llama_memory_seq_add(self.memory, sequence, start, -1, by)

    def save(self, sequence: int) -> NDArray[np.uint8] | None:
        """What the cache holds of a sequence, to be restored later."""
        size = int(api.llama_state_seq_get_size(self.raw, sequence))
        data = np.empty(size, np.uint8)
        done = api.llama_state_seq_get_data(self.raw, _bytes_of(data), size, sequence)
        return data[: int(done)] if done else None

    def restore(self, sequence: int, data: NDArray[np.uint8]) -> bool:
        """Put saved contents into an empty sequence; False if there is no room."""
        return bool(api.llama_state_seq_set_data(self.raw, _bytes_of(data), len(data), sequence))

    def can_shift(self) -> bool:
        """Whether positions can be moved at all."""
        return bool(api.llama_memory_can_shift(self.memory))

    def close(self) -> None:
        """Give the memory back."""
        if self.raw:
            api.llama_free(self.raw)
            self.raw = None


def _bytes_of(data: NDArray[np.uint8]) -> Any:
    return ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def check_layout(params: api.llama_context_params) -> None:
    """Binding and library are one unit: a library with another struct layout reads our fields as others.

    Raises RuntimeError if the defaults of the library do not arrive where the binding looks for them.
    """
    defaults = (params.n_batch, params.n_ubatch, params.offload_kqv, params.op_offload, params.swa_full)
    if defaults != (2048, 512, True, True, True):
        message = f"llama-cpp-python and its library do not fit together: default parameters read as {defaults}"
        raise RuntimeError(message)
