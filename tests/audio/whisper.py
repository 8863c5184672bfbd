"""A Whisper of a few megabytes with random weights, in CTranslate2's format, written by hand.

Neither torch nor transformers is needed for it. It has Whisper's own vocabulary layout, so languages, tasks
and times are real; what it "hears" is made up of syllables.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs.whisper_spec import WhisperSpec
from faster_whisper.tokenizer import _LANGUAGE_CODES
from numpy.typing import NDArray

WIDTH = 32
HEADS = 2
TEXTS = 50_257
LANGUAGES = sorted(_LANGUAGE_CODES, key=lambda code: (code != "en", code))
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
TIMES = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))


def write_whisper(folder: Path, *, seed: int = 4) -> Path:
    """Write the model's folder: weights, vocabulary, tokenizer, features."""
    folder.mkdir(parents=True)
    texts = texts_of()
    vocabulary = [*texts, *SPECIAL, *TIMES]
    spec = _weights(len(vocabulary), np.random.default_rng(seed))
    spec.register_vocabulary(vocabulary)
    first = len(texts) + 2
    spec.config.lang_ids = list(range(first, first + len(LANGUAGES)))
    spec.config.alignment_heads = [(0, 0), (0, 1)]
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [len(texts)]
    spec.validate()
    spec.save(str(folder))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 30}
        )
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(texts)))
    return folder


def texts_of() -> list[str]:
    """The bytes, as byte-level BPE writes them, then words of three syllables."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    for place, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + place)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ("Ġ" + "".join(parts) for parts in itertools.product(syllables, repeat=3))
    # The empty token is where CTranslate2 tells a model of many languages from one of English only.
    return [*letters.values(), *itertools.islice(words, TEXTS - 257), ""]


def tokenizer_of(texts: list[str]) -> dict[str, Any]:
    """`tokenizer.json` over these texts: byte-level, with Whisper's control tokens and times."""
    added = [
        {
            "id": len(texts) + place,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": content in SPECIAL,
        }
        for place, content in enumerate((*SPECIAL, *TIMES))
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: place for place, text in enumerate(texts)},
            "merges": [],
        },
    }


def _weights(size: int, random: np.random.Generator) -> Any:
    def normal(*shape: int, scale: float = 0.3) -> NDArray[np.float32]:
        return random.normal(0.0, scale, shape).astype(np.float32)

    def norm(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(spec: Any, outputs: int, inputs: int) -> None:
        spec.weight, spec.bias = normal(outputs, inputs), np.zeros(outputs, np.float32)

    def layer(spec: Any, *, cross: bool) -> None:
        norm(spec.self_attention.layer_norm)
        linear(spec.self_attention.linear[0], 3 * WIDTH, WIDTH)
        linear(spec.self_attention.linear[1], WIDTH, WIDTH)
        if cross:
            norm(spec.attention.layer_norm)
            linear(spec.attention.linear[0], WIDTH, WIDTH)
            linear(spec.attention.linear[1], 2 * WIDTH, WIDTH)
            linear(spec.attention.linear[2], WIDTH, WIDTH)
        norm(spec.ffn.layer_norm)
        linear(spec.ffn.linear_0, 4 * WIDTH, WIDTH)
        linear(spec.ffn.linear_1, WIDTH, 4 * WIDTH)

    make: Any = WhisperSpec
    spec = make(1, HEADS, 1, HEADS)
    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = normal(WIDTH, 80, 3), np.zeros(WIDTH, np.float32)
    encoder.conv2.weight, encoder.conv2.bias = normal(WIDTH, WIDTH, 3), np.zeros(WIDTH, np.float32)
    encoder.position_encodings.encodings = normal(1500, WIDTH)
    norm(encoder.layer_norm)
    layer(encoder.layer[0], cross=False)
    decoder.embeddings.weight = normal(size, WIDTH, scale=1.0)
    decoder.position_encodings.encodings = normal(448, WIDTH, scale=1.0)
    norm(decoder.layer_norm)
    layer(decoder.layer[0], cross=True)
    # Certain of itself, so that greedy decoding is not repeated at higher temperatures; ends and times come up.
    projection = normal(size, WIDTH, scale=3.0)
    projection[:256] = 0.0
    projection[TEXTS] *= 1.3
    projection[TEXTS + len(SPECIAL) :] *= 1.4
    decoder.projection.weight = projection
    return spec
