"""Whisper in CTranslate2's format: which files of a repository it is, and where OpenAI's sizes are."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

REPOSITORIES = {
    "tiny": "Systran/faster-whisper-tiny",
    "tiny.en": "Systran/faster-whisper-tiny.en",
    "base": "Systran/faster-whisper-base",
    "base.en": "Systran/faster-whisper-base.en",
    "small": "Systran/faster-whisper-small",
    "small.en": "Systran/faster-whisper-small.en",
    "medium": "Systran/faster-whisper-medium",
    "medium.en": "Systran/faster-whisper-medium.en",
    "large-v2": "Systran/faster-whisper-large-v2",
    "large-v3": "Systran/faster-whisper-large-v3",
    "large": "Systran/faster-whisper-large-v3",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
}
"""OpenAI's name of a size -> `org/repo` on the Hugging Face hub, as faster-whisper has them (its utils.py)."""

WEIGHTS = "model.bin"
"""CTranslate2's own binary: shapes and numbers, no pickle."""

_BESIDE = ("config.json", "preprocessor_config.json", "tokenizer.json", "vocabulary.*")


def model_files(paths: Iterable[str]) -> tuple[str, ...]:
    """The files of the model among a repository's, the weights last; none if it is no such repository."""
    found = set(paths)
    # Without tokenizer.json faster-whisper would go and look for one by itself.
    if not {WEIGHTS, "config.json", "tokenizer.json"} <= found:
        return ()
    beside = sorted(path for path in found if any(fnmatch.fnmatchcase(path, one) for one in _BESIDE))
    return (*(path for path in beside if "/" not in path), WEIGHTS)
