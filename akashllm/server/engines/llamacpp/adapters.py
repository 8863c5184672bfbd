"""LoRA adapters: small files whose matrices are added to a model's own while it computes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as api

_SCALE = 1.0
"""How much of an adapter is added, as in Ollama: Modelfiles have no word for less."""


class AdapterRefused(Exception):
    """An adapter does not fit the model, or is none; the message says why."""


class Adapters:
    """All adapters of a model, in order; each is added to what the model and those before it give.

    Raises `AdapterRefused`. `why` is asked for llama.cpp's own words after a failure.
    """

    def __init__(self, model: ctypes.c_void_p, paths: Sequence[Path], why: Callable[[], str]) -> None:
        self._raw: list[ctypes.c_void_p] = []
        for path in paths:
            if not path.is_file():
                message = f"there is no adapter file {path.name}"
                raise AdapterRefused(message)
            found = api.llama_adapter_lora_init(model, str(path).encode())
            if not found:
                message = f"llama.cpp cannot use the adapter {path.name}{why()}"
                raise AdapterRefused(message)
            self._raw.append(found)

    def apply(self, context: ctypes.c_void_p) -> None:
        """Have a context compute with the adapters, which it does from its next step on."""
        count = len(self._raw)
        if not count:
            return
        array_of: Any = api.llama_adapter_lora_p_ctypes * count
        adapters = array_of(*self._raw)
        scales = (ctypes.c_float * count)(*([_SCALE] * count))
        if api.llama_set_adapters_lora(context, adapters, count, scales) != 0:
            message = "llama.cpp cannot use these adapters together"
            raise AdapterRefused(message)
