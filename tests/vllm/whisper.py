"""A Whisper of a few megabytes with random weights, as Hugging Face files, written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.audio.whisper import SPECIAL, TEXTS, TIMES, texts_of, tokenizer_of

WIDTH = 64
HEADS = 2
MELS = 80
SIZE = TEXTS + len(SPECIAL) + len(TIMES)
END = TEXTS


def write_whisper(folder: Path, *, seed: int = 4) -> Path:
    """Write the model's folder: weights, vocabulary, tokenizer, features."""
    folder.mkdir(parents=True)
    _save(_weights(np.random.default_rng(seed)), folder / "model.safetensors")
    half = {"attention_heads": HEADS, "layers": 1, "ffn_dim": 2 * WIDTH, "layerdrop": 0.0}
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "dtype": "float32",
        "d_model": WIDTH,
        "num_mel_bins": MELS,
        "vocab_size": SIZE,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "tie_word_embeddings": True,
        "decoder_start_token_id": END + 1,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in half.items()},
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END),
    }
    features = {
        "feature_size": MELS,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
    }
    end = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    for name, content in (
        ("config.json", config),
        ("generation_config.json", {"eos_token_id": END, "pad_token_id": END, "bos_token_id": END}),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor", **features}),
        ("tokenizer.json", tokenizer_of(texts_of())),
        ("tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer", "errors": "replace", **end}),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder


def _weights(random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}

    def normal(name: str, *shape: int, scale: float = 0.3) -> None:
        found[name] = random.normal(0.0, scale, shape).astype(np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        found[f"{name}.bias"] = np.zeros(WIDTH, np.float32)

    def linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        normal(f"{name}.weight", outputs, inputs)
        if bias:
            found[f"{name}.bias"] = np.zeros(outputs, np.float32)

    for side, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn"))):
        layer = f"model.{side}.layers.0"
        for attention in attentions:
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{layer}.{attention}.{part}", WIDTH, WIDTH, bias=part != "k_proj")
            norm(f"{layer}.{attention}_layer_norm")
        linear(f"{layer}.fc1", 2 * WIDTH, WIDTH)
        linear(f"{layer}.fc2", WIDTH, 2 * WIDTH)
        norm(f"{layer}.final_layer_norm")
        norm(f"model.{side}.layer_norm")
    for number, inputs in ((1, MELS), (2, WIDTH)):
        normal(f"model.encoder.conv{number}.weight", WIDTH, inputs, 3)
        found[f"model.encoder.conv{number}.bias"] = np.zeros(WIDTH, np.float32)
    normal("model.encoder.embed_positions.weight", 1500, WIDTH)
    normal("model.decoder.embed_positions.weight", 448, WIDTH, scale=1.0)
    normal("model.decoder.embed_tokens.weight", SIZE, WIDTH, scale=1.0)
    # Of all tokens, bytes make no readable text; ends and times are to come up.
    embedding = found["model.decoder.embed_tokens.weight"]
    embedding[:256] = 0.0
    embedding[END] *= 1.3
    embedding[TEXTS + len(SPECIAL) :] *= 1.3
    return found


def _save(named: dict[str, NDArray[np.float32]], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, data in named.items():
        header[name] = {"dtype": "F32", "shape": list(data.shape), "data_offsets": [at, at + data.nbytes]}
        at += data.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in named.values():
            file.write(data.tobytes())
