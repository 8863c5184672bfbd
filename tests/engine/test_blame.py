"""Which failures of a load end a deployment, and which move it to the next provider."""

from __future__ import annotations

import pytest

from akashllm.server.engines.blame import ORDER, blame

ORDERED = [
    "unknown model architecture: 'next-year'",
    "invalid magic characters: 'PK', expected 'GGUF'",
    "tensor 'blk.3.ffn_up.weight' data is not within the file bounds, model is corrupted or incomplete",
    "missing tensor 'output_norm.weight'",
    "unknown pre-tokenizer type: 'next-year'",
    "Unsupported model binary version. This executable supports models with binary version v6 or below",
    "Model architectures ['NextYearForCausalLM'] are not supported for now. (ValueError)",
    "User-specified max_model_len (9999999) is greater than the derived max_model_len (8192) (ValueError)",
    "Total number of attention heads (14) must be divisible by tensor parallel size (4). (ValueError)",
]
PERHAPS_NOT = [
    "",
    "unable to allocate CUDA0 buffer",
    "CUDA failed with error out of memory",
    "CUDA driver version is insufficient for CUDA runtime version",
    "mmap failed: Cannot allocate memory",
    "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. (ValueError)",
    "The model's max seq len (131072) is larger than what KV cache can hold (9000). (ValueError)",
    "No available memory for the cache blocks. (ValueError)",
    "CUDA out of memory. Tried to allocate 2.00 GiB (OutOfMemoryError)",
    "[Errno 5] Input/output error",
]


@pytest.mark.parametrize("words", ORDERED)
def test_what_was_ordered_fails_everywhere(words: str) -> None:
    """A file that is none, an architecture nobody knows, settings that contradict the model."""
    assert blame(words) == ORDER


@pytest.mark.parametrize("words", PERHAPS_NOT)
def test_what_may_be_the_machines_is_tried_elsewhere(words: str) -> None:
    """Memory, GPUs, drivers and disks differ, and silence proves nothing."""
    assert blame(words) == ""
