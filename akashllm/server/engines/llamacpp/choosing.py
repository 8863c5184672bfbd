"""From the logits of a step to a token for each choice."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence

import numpy as np

from akashllm.errors import ServiceError
from akashllm.server.engines.llamacpp.job import Choice
from akashllm.server.engines.llamacpp.sampling import Ids, Row, draw_together, draws_together

TOGETHER = 3
"""Rows from which drawing them together is quicker than one by one."""


def choose(
    ready: Sequence[tuple[Choice, int]], logits: Row, ends: Ids
) -> Iterator[tuple[Choice, int | ServiceError]]:
    """A token for each choice, from its row of the logits, or why there can be none."""
    if all(choice.plain for choice, _ in ready):
        best: list[int] = logits.argmax(axis=1).tolist()
        for choice, place in ready:
            token = best[place]
            if token in choice.job.ends and choice.job.request.ignore_eos:
                logits[place][ends] = -np.inf
                token = int(logits[place].argmax())
            yield choice, token
        return
    chosen: dict[int, int | ServiceError] = {}
    raw: dict[int, Row] = {}
    together: list[tuple[Choice, int]] = []
    for choice, place in ready:
        row = logits[place]
        if choice.logprobs:
            raw[place] = row if choice.untouched else row.copy()
        single = _alone(choice, row, ends)
        if single is None:
            together.append((choice, place))
        else:
            chosen[place] = single
    chosen.update(_together(together, logits))
    for choice, place in ready:
        found = chosen[place]
        if choice.guide is not None and not isinstance(found, ServiceError):
            try:
                choice.guide.take(found)
            except ServiceError as error:
                found = error
        if choice.logprobs and not isinstance(found, ServiceError):
            choice.note(raw[place], found)
        yield choice, found


def _alone(choice: Choice, row: Row, ends: Ids) -> int | ServiceError | None:
    """The token of a row that is not drawn together with others."""
    try:
        token = _narrow(choice, row, ends)
        if token is None and not draws_together(choice.sampler, len(row)):
            token = choice.sampler.draw(row)
    except Exception:  # noqa: BLE001 - arithmetic on a client's extreme values ends that client's request only
        traceback.print_exc()
        return ServiceError("the engine could not choose a token for this request")
    return token


def _together(rows: Sequence[tuple[Choice, int]], logits: Row) -> dict[int, int]:
    places = [place for _, place in rows]
    if len(rows) < TOGETHER:
        return {place: choice.sampler.draw(logits[place]) for choice, place in rows}
    tokens = draw_together(logits[places], [choice.sampler for choice, _ in rows])
    return dict(zip(places, tokens, strict=True))


def _narrow(choice: Choice, row: Row, ends: Ids) -> int | None:
    """Take out of a row what may not be chosen; the token, where that leaves no draw."""
    sampler, guide = choice.sampler, choice.guide
    if not sampler.simple:
        sampler.adjust(row)
    ignoring = guide is None and choice.job.request.ignore_eos
    if not sampler.greedy:
        if guide is not None:
            guide.restrict(row)
        elif ignoring:
            row[ends] = -np.inf
        return None
    token = int(row.argmax())
    if ignoring and token in choice.job.ends:
        row[ends] = -np.inf
        token = int(row.argmax())
    elif guide is not None and not guide.allows(token):
        guide.restrict(row)
        token = int(row.argmax())
    return token
