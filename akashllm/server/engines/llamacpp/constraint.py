"""Structured output: grammars, schemas and expressions through llguidance, within bounds.

llama.cpp's own grammar sampler is never used: it aborts, hangs or recurses to death on input a client can send.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from time import perf_counter

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from akashllm.errors import BadRequest
from akashllm.server.domain import Constraint
from akashllm.server.engines import shape, trial
from akashllm.server.engines.llamacpp.sampling import Row
from akashllm.server.engines.llamacpp.vocabulary import Vocabulary
from akashllm.server.engines.trial import SMALL, Trials, brief

STEP = 0.05
"""Seconds a constraint may hold up a step of everybody; PATIENCE: by how much in all it may last longer."""
PATIENCE = 2.0

_CACHED = 32


class Guide:
    """The state of one choice within a constraint."""

    __slots__ = ("_left", "_matcher", "_size")

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher = matcher
        self._size = size
        self._left = PATIENCE

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def allows(self, token: int) -> bool:
        """Whether `token` may come next; far cheaper than the whole mask."""
        return bool(self._matcher.validate_tokens([token]))

    def restrict(self, row: Row) -> None:
        """Make everything that may not come next impossible, in place."""
        began = perf_counter()
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        row[: self._size][bits[: self._size] == 0] = -np.inf
        row[self._size :] = -np.inf
        self._left -= max(0.0, perf_counter() - began - STEP)

    def take(self, token: int) -> None:
        """Go on with `token`. Raises `BadRequest` if the constraint has become too complex to follow."""
        if self._left < 0.0:
            raise BadRequest(
                "the constraint takes too long to follow",
                hint="simplify the schema or grammar",
                param="constraint",
            )
        if not self._matcher.consume_token(token):
            message = f"the constraint cannot be followed any further: {brief(self._matcher.get_error())}"
            raise BadRequest(message, param="constraint")


class Constraints:
    """Compiles `checked` constraints for one vocabulary; the last ones are kept."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: LLTokenizer | None = None
        end = min(vocabulary.ends, default=0)
        self._trials = Trials(trial.Vocabulary(vocabulary.spelled, sorted(vocabulary.special.values()), end))
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def warm(self) -> LLTokenizer:
        """Build the token trie, which takes a second for a large vocabulary."""
        with self._lock:
            if self._tokenizer is None:
                ends = sorted(self._vocabulary.ends)
                self._tokenizer = lltokenizer_from_vocab(self._vocabulary.raw, eos_token=ends or None)
            return self._tokenizer

    def checked(self, constraint: Constraint) -> Constraint:
        """The constraint as a schema with bounded white space, in Lark, or a regex. Raises `BadRequest`."""
        return shape.checked(constraint, self._trials.lark)

    def compile(self, constraint: Constraint) -> LLMatcher:
        """A matcher at its beginning, to be copied for each choice. Raises `BadRequest`."""
        tokenizer = self.warm()
        with self._lock:
            found = self._compiled.get(constraint)
            if found is not None:
                self._compiled.move_to_end(constraint)
                return found
        grammar = shape.grammar(constraint)
        size = self._trials.check(grammar)
        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            message = f"the constraint cannot be used: {brief(matcher.get_error())}"
            raise BadRequest(message, hint="simplify the schema or grammar", param="constraint")
        if size > SMALL:
            return matcher
        with self._lock:
            self._compiled[constraint] = matcher
            while len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return matcher

    def guide(self, matcher: LLMatcher) -> Guide:
        """A guide for one choice."""
        return Guide(matcher.deep_copy(), self._vocabulary.size)
