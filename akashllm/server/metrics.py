"""What the service counts, in Prometheus' text format. One registry an application, so tests do not share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from akashllm.server.domain import EngineStats, Usage
from akashllm.server.engine import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_STATES: tuple[State, ...] = ("starting", "loading", "ready", "failed", "unloaded")


class Snapshot(NamedTuple):
    """What somebody else keeps: the deployed model's state, and figures over all models.

    models   bytes in memory by name, 0 for a model that is not loaded;  budget: bytes for all, 0: no limit
    """

    state: State
    stats: EngineStats
    used: int
    slots: int
    waiting: int
    models: Mapping[str, int]
    budget: int


class Metrics:
    """Counters and histograms; durations in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix: dict[str, Any] = {"namespace": "akashllm", "registry": self.registry}
        self._requests = Counter("http_requests", "Requests by route and status", ["route", "status"], **prefix)
        self._duration = Histogram(
            "http_request_duration_seconds", "Whole requests", ["route"], buckets=_WAITS, **prefix
        )
        self.queue_time = Histogram("queue_seconds", "Wait for a slot", buckets=_WAITS, **prefix)
        self.load_time = Histogram("load_wait_seconds", "Wait for the model to load", buckets=_WAITS, **prefix)
        self.first_token = Histogram(
            "time_to_first_token_seconds", "From the request to its first token", buckets=_WAITS, **prefix
        )
        self.inter_token = Histogram(
            "inter_token_latency_seconds", "Between tokens of one answer", buckets=_TOKENS, **prefix
        )
        self._prompt = Counter("prompt_tokens", "Tokens of prompts", **prefix)
        self._cached = Counter("cached_tokens", "Prompt tokens that came from the cache", **prefix)
        self._completion = Counter("completion_tokens", "Tokens generated", **prefix)
        self._outcomes = Counter("generations", "Generations by outcome", ["outcome"], **prefix)
        self._used = time.monotonic()
        self._at_work = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request. `route` is a path template, so the labels are bounded."""
        # What listens counts no tokens of a model.
        if route.startswith("/v1/audio"):
            self._used = time.monotonic()
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    @property
    def idle(self) -> float:
        """Seconds since the last request to a model ended, or since the start; 0 while something is done."""
        return 0.0 if self._at_work else time.monotonic() - self._used

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Something is done meanwhile that nobody wants ended: an answer, a load, a download."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            self.used()

    def used(self) -> None:
        """A model has just had something to do."""
        self._used = time.monotonic()

    def usage(self, usage: Usage) -> None:
        """Count the tokens of one finished request."""
        self.used()
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._completion.inc(usage.completion_tokens)

    def outcome(self, outcome: str) -> None:
        """Count how a generation ended: done, cancelled, refused, or an error's code."""
        self._used = time.monotonic()
        self._outcomes.labels(outcome).inc()

    def observe(self, snapshot: Callable[[], Snapshot]) -> None:
        """Read gauges at every scrape: state, the engine's own figures, slots used, slots, waiting."""
        self.registry.register(_Gauges(snapshot))

    def text(self) -> bytes:
        """The whole registry as `/metrics` shows it."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """Figures that somebody else keeps."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """One family a figure."""
        state, stats, used, slots, waiting, models, budget = self._snapshot()
        states = GaugeMetricFamily("akashllm_state", "1 for the state the engine is in", labels=["state"])
        for each in _STATES:
            states.add_metric([each], float(each == state))
        yield states
        memory = GaugeMetricFamily(
            "akashllm_model_memory_bytes", "What a model takes in memory; 0: it is not loaded", labels=["model"]
        )
        for name, size in models.items():
            memory.add_metric([name], size)
        yield memory
        for name, words, value in (
            ("slots_used", "Slots in use", used),
            ("slots", "Slots there are", slots),
            ("queue_waiting", "Requests waiting for a slot", waiting),
            ("memory_budget_bytes", "Memory for all models together; 0: no limit", budget),
            ("kv_cache_used_tokens", "Tokens in the key-value cache", stats.kv_used),
            ("kv_cache_tokens", "Tokens the key-value cache holds", stats.kv_size),
        ):
            yield GaugeMetricFamily(f"akashllm_{name}", words, value=value)
        for name, words, value in (
            ("engine_restarts", "Restarts of the engine's child", stats.restarts),
            ("engine_steps", "Steps of the decode loop", stats.steps),
        ):
            yield CounterMetricFamily(f"akashllm_{name}", words, value=value)
