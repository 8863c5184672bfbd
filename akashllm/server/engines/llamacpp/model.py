"""Loading a GGUF file into llama.cpp, carefully: refuse what does not fit or cannot generate."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as api

from akashllm.server.domain import Capability, ModelInfo
from akashllm.server.engines.blame import ORDER, blame
from akashllm.server.engines.frames import Load
from akashllm.server.engines.llamacpp.adapters import AdapterRefused, Adapters
from akashllm.server.engines.llamacpp.context import Context
from akashllm.server.engines.llamacpp.memory import choose_context, choose_threads, fault_of, plan_cache
from akashllm.server.engines.llamacpp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from akashllm.server.engines.llamacpp.sight import Sight

ECHO_ROWS = 64
"""Rows of logits a step may have for a prompt whose log probabilities were asked for."""

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ of llama.cpp."""

_TEXT = 1 << 16
_LEVEL_WARNING = 3
_LEVEL_ERROR = 4
_LEVEL_CONTINUE = 5
_WHO = re.compile(r"\A(?:\w+: )?(?:error loading model: )?")
_ECHO = re.compile(r"failed to load model(?: from .*)?\Z")
"""What llama.cpp's outer functions say after the inner one has said why."""


class ModelRefused(Exception):
    """The model cannot be served; the message says why, and `fault` whose that is (`blame`)."""

    def __init__(self, message: str, *, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class Log:
    """llama.cpp's own log: warnings and errors go to stderr, the last that says why is kept for the reason."""

    def __init__(self) -> None:
        self.last_error = ""
        self._level = 0
        self.callback = api.llama_log_callback(self._write)
        api.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _data: object) -> None:
        if level != _LEVEL_CONTINUE:
            self._level = level
        if self._level in {_LEVEL_WARNING, _LEVEL_ERROR}:
            line = text.decode("utf-8", "replace")
            sys.stderr.write(line)
            sys.stderr.flush()
            words = _WHO.sub("", line.strip())
            if self._level == _LEVEL_ERROR and words and not (self.last_error and _ECHO.search(words)):
                self.last_error = words


class Model:
    """A loaded model with its generation context. Raises `ModelRefused`."""

    def __init__(self, order: Load, progress: Callable[[float], None]) -> None:
        self._log = Log()
        api.llama_backend_init()
        path = Path(order.model)
        if not path.is_file():
            message = f"there is no model file {path.name}"
            raise ModelRefused(message, fault=ORDER)
        self.raw = self._load(path, order, progress)
        self.vocabulary = Vocabulary(self.raw)
        self.metadata = _metadata(self.raw)
        self.architecture = str(self.metadata.get("general.architecture", ""))
        self.train_context = int(api.llama_model_n_ctx_train(self.raw))
        self.width = int(api.llama_model_n_embd_out(self.raw))
        self.generates = self.metadata.get(f"{self.architecture}.attention.causal") != "false"
        self.pooling = int(self.metadata.get(f"{self.architecture}.pooling_type", -1))
        self.whole_prefixes = bool(
            api.llama_model_is_recurrent(self.raw) or api.llama_model_is_hybrid(self.raw)
        )
        """The memory cannot drop the end of a sequence: a cached prefix is used whole or not at all."""
        if api.llama_model_has_encoder(self.raw) or api.llama_model_is_diffusion(self.raw):
            message = (
                f"models of the architecture {self.architecture} do not generate token by token: not supported"
            )
            raise ModelRefused(message, fault=ORDER)
        self.weights = weights = int(api.llama_model_size(self.raw))
        self.threads = choose_threads(order.threads, weights)
        self.on_gpu = on_gpu = bool(api.llama_supports_gpu_offload()) and order.gpu_layers != 0
        self.slots = max(1, min(order.slots, MAX_SEQUENCES // 2 - 1))
        # As many again stay for those who begin alike; one for new-comers, one for the scheduler itself.
        self.sequences = 2 * self.slots + 2
        self.context_length = choose_context(order.context, self.train_context)
        try:
            cells = plan_cache(
                weights=0,
                # The attention mask, which has a row for each token of a pass, grows with the cache.
                per_token=self._cache_bytes() + 6 * order.micro_batch,
                context=self.context_length,
                slots=self.slots,
                wanted=order.cache,
                on_gpu=on_gpu,
            )
            self.batch = max(32, self.slots, min(order.batch, self.context_length))
            self.micro_batch = max(32, min(order.micro_batch, self.batch))
            self.context = Context(
                self.raw,
                vocab_size=self.vocabulary.size,
                cells=_round_up(cells, 256),
                sequences=self.sequences,
                batch=self.batch,
                micro_batch=self.micro_batch,
                outputs=max(ECHO_ROWS, self.slots),
                threads=self.threads,
            )
        except MemoryError as error:
            raise ModelRefused(str(error) + self._because(), fault=fault_of(error)) from error
        try:
            self.adapters = Adapters(self.raw, [Path(path) for path in order.adapters], self._because)
            self.adapters.apply(self.context.raw)
        except AdapterRefused as error:
            raise ModelRefused(str(error), fault=blame(str(error))) from error
        self.template = self._template()
        if self.template:
            # The whole of it: the general way to read metadata cuts long values.
            self.metadata["tokenizer.chat_template"] = self.template
        self.sight = self._look(order.projector) if order.projector else None
        """What turns images into tokens, if there is a projector."""
        self.info = self._describe(order, weights, on_gpu=on_gpu)

    def _load(self, path: Path, order: Load, progress: Callable[[float], None]) -> ctypes.c_void_p:
        params = api.llama_model_default_params()
        params.n_gpu_layers = order.gpu_layers

        def report(done: float, _data: object) -> bool:
            progress(100.0 * done)
            return True

        callback = api.llama_progress_callback(report)
        params.progress_callback = callback
        try:
            # Weights are mapped, not read: only what is beyond memory in any case is refused.
            plan_cache(
                weights=path.stat().st_size,
                per_token=0,
                context=1,
                slots=1,
                wanted=1,
                on_gpu=order.gpu_layers != 0,
            )
        except MemoryError as error:
            raise ModelRefused(str(error), fault=fault_of(error)) from error
        raw = api.llama_model_load_from_file(str(path).encode(), params)
        if not raw:
            message = f"llama.cpp cannot load {path.name}" + self._because()
            raise ModelRefused(message, fault=blame(self._log.last_error))
        loaded: ctypes.c_void_p = raw
        return loaded

    def _look(self, projector: str) -> Sight:
        path = Path(projector)
        if not path.is_file():
            message = f"there is no projector {path.name}"
            raise ModelRefused(message, fault=ORDER)
        try:
            from akashllm.server.engines.llamacpp.sight import Sight
        except (ImportError, OSError, RuntimeError) as error:
            message = "this llama-cpp-python was built without libmtmd, which reads images"
            raise ModelRefused(message, fault=ORDER) from error
        try:
            return Sight(
                path,
                self.raw,
                # Others decode meanwhile, and ggml's threads wait for each other by turning.
                threads=max(1, self.threads // 2),
                on_gpu=self.on_gpu,
                batch=self.batch,
                micro_batch=self.micro_batch,
                log=self._log.callback,
            )
        except ValueError as error:
            raise ModelRefused(str(error) + self._because(), fault=blame(self._log.last_error)) from error

    def _because(self) -> str:
        return f": {self._log.last_error}" if self._log.last_error else ""

    def _cache_bytes(self) -> int:
        """Bytes of key-value cache a token takes, in float16."""
        layers = int(api.llama_model_n_layer(self.raw))
        heads = max(1, int(api.llama_model_n_head(self.raw)))
        kv_heads = max(1, int(api.llama_model_n_head_kv(self.raw)))
        size = int(api.llama_model_n_embd(self.raw)) // heads
        key = int(self.metadata.get(f"{self.architecture}.attention.key_length", size))
        value = int(self.metadata.get(f"{self.architecture}.attention.value_length", size))
        return layers * kv_heads * (key + value) * 2

    def _template(self) -> str:
        found = api.llama_model_chat_template(self.raw, None)
        return found.decode("utf-8", "replace") if found else ""

    def _describe(self, order: Load, weights: int, *, on_gpu: bool) -> ModelInfo:
        """What loading tells; the file itself tells the service more."""
        capabilities: tuple[Capability, ...] = ("completion",) if self.generates else ("embedding",)
        if self.sight is not None:
            capabilities = (*capabilities, "vision")
        memory = weights + self.context.cells * self._cache_bytes()
        return ModelInfo(
            name=order.name,
            family=self.architecture,
            parameters=int(api.llama_model_n_params(self.raw)),
            context=self.context_length,
            train_context=self.train_context,
            embedding_length=self.width,
            vocab_size=self.vocabulary.size,
            slots=self.slots,
            size=weights,
            memory=memory,
            vram=memory if on_gpu else 0,
            capabilities=capabilities,
            chat_template=self.template,
            bos=self.vocabulary.text(self.vocabulary.bos),
            eos=self.vocabulary.text(self.vocabulary.eos),
            metadata={
                key: value
                for key, value in self.metadata.items()
                if not key.startswith("tokenizer.chat_template")
            },
        )


def _metadata(raw: ctypes.c_void_p) -> dict[str, Any]:
    found: dict[str, Any] = {}
    key = ctypes.create_string_buffer(512)
    value = ctypes.create_string_buffer(_TEXT)
    for index in range(api.llama_model_meta_count(raw)):
        if api.llama_model_meta_key_by_index(raw, index, key, 512) < 0:
            continue
        if api.llama_model_meta_val_str_by_index(raw, index, value, _TEXT) < 0:
            continue
        found[key.value.decode("utf-8", "replace")] = value.value.decode("utf-8", "replace")
    return found


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to
