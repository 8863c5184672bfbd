"""Choosing the next token from a row of logits.

Everything is numpy on the engine's own buffer: rows are changed in place and are gone with the next step. The
order is llama.cpp's for what changes logits (bias, penalties) and Ollama's for what cuts them: top-k,
temperature, typical, top-p, min-p. Each sequence has its own generator, so that a seed gives the same text
whatever else runs.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from akashllm.server.domain import Sampling

Row = NDArray[np.float32]
Ids = NDArray[np.intp]

_NEGLIGIBLE = 30.0
"""Tokens this many temperatures below the best have a probability under 1e-13: no float32 draw reaches them."""

_NEAR = 8.0
"""A first, narrower cut, in which the k best are nearly always found."""

_FEW = 2048
"""Candidates it is quicker to look through than the whole row."""

_BATCHED = 64
"""Candidates a row has when rows are drawn together: the same for all, so that company changes nothing."""

_HEAD = 256
"""Candidates among which top-p nearly always ends."""

_COLD = 1e-30
"""Temperatures below this differ from 0 in nothing but that float32 can no longer divide by them."""

_BLOCK = 32
"""Uniform numbers drawn at a time."""

_STRIDE = 256
"""Tokens summed at a time where every token is a candidate."""

_MIROSTAT_FIRST = 1
_MIROSTAT_SECOND = 2
_MIROSTAT_M = 100


class Sampler:
    """The sampler of one sequence: its settings, its random numbers and the tokens it remembers."""

    __slots__ = (
        "_bias",
        "_counts",
        "_generated",
        "_mu",
        "_newline",
        "_numbers",
        "_recent",
        "_rng",
        "_settings",
        "greedy",
        "remembers",
        "simple",
    )

    def __init__(
        self, settings: Sampling, prompt: Sequence[int], *, index: int = 0, context: int = 0, newline: int = -1
    ) -> None:
        self._settings = settings
        seed = secrets.randbits(64) if settings.seed is None else settings.seed % (1 << 64)
        self._rng = np.random.Generator(np.random.PCG64([seed, index]))
        self._numbers: list[float] = []
        self._mu = 2.0 * settings.mirostat_tau
        self._newline = -1 if settings.penalize_newline else newline
        self._bias: tuple[NDArray[np.intp], Row] | None = None
        if settings.logit_bias:
            self._bias = (
                np.fromiter(settings.logit_bias.keys(), np.intp),
                np.fromiter(settings.logit_bias.values(), np.float32),
            )
        window = context if settings.repeat_last_n < 0 else settings.repeat_last_n
        penalised = (
            settings.repeat_penalty != 1.0
            or settings.presence_penalty != 0.0
            or settings.frequency_penalty != 0.0
        )
        self.remembers = penalised and window > 0
        """Whether `accept` has to be called for each token."""
        self._recent: deque[int] = deque(maxlen=max(window, 1))
        self._counts: Counter[int] = Counter()
        self._generated: Counter[int] = Counter()
        if self.remembers:
            for token in prompt[-window:]:
                self._remember(token, ~token)
        self.greedy = settings.temperature < _COLD
        self.simple = not self.remembers and self._bias is None
        """Whether the logits are used as they come."""

    def accept(self, token: int) -> None:
        """Remember a token that was produced."""
        self._remember(token, token)
        self._generated[token] += 1

    def _remember(self, token: int, entry: int) -> None:
        """Prompt tokens enter as their complement, to be told from generated ones as they leave."""
        recent = self._recent
        if len(recent) == recent.maxlen:
            oldest = recent[0]
            if oldest >= 0:
                _forget(self._generated, oldest)
            _forget(self._counts, oldest if oldest >= 0 else ~oldest)
        recent.append(entry)
        self._counts[token] += 1

    def adjust(self, row: Row) -> None:
        """Apply bias and penalties, in place.

        The repetition penalty is llama.cpp's and sees prompt and answer; presence and frequency are OpenAI's
        and see the answer. All look back over the same window.
        """
        if self._bias is not None:
            row[self._bias[0]] += self._bias[1]
        if not self.remembers or not self._counts:
            return
        settings = self._settings
        newline = row[self._newline] if self._newline >= 0 else None
        if settings.repeat_penalty != 1.0:
            ids = np.fromiter(self._counts.keys(), np.intp, len(self._counts))
            values = row[ids]
            row[ids] = np.where(values <= 0, values * settings.repeat_penalty, values / settings.repeat_penalty)
        if self._generated and (settings.presence_penalty or settings.frequency_penalty):
            ids = np.fromiter(self._generated.keys(), np.intp, len(self._generated))
            counts = np.fromiter(self._generated.values(), np.float32, len(self._generated))
            row[ids] -= counts * settings.frequency_penalty + settings.presence_penalty
        if newline is not None:
            row[self._newline] = newline

    @property
    def settings(self) -> Sampling:
        """What the request asked for."""
        return self._settings

    def uniform(self) -> float:
        """The next random number, from 0 to 1."""
        if not self._numbers:
            self._numbers = self._rng.random(_BLOCK).tolist()
        return self._numbers.pop()

    def draw(self, row: Row) -> int:
        """One token from adjusted logits."""
        settings = self._settings
        if self.greedy:
            return int(row.argmax())
        if settings.mirostat in {_MIROSTAT_FIRST, _MIROSTAT_SECOND}:
            return self._mirostat(row)
        best = float(row.max())
        if not math.isfinite(best):
            return int(row.argmax())
        temperature = settings.temperature
        cut = settings.top_p < 1.0 or settings.min_p > 0.0
        if not cut and settings.typical_p >= 1.0 and not 0 < settings.top_k < len(row):
            return self._open(row, best)
        mass: float | None = None
        ids = _best(row, best, settings.top_k, temperature)
        if cut and settings.typical_p >= 1.0 and len(ids) > _FEW:
            # Sorting them all would cost more than everything else: try the head of the distribution first.
            mass = float(np.exp((row - np.float32(best)) / np.float32(temperature)).sum(dtype=np.float64))
            ids = _best(row, best, _HEAD, temperature)
        token = self._cut(row, best, ids, mass)
        if token is None:
            token = self._cut(row, best, _best(row, best, settings.top_k, temperature), None)
        return -1 if token is None else token

    def _open(self, row: Row, best: float) -> int:
        """A draw from the whole distribution."""
        weights = np.exp((row - np.float32(best)) / np.float32(self._settings.temperature))
        sums = np.add.reduceat(weights, np.arange(0, len(weights), _STRIDE), dtype=np.float64).cumsum()
        aim = self.uniform() * sums[-1]
        block = min(int(sums.searchsorted(aim, side="right")), len(sums) - 1)
        start = block * _STRIDE
        inner = weights[start : start + _STRIDE].cumsum(dtype=np.float64)
        rest = aim - (sums[block - 1] if block else 0.0)
        place = min(int(inner.searchsorted(rest, side="right")), len(inner) - 1)
        while place and weights[start + place] == 0.0:
            place -= 1
        return start + place

    def _cut(self, row: Row, best: float, ids: Ids, mass: float | None) -> int | None:
        """A draw from candidates; None if they do not hold as much of `mass`, the whole, as top-p wants."""
        settings = self._settings
        values = row[ids].astype(np.float64)
        sort = settings.top_p < 1.0 or settings.min_p > 0.0 or settings.top_k > 0
        if sort:
            order = np.argsort(-values, kind="stable")
            ids, values = ids[order], values[order]
        weights = np.exp((values - best) / settings.temperature)
        if settings.typical_p < 1.0:
            ids, weights = _typical(ids, weights, settings.typical_p)
            if sort:
                order = np.argsort(-weights, kind="stable")
                ids, weights = ids[order], weights[order]
        sums = weights.cumsum()
        count = len(sums)
        if settings.top_p < 1.0:
            wanted = max(settings.top_p, 0.0) * (sums[-1] if mass is None else mass)
            count = min(count, int(sums.searchsorted(wanted)) + 1)
        if settings.min_p > 0.0:
            count = min(count, max(1, int(np.count_nonzero(weights >= settings.min_p * weights[0]))))
        if mass is not None and count == len(sums):
            return None
        return int(ids[self._pick(sums, count)])

    def _pick(self, sums: NDArray[np.float64], count: int) -> int:
        place = int(sums[:count].searchsorted(self.uniform() * sums[count - 1], side="right"))
        return min(place, count - 1)

    def _mirostat(self, row: Row) -> int:
        """Mirostat 1 and 2 as llama.cpp has them: only temperature goes before."""
        settings = self._settings
        best = float(row.max())
        ids = _best(row, best, 0, settings.temperature)
        values = row[ids].astype(np.float64)
        order = np.argsort(-values, kind="stable")
        ids = ids[order]
        weights = np.exp((values[order] - best) / settings.temperature)
        probabilities = weights / weights.cumsum()[-1]
        surprise = -np.log2(np.maximum(probabilities, 1e-300))
        if settings.mirostat == _MIROSTAT_SECOND:
            count = max(1, int(np.count_nonzero(surprise <= self._mu)))
        else:
            count = self._mirostat_k(probabilities, len(row))
        sums = probabilities[:count].cumsum()
        place = self._pick(sums, count)
        observed = -math.log2(max(probabilities[place] / sums[-1], 1e-300))
        self._mu -= settings.mirostat_eta * (observed - settings.mirostat_tau)
        return int(ids[place])

    def _mirostat_k(self, probabilities: NDArray[np.float64], vocab: int) -> int:
        count = min(_MIROSTAT_M, len(probabilities))
        if count < 2:
            return 1
        steps = np.log(np.arange(2, count + 1) / np.arange(1, count))
        falls = np.log(probabilities[: count - 1] / np.maximum(probabilities[1:count], 1e-300))
        s_hat = float((steps * falls).sum() / (steps * steps).sum())
        if s_hat <= 0:
            return len(probabilities)
        epsilon = s_hat - 1.0
        spread = 1.0 - vocab ** (-epsilon)
        if not spread or epsilon / spread <= 0:
            return len(probabilities)
        # A flat row or a distant target makes the power larger than any float: its logarithm is not.
        exponent = (math.log(epsilon / spread) + min(self._mu, 1000.0) * math.log(2.0)) / s_hat
        if exponent >= math.log(len(probabilities)):
            return len(probabilities)
        return max(1, round(math.exp(max(exponent, -1.0))))


def _forget(counts: Counter[int], token: int) -> None:
    counts[token] -= 1
    if not counts[token]:
        del counts[token]


def _best(row: Row, best: float, k: int, temperature: float) -> Ids:
    """Ids of the k best, or of all that can be drawn, in ascending order of id."""
    if not math.isfinite(best):
        return np.array([int(row.argmax())])
    if not 0 < k < len(row):
        return np.flatnonzero(row >= best - _NEGLIGIBLE * temperature)
    near = row >= best - _NEAR * temperature
    if k <= np.count_nonzero(near) <= _FEW:
        ids = np.flatnonzero(near)
        if len(ids) > k:
            ids = ids[np.argpartition(row[ids], len(ids) - k)[len(ids) - k :]]
    else:
        ids = np.argpartition(row, len(row) - k)[len(row) - k :]
    ids.sort()
    return ids


def draws_together(sampler: Sampler, vocab: int) -> bool:
    """Whether `draw_together` knows the sampler's settings."""
    settings = sampler.settings
    return (
        settings.temperature > 0.0
        and 0 < settings.top_k <= _BATCHED < vocab
        and settings.typical_p >= 1.0
        and not settings.mirostat
    )


def draw_together(rows: Row, samplers: Sequence[Sampler]) -> list[int]:
    """One token from each row: top-k, temperature, top-p and min-p, all rows at once."""
    settings = [sampler.settings for sampler in samplers]
    width = rows.shape[1]
    ids = np.argpartition(rows, width - _BATCHED, axis=1)[:, width - _BATCHED :]
    ids.sort(axis=1)
    values = np.take_along_axis(rows, ids, axis=1).astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    temperature = np.array([one.temperature for one in settings])[:, None]
    k = np.array([one.top_k for one in settings])[:, None]
    weights = np.exp((values - values[:, :1]) / temperature)
    weights[np.arange(_BATCHED) >= k] = 0.0
    sums = weights.cumsum(axis=1)
    total = sums[:, -1:]
    top_p = np.array([min(max(one.top_p, 0.0), 1.0) for one in settings])[:, None]
    min_p = np.array([max(one.min_p, 1e-300) for one in settings])[:, None]
    # At least the best; as many as top-p wants; none below min-p.
    count = np.minimum((sums < top_p * total).sum(axis=1) + 1, (weights >= min_p).sum(axis=1))
    count = np.minimum(np.maximum(count, 1), k[:, 0])
    lines = np.arange(len(settings))
    aim = np.array([sampler.uniform() for sampler in samplers]) * sums[lines, count - 1]
    place = np.minimum((sums <= aim[:, None]).sum(axis=1), count - 1)
    drawn: list[int] = ids[lines, place].tolist()
    return drawn


def _typical(ids: Ids, weights: NDArray[np.float64], mass: float) -> tuple[Ids, NDArray[np.float64]]:
    """Locally typical sampling (Meister et al.): those whose surprise is nearest the entropy, up to `mass`."""
    probabilities = weights / weights.cumsum()[-1]
    surprise = -np.log(np.maximum(probabilities, 1e-300))
    order = np.argsort(np.abs(surprise - (probabilities * surprise).sum()), kind="stable")
    sums = probabilities[order].cumsum()
    count = min(len(sums), int(sums.searchsorted(max(mass, 0.0))) + 1)
    kept = order[:count]
    return ids[kept], weights[kept]


def log_softmax(row: Row, ids: Ids | Sequence[int]) -> NDArray[np.float64]:
    """Log probabilities of `ids` in the whole distribution of the row."""
    best = float(row.max())
    total = best + math.log(float(np.exp(row - best, dtype=np.float32).sum(dtype=np.float64)))
    return row[np.asarray(ids, dtype=np.intp)].astype(np.float64) - total


def most_likely(row: Row, count: int) -> Ids:
    """Ids of the `count` most likely tokens, best first, ties by id."""
    count = min(count, len(row))
    if count <= 0:
        return np.empty(0, np.intp)
    if count == len(row):
        ids = np.arange(len(row))
    else:
        ids = np.argpartition(row, len(row) - count)[len(row) - count :]
        ids.sort()
    return ids[np.argsort(-row[ids], kind="stable")]
