"""The sum: weights, cache, working memory and what the engine takes for itself, per GPU and in all."""

from __future__ import annotations

from dataclasses import dataclass

from akashllm.catalog.model import Model
from akashllm.plan import EngineName, MemoryLine
from akashllm.sizing.quants import Quant, weight_bytes

GIB = 1024**3
MIB = 1024**2

CACHE_BYTES = 2
"""llama.cpp, Ollama and vLLM keep keys and values in 16 bits unless told otherwise."""

BEAMS = 5
"""Transcripts faster-whisper follows at once, of which it keeps the best (its default `beam_size`)."""

UBATCH = 512
"""llama.cpp's physical batch, `n_ubatch`."""

CELLS = 256
"""llama.cpp rounds a cache up to a multiple of this many tokens."""

VLLM_BATCHED_TOKENS = 8192
"""vLLM's largest default of `max_num_batched_tokens` for serving (vllm/engine/arg_utils.py)."""

VLLM_SEQUENCES = 256
"""vLLM samples at most as many sequences at once by default (`max_num_seqs`)."""

VLLM_SHARE = 0.92
"""vLLM's `gpu_memory_utilization`: the part of a GPU's memory it plans with."""

CONTEXT_MIB = {"vllm": 600, "llamacpp": 500, "ollama": 500}
"""CUDA context, cuBLAS workspaces and, for vLLM, CUDA graphs and NCCL buffers, per GPU."""

GRAPHS_MIB = 1024
"""vLLM's captured CUDA graphs, per GPU."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica needs.

    lines       the sum, as one GPU (or plain memory) would have to hold it
    weights     bytes of weights
    cache       bytes of keys and values for `context` times `concurrency` tokens
    working     bytes of activations and logits on each GPU
    fixed       bytes the engine takes on each GPU before any of it
    shardable_cache  False where every GPU holds the whole cache (multi-head latent attention)
    layers      blocks of the model, which no engine cuts when it deals them out
    """

    lines: tuple[MemoryLine, ...]
    weights: int
    cache: int
    working: int
    fixed: int
    shardable_cache: bool
    layers: int

    @property
    def total_gib(self) -> float:
        """The sum on one GPU, in GiB."""
        return (self.weights + self.cache + self.working + self.fixed) / GIB

    def per_gpu_gib(self, count: int, kv_heads: int, engine: EngineName, nodes: int = 1) -> float:
        """What the fullest of `count` GPUs of each node has to hold, in GiB. Each node has some of the layers.

        llama.cpp gives each GPU some layers, the output matrix counting as one (llama-model.cpp, load_tensors).
        vLLM gives each GPU some heads of every layer of its node: where there are fewer KV heads than GPUs they
        are copied, and a compressed cache has none to share out.
        """
        if engine == "vllm":
            heads = kv_heads if self.shardable_cache else 1
            shared = self.weights / count + self.cache / max(1, min(count, heads))
            shared *= _largest_share(self.layers, nodes)
        else:
            shared = (self.weights + self.cache) * _largest_share(self.layers + 1, count)
        return (shared + self.working + self.fixed) / GIB


def _largest_share(things: int, owners: int) -> float:
    """The part of the whole that comes to whoever gets the most of `things` dealt out evenly."""
    return -(-things // owners) / things


def cache_bytes(model: Model, context: int, concurrency: int, engine: EngineName) -> int:
    """Keys and values of `concurrency` sequences of `context` tokens. Window layers keep their window."""
    shape = model.shape
    if shape.kind == "speech":
        # Cross attention remembers the whole audio, self attention the text.
        tokens = (1 if engine == "vllm" else BEAMS) * context + shape.audio_positions
        return shape.layers * shape.cache_values() * CACHE_BYTES * tokens * concurrency
    full, windowed = shape.cache_layers()
    kept = min(context, shape.window) * concurrency
    if engine != "vllm" and windowed:
        # llama_kv_cache_iswa: the window of every sequence plus one physical batch, in steps of 256 cells.
        kept = min(context * concurrency, -(-(kept + UBATCH) // CELLS) * CELLS)
    return shape.cache_values() * CACHE_BYTES * (full * context * concurrency + windowed * kept)


def working_bytes(model: Model, engine: EngineName) -> int:
    """Activations and logits of one batch.

    llama.cpp: float32 logits and one hidden state for every token of the physical batch; for Llama 3 8B that
    is the 258.5 MiB its log prints as "CUDA0 compute buffer". vLLM: 16-bit activations of the widest layer for
    `max_num_batched_tokens`, and float32 logits with their sorted copy for `max_num_seqs`.
    faster-whisper: the encoder's widest layer and attention scores with their softmax, in 32 bits. Measured
    with the CUDA context for the Large v3 and its Turbo in 16 bits: 4521 and 2537 MB (faster-whisper,
    issue 1030).
    """
    shape = model.shape
    if shape.kind == "speech" and engine != "vllm":
        sound = shape.audio_positions
        return 4 * sound * (4 * shape.hidden + 2 * shape.ffn) + 8 * shape.heads * sound * sound
    inner = max(
        shape.ffn if not shape.experts or shape.dense_layers else 0, shape.expert_ffn * shape.experts_used
    )
    if engine == "vllm":
        wide = 2 * VLLM_BATCHED_TOKENS * (4 * shape.hidden + 3 * inner)
        logits = VLLM_SEQUENCES * shape.vocab * 10 if model.task == "chat" else 0
        return wide + logits
    if model.task == "embedding":
        return 4 * UBATCH * (4 * shape.hidden + 2 * inner)
    return 4 * UBATCH * max(shape.vocab + shape.hidden, 2 * inner + 4 * shape.hidden)


def estimate(
    model: Model, quant: Quant, *, engine: EngineName, context: int, concurrency: int, gpu: bool = True
) -> Need:
    """What `model` in `quant` needs to answer `concurrency` requests of `context` tokens at once."""
    weights = weight_bytes(model, quant, engine)
    cache = cache_bytes(model, context, concurrency, engine)
    working = working_bytes(model, engine)
    fixed = (CONTEXT_MIB[engine] + (GRAPHS_MIB if engine == "vllm" else 0)) * MIB if gpu else 300 * MIB
    bits = weights * 8 / model.parameters
    lines = [
        MemoryLine(
            what="weights",
            gib=_gib(weights),
            note=f"{model.billions} parameters in {quant.name}, {bits:.2f} bits each",
        )
    ]
    if cache:
        lines.append(
            MemoryLine(what="KV cache", gib=_gib(cache), note=_cache_note(model, engine, context, concurrency))
        )
    lines.append(
        MemoryLine(what="activations and logits", gib=_gib(working), note=_working_note(model, engine))
    )
    lines.append(MemoryLine(what="engine", gib=_gib(fixed), note=_fixed_note(engine, gpu=gpu)))
    return Need(tuple(lines), weights, cache, working, fixed, not model.shape.kv_rank, model.shape.layers)


def _gib(count: int) -> float:
    return round(count / GIB, 3)


def _cache_note(model: Model, engine: EngineName, context: int, concurrency: int) -> str:
    shape = model.shape
    full, windowed = shape.cache_layers()
    who = f"{concurrency} x {context} tokens"
    if shape.kind == "speech":
        beams = "" if engine == "vllm" else f" in {BEAMS} beams"
        return f"{who} of text{beams} and {shape.audio_positions} of audio"
    if shape.kv_rank:
        return f"{who}, {full} layers of {shape.cache_values()} compressed values"
    heads = f"{shape.kv_heads} KV heads of {shape.head_size}"
    if windowed:
        return f"{who}, {heads}, {full} full layers and {windowed} with a window of {shape.window}"
    return f"{who}, {full} layers, {heads}"


def _working_note(model: Model, engine: EngineName) -> str:
    if model.shape.kind == "speech" and engine != "vllm":
        return "30 s of sound"
    return f"a batch of {VLLM_BATCHED_TOKENS if engine == 'vllm' else UBATCH} tokens"


def _fixed_note(engine: EngineName, *, gpu: bool) -> str:
    if not gpu:
        return "the process itself"
    return "CUDA context and graphs" if engine == "vllm" else "CUDA context and workspaces"
