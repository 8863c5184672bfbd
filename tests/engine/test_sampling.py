"""Choosing a token from logits."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from akashllm.server.domain import Sampling
from akashllm.server.engines.llamacpp.sampling import (
    Sampler,
    draw_together,
    draws_together,
    log_softmax,
    most_likely,
)

VOCAB = 300


def logits(seed: int, scale: float = 2.0, size: int = VOCAB) -> NDArray[np.float32]:
    """A row of random logits."""
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def softmax(row: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities, the plain way."""
    weights: NDArray[np.float64] = np.exp((row.astype(np.float64) - float(row.max())) / temperature)
    return np.asarray(weights / weights.sum())


def often(wish: Sampling, row: NDArray[np.float32], times: int = 4000) -> Counter[int]:
    """What many draws give."""
    sampler = Sampler(wish, ())
    return Counter(sampler.draw(row.copy()) for _ in range(times))


def test_greedy() -> None:
    """Temperature 0 takes the most likely token, ties by id."""
    row = logits(1)
    row[[7, 9]] = 50.0
    assert Sampler(Sampling(temperature=0.0), ()).draw(row) == 7


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_whole_distribution(temperature: float) -> None:
    """Without filters the draws follow the tempered distribution."""
    row = logits(2)
    counts = often(Sampling(temperature=temperature, seed=1), row, 20_000)
    for token, probability in enumerate(softmax(row, temperature)):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.015)


@pytest.mark.parametrize("k", [1, 3, 40, 100])
def test_top_k(k: int) -> None:
    """Only the k most likely are drawn, in their proportions."""
    row = logits(3)
    best = set(np.argsort(-row)[:k].tolist())
    counts = often(Sampling(temperature=1.0, top_k=k, seed=1), row)
    assert set(counts) <= best
    if k == 3:
        assert set(counts) == best


@pytest.mark.parametrize("size", [VOCAB, 20_000])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999])
def test_top_p(p: float, size: int) -> None:
    """Only the most likely that together reach p are drawn."""
    row = logits(4, 4.0, size)
    order = np.argsort(-row)
    count = int(np.searchsorted(softmax(row)[order].cumsum(), p)) + 1
    counts = often(Sampling(temperature=1.0, top_p=p, seed=1), row, 500)
    assert set(counts) <= set(order[:count].tolist())


def test_top_p_of_a_flat_row() -> None:
    """Where no head of the distribution holds enough, all candidates are looked at."""
    row = np.zeros(10_000, np.float32)
    counts = often(Sampling(temperature=1.0, top_p=0.5, seed=1), row, 2000)
    assert len(counts) > 1500


def test_min_p() -> None:
    """Tokens less likely than a fraction of the best are not drawn."""
    row = logits(5)
    probabilities = softmax(row)
    allowed = set(np.flatnonzero(probabilities >= 0.3 * probabilities.max()).tolist())
    assert set(often(Sampling(temperature=1.0, min_p=0.3, seed=1), row)) == allowed


def test_typical() -> None:
    """Typical sampling may leave out the most likely token: its surprise is far from the entropy."""
    row = np.log(np.array([0.3] + [0.7 / 40] * 40, np.float32))
    assert 0 not in often(Sampling(temperature=1.0, typical_p=0.3, seed=1), row, 300)


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat(mirostat: int) -> None:
    """Mirostat steers the mean surprise of the draws towards its target."""
    row = logits(6, 3.0, 5000)
    surprise = -np.log2(softmax(row))
    means = []
    for tau in (2.0, 5.0):
        sampler = Sampler(Sampling(temperature=1.0, mirostat=mirostat, mirostat_tau=tau, seed=1), ())
        means.append(np.mean([surprise[sampler.draw(row)] for _ in range(600)]))
    assert means[0] + 0.5 < means[1]


def test_repeat_penalty() -> None:
    """A repeated token loses: positive logits are divided, negative ones multiplied; prompt tokens count."""
    row = np.array([2.0, -2.0, 1.0], np.float32)
    sampler = Sampler(Sampling(temperature=0.0, repeat_penalty=2.0), (0,))
    sampler.accept(1)
    sampler.adjust(row)
    assert row.tolist() == [1.0, -4.0, 1.0]


def test_presence_and_frequency() -> None:
    """Presence counts once, frequency each time, both only in the answer."""
    row = np.zeros(4, np.float32)
    sampler = Sampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25), (3,))
    for token in (1, 1, 2):
        sampler.accept(token)
    sampler.adjust(row)
    assert row.tolist() == [0.0, -1.0, -0.75, 0.0]


@given(st.lists(st.integers(0, 5), max_size=20), st.lists(st.integers(0, 5), max_size=20), st.integers(1, 8))
def test_the_window_of_the_penalties(prompt: list[int], answer: list[int], window: int) -> None:
    """Only the last tokens are penalised, each as often as it is among them."""
    sampler = Sampler(Sampling(repeat_penalty=1.5, frequency_penalty=1.0, repeat_last_n=window), tuple(prompt))
    for token in answer:
        sampler.accept(token)
    row = np.full(6, 3.0, np.float32)
    sampler.adjust(row)
    recent = [(token, False) for token in prompt] + [(token, True) for token in answer]
    recent = recent[-window:]
    for token in range(6):
        value = 3.0 / 1.5 if any(token == seen for seen, _ in recent) else 3.0
        value -= sum(token == seen and generated for seen, generated in recent)
        assert row[token] == pytest.approx(value)


def test_the_newline_can_be_spared() -> None:
    """Where asked, the newline is not penalised."""
    row = np.full(4, 2.0, np.float32)
    sampler = Sampler(Sampling(repeat_penalty=2.0, penalize_newline=False), (1, 2), newline=2)
    sampler.adjust(row)
    assert row.tolist() == [2.0, 1.0, 2.0, 2.0]


def test_bias() -> None:
    """A bias is added to its token's logit."""
    row = logits(7)
    assert set(often(Sampling(temperature=1.0, logit_bias={5: 100.0}), _adjusted(row, {5: 100.0}), 20)) == {5}
    assert 5 not in often(Sampling(temperature=1.0), _adjusted(row, {5: -100.0}), 500)


def _adjusted(row: NDArray[np.float32], bias: dict[int, float]) -> NDArray[np.float32]:
    sampler = Sampler(Sampling(logit_bias=bias), ())
    row = row.copy()
    sampler.adjust(row)
    return row


@settings(max_examples=60)
@given(
    st.integers(0, 1000),
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.7, 1.0, 3.0]),
            st.integers(1, 64),
            st.sampled_from([0.0, 0.2, 0.9, 1.0]),
            st.sampled_from([0.0, 0.05, 0.5]),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_drawing_together_is_drawing_alone(seed: int, wishes: list[tuple[float, int, float, float]]) -> None:
    """A row gives the same token whether it is drawn alone or with any others."""
    rows = np.stack([logits(seed + place) for place in range(len(wishes))])
    all_settings = [
        Sampling(temperature=t, top_k=k, top_p=p, min_p=m, seed=seed + place)
        for place, (t, k, p, m) in enumerate(wishes)
    ]
    alone = [Sampler(one, ()) for one in all_settings]
    together = [Sampler(one, ()) for one in all_settings]
    assert all(draws_together(one, VOCAB) for one in together)
    for _ in range(10):
        assert draw_together(rows, together) == [
            sampler.draw(row) for sampler, row in zip(alone, rows, strict=True)
        ]


def test_seeds() -> None:
    """The same seed draws the same, another choice or seed something else."""
    row = np.zeros(10_000, np.float32)

    def ten(index: int, seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(seed=seed), (), index=index)
        return [sampler.draw(row) for _ in range(10)]

    assert ten(0, 5) == ten(0, 5) != ten(1, 5) != ten(0, 6)
    assert ten(0, None) != ten(0, None)
    assert ten(0, -1) != ten(0, 1 << 65)


@pytest.mark.parametrize(
    "wish",
    [
        Sampling(),
        Sampling(top_k=40),
        Sampling(top_p=0.5),
        Sampling(temperature=1e-30),
        Sampling(temperature=1e30, top_p=0.9),
        Sampling(mirostat=1),
        Sampling(mirostat=2, mirostat_eta=1e9),
        Sampling(typical_p=1e-9),
        Sampling(min_p=5.0),
        Sampling(top_p=-1.0),
        Sampling(top_k=1 << 40),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid value|divide by zero).*:RuntimeWarning")
def test_extremes_still_give_a_token(wish: Sampling) -> None:
    """Whatever the settings and the logits, a token of the vocabulary comes out."""
    rows = [
        logits(8),
        np.full(VOCAB, -np.inf, np.float32),
        np.zeros(VOCAB, np.float32),
        np.where(np.arange(VOCAB) == 3, 1.0, -np.inf).astype(np.float32),
        np.full(VOCAB, 3e38, np.float32),
    ]
    sampler = Sampler(wish, ())
    for row in rows:
        for _ in range(3):
            assert 0 <= sampler.draw(row.copy()) < VOCAB
    assert sampler.draw(rows[3].copy()) == 3


@given(st.integers(0, 1000), st.integers(0, 400))
def test_most_likely(seed: int, count: int) -> None:
    """The most likely come best first, and their log probabilities are those of a softmax."""
    row = logits(seed)
    ids = most_likely(row, count)
    assert ids.tolist() == np.argsort(-row, kind="stable")[:count].tolist()
    if len(ids):
        assert log_softmax(row, ids) == pytest.approx(np.log(softmax(row)[ids]), abs=1e-5)
    assert math.isclose(float(np.exp(log_softmax(row, np.arange(VOCAB))).sum()), 1.0, rel_tol=1e-5)
