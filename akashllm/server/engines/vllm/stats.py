"""What vLLM says of itself, kept as this service's counts."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from akashllm.server.domain import EngineStats


class Counts(StatLoggerBase):
    """Takes vLLM's counts after each step. Its own names are not stable, so each is looked for with care."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        del engine_index
        self._cache = vllm_config.cache_config
        self._usage = 0.0
        self._steps = 0
        self._prompt = 0
        self._cached = 0
        self._completion = 0

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM."""
        del mm_cache_stats, engine_idx
        if scheduler_stats is not None:
            self._usage = float(getattr(scheduler_stats, "kv_cache_usage", 0.0))
            prefix = getattr(scheduler_stats, "prefix_cache_stats", None)
            self._cached += int(getattr(prefix, "hits", 0) or 0)
        if iteration_stats is not None:
            self._steps += 1
            self._prompt += int(getattr(iteration_stats, "num_prompt_tokens", 0))
            self._completion += int(getattr(iteration_stats, "num_generation_tokens", 0))

    def log_engine_initialized(self) -> None:
        """Called by vLLM."""

    def stats(self) -> EngineStats:
        """The counts now."""
        size = (self._cache.num_gpu_blocks or 0) * (self._cache.block_size or 0)
        return EngineStats(
            kv_used=round(self._usage * size),
            kv_size=size,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            completion_tokens=self._completion,
            steps=self._steps,
        )
