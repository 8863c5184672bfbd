"""Who holds which cells, who can use whose prefix, and how a step is shared out."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from akashllm.errors import ContextOverflow, EngineDied, ServiceError, Unsupported
from akashllm.server.domain import Delta, EngineStats, Generation, Sampling, TextPrompt
from akashllm.server.engines import frames
from akashllm.server.engines.feeds import TextFeed
from akashllm.server.engines.llamacpp.cells import Cells
from akashllm.server.engines.llamacpp.compose import TILE, block_shares, shares, whole_blocks
from akashllm.server.engines.llamacpp.prefix import Resident, common_prefix, faithful, longest

TOKENS = st.lists(st.integers(0, 3), max_size=12)


class CellAccounts(RuleBasedStateMachine):
    """Random sharing and releasing against a plain model of it."""

    SIZE = 40

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells(self.SIZE)
        self.rows: list[array[int]] = [array("i") for _ in range(4)]

    @rule(place=st.integers(0, 3), count=st.integers(1, 10))
    def take(self, place: int, count: int) -> None:
        """Evaluate tokens."""
        if self.cells.free >= count:
            self.cells.take(self.rows[place], count)

    @rule(source=st.integers(0, 3), to=st.integers(0, 3), start=st.integers(0, 20), end=st.integers(0, 20))
    def share(self, source: int, to: int, start: int, end: int) -> None:
        """Copy a stretch."""
        if source != to and not set(self.rows[to]) & set(self.rows[source][start:end]):
            self.cells.share(self.rows[to], self.rows[source], start, end)

    @precondition(lambda self: any(self.rows))
    @rule(place=st.integers(0, 3), start=st.integers(0, 20), length=st.integers(0, 20) | st.none())
    def release(self, place: int, start: int, length: int | None) -> None:
        """Let go of a stretch."""
        self.cells.release(self.rows[place], start, None if length is None else start + length)

    @invariant()
    def the_count_is_right(self) -> None:
        """The counts are those of the plain model."""
        held = {cell for row in self.rows for cell in row}
        assert self.cells.used == len(held)
        assert self.cells.used + self.cells.free == self.SIZE
        for row in self.rows:
            others = [cell for other in self.rows if other is not row for cell in other]
            assert self.cells.freed_by(row) == len(set(row) - set(others))
            assert self.cells.exclusive(row, 0) == (not set(row) & set(others))


TestCellAccounts = CellAccounts.TestCase
TestCellAccounts.settings = settings(max_examples=60, deadline=None)


@given(TOKENS, TOKENS)
def test_common_prefix(a: list[int], b: list[int]) -> None:
    """The common beginning of two lists, found the plain way."""
    plain = 0
    while plain < min(len(a), len(b)) and a[plain] == b[plain]:
        plain += 1
    assert common_prefix(array("i", a), array("i", b)) == plain


@given(st.lists(TOKENS, max_size=5), TOKENS)
def test_longest_prefix(held: list[list[int]], prompt: list[int]) -> None:
    """Of all sequences the one with the longest common beginning is found."""
    residents = []
    for number, tokens in enumerate(held):
        resident = Resident(number)
        resident.tokens = array("i", tokens)
        residents.append(resident)
    found, length = longest(residents, array("i", prompt))
    best = max((common_prefix(one.tokens, array("i", prompt)) for one in residents), default=0)
    assert length == best
    assert (found is None) == (best == 0)


def test_a_shifted_sequence_lends_only_its_start() -> None:
    """After a context shift only the tokens before it can be used by others."""
    resident = Resident(0)
    resident.tokens = array("i", range(10))
    resident.stable = 4
    assert longest([resident], array("i", range(10)))[1] == 4


@pytest.mark.parametrize(
    ("blocks", "mine", "pure", "shared", "usable"),
    [
        (0, 0, None, 50, 50),
        (128, 128, None, 150, 150),
        (128, 64, None, 150, 64),
        (0, 64, None, 50, 0),
        (128, 128, 100, 150, 100),
    ],
)
def test_what_was_evaluated_alike(blocks: int, mine: int, pure: int | None, shared: int, usable: int) -> None:
    """A prefix is exact as far as both prompts were cut at the same places."""
    resident = Resident(0)
    resident.blocks, resident.pure = blocks, pure
    assert faithful(resident, mine, shared) == usable


@given(st.lists(st.integers(0, 500), max_size=10), st.integers(0, 1000))
def test_shares(wanted: list[int], room: int) -> None:
    """Nobody gets more than wanted or less than a fair part, and nothing is left while somebody wants."""
    given = shares(wanted, room)
    assert all(0 <= got <= want for got, want in zip(given, wanted, strict=True))
    assert sum(given) == min(room, sum(wanted))
    if wanted:
        fair = room // len(wanted)
        assert all(got >= min(want, fair) for got, want in zip(given, wanted, strict=True))


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1, max_size=6), st.integers(0, 600)
)
def test_block_shares(spans: list[tuple[int, int]], room: int) -> None:
    """Prompts are cut only where a block ends, and at least one of them goes on."""
    spans = [(have, whole_blocks(have + more) + TILE) for have, more in spans]
    given = block_shares(spans, room)
    assert any(given)
    for (have, end), got in zip(spans, given, strict=True):
        assert have + got <= end
        assert not got or (have + got) % TILE == 0


@pytest.mark.parametrize(
    "error",
    [
        ContextOverflow(5000, 2048, param="prompt"),
        EngineDied("gone", hint="again"),
        Unsupported("no", param="suffix"),
        ServiceError("odd"),
    ],
)
def test_errors_cross_the_connection(error: ServiceError) -> None:
    """An error is the same on the other side."""
    revived = frames.revive(frames.fault(error))
    assert type(revived) is type(error)
    assert (str(revived), revived.hint, revived.code, revived.param) == (
        str(error),
        error.hint,
        error.code,
        error.param,
    )


def test_an_unknown_error_is_still_one_of_ours() -> None:
    """Names that are no error of the service are not looked up."""
    for kind in ("AkashllmError", "annotations", "KeyError", "ContextOverflow"):
        assert isinstance(frames.revive(frames.Fault(kind=kind, message="x")), ServiceError)


def test_frames_cross_the_connection() -> None:
    """A frame is the same on the other side."""
    request = Generation(id="a", model="m", prompt=TextPrompt(text="é\0"), sampling=Sampling(seed=-1))
    order = frames.Submit(key=7, request=request)
    assert frames.decode_order(frames.encode(order)[frames.HEADER.size :]) == order
    step = frames.Step(answers=[frames.Answer(7, Delta(text="x", tokens=1))])
    assert frames.decode_report(frames.encode(step)[frames.HEADER.size :]) == step
    beat = frames.Beat(stats=EngineStats(running=1))
    assert frames.decode_report(frames.encode(beat)[frames.HEADER.size :]) == beat


@given(st.lists(st.sampled_from(["text", "thinking"]), min_size=1, max_size=80))
async def test_piled_up_deltas_keep_their_order(kinds: list[str]) -> None:
    """Deltas that come as one say the same in the same order."""
    request = Generation(id="a", model="m", prompt=TextPrompt(text=""))
    feed = TextFeed(frames.Submit(key=1, request=request))
    for place, kind in enumerate(kinds):
        words = f"{kind}{place} "
        feed.put(Delta(tokens=1, text=words) if kind == "text" else Delta(tokens=1, thinking=words))
    seen, tokens = "", 0
    while tokens < len(kinds):
        event = await feed.next()
        assert isinstance(event, Delta)
        assert not (event.text and event.thinking) or event.thinking + event.text in _joined(kinds)
        seen += event.thinking + event.text
        tokens += event.tokens
    assert seen == _joined(kinds)
    assert feed.size == 0


def _joined(kinds: list[str]) -> str:
    return "".join(f"{kind}{place} " for place, kind in enumerate(kinds))
