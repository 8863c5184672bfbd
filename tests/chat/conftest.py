"""The bundled model's vocabulary, loaded once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest


class Vocabulary:
    """Tokenising as the engine does it, straight on llama.cpp."""

    def __init__(self, path: str) -> None:
        import llama_cpp

        self._llama = llama_cpp
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.special: dict[str, int] = {}
        marked = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        for token in range(llama_cpp.llama_vocab_n_tokens(self.vocab)):
            if llama_cpp.llama_vocab_get_attr(self.vocab, token) & marked:
                self.special[llama_cpp.llama_vocab_get_text(self.vocab, token).decode()] = token
        buffer = ctypes.create_string_buffer(65536)
        llama_cpp.llama_model_meta_val_str(self._model, b"tokenizer.chat_template", buffer, 65536)
        self.template = buffer.value.decode()

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids, no BOS."""
        data = text.encode()
        room = (self._llama.llama_token * (len(data) + 8))()
        count = self._llama.llama_tokenize(self.vocab, data, len(data), room, len(room), False, special)
        return list(room[:count])

    def close(self) -> None:
        """Free the model."""
        self._llama.llama_model_free(self._model)


@pytest.fixture(scope="session")
def vocabulary() -> Iterator[Any]:
    """The bundled model's vocabulary and chat template."""
    one = Vocabulary(str(files("akashllm.models") / "tiny-q8_0.gguf"))
    yield one
    one.close()
