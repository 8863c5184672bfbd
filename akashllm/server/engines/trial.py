"""A constraint is compiled first in a process that may die of it.

llguidance bounds the size of what it builds, not its recursion nor all of its arithmetic: a chain of a few
thousand references overflows the stack, an intersection of multiples of large primes never ends. A trial costs
a few milliseconds and is made once for each constraint that is not in the cache.
"""

from __future__ import annotations

import hashlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from akashllm.errors import BadRequest
from akashllm.server.engines.frames import HEADER, receive
from akashllm.server.engines.lifeline import work_for

SECONDS = 2.0
"""Processor time of one trial; PATIENCE: seconds it may last where the processor is busy."""
PATIENCE = 20.0
MEMORY = 1 << 30
LARGEST = 96 << 20
"""Bytes a compiled constraint may take; SMALL: up to which it is nothing to speak of."""
SMALL = 8 << 20
STACK = 4 << 20
"""Bytes: half of what the threads have on which the constraint is compiled in earnest."""

_REMEMBERED = 256


class Vocabulary(msgspec.Struct, frozen=True):
    """What a trial has to know of a model's vocabulary."""

    tokens: Sequence[bytes]
    special: Sequence[int]
    end: int


class Attempt(msgspec.Struct, frozen=True):
    """What to try: a grammar in llguidance's own form, or one in GBNF, to be turned into Lark."""

    text: str
    gbnf: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What came of it: the Lark text of GBNF, or what is wrong with it; bytes the compiled constraint takes."""

    lark: str = ""
    fault: str = ""
    size: int = 0


class Trials:
    """Owns the process. `check` may be called from any thread; one trial is made at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def check(self, grammar: str) -> int:
        """Bytes that `grammar` (in llguidance's own form) takes once compiled.

        Raises `BadRequest` if compiling it does not come to an end, or takes too much.
        """
        return self._try(Attempt(grammar)).size

    def lark(self, gbnf: str) -> str:
        """GBNF as Lark. Raises `BadRequest`."""
        outcome = self._try(Attempt(gbnf, gbnf=True))
        if outcome.fault:
            message = f"the grammar cannot be used: {outcome.fault}"
            raise BadRequest(message, hint="check its syntax", param="constraint")
        return outcome.lark

    def _try(self, attempt: Attempt) -> Outcome:
        body = msgspec.msgpack.encode(attempt)
        digest = hashlib.sha256(body).digest()
        with self._lock:
            if digest in self._refused:
                raise _too_complex()
            outcome = self._outcome(body)
            if outcome is not None and outcome.size > SMALL:
                # The next one is to be measured in a process that has nothing left over from this one.
                self.close()
            if outcome is not None and outcome.size <= LARGEST:
                return outcome
            self._refused[digest] = None
            while len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)
        raise _too_complex()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _outcome(self, body: bytes) -> Outcome | None:
        """What came of an attempt; None if the process died or was given up."""
        connection = self._connection or self._start()
        try:
            _send(connection, body)
            if select.select([connection], [], [], PATIENCE)[0]:
                reply = receive(connection)
                if reply is not None:
                    return msgspec.msgpack.decode(reply, type=Outcome)
        except OSError:
            pass
        self.close()
        return None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._connection = ours
        _send(ours, msgspec.msgpack.encode(self._vocabulary))
        return ours


def _too_complex() -> BadRequest:
    return BadRequest(
        "the constraint is too complex to be compiled",
        hint="simplify the schema or grammar",
        param="constraint",
    )


def _send(connection: socket.socket, body: bytes) -> None:
    connection.sendall(HEADER.pack(len(body)) + body)


class _Tokenizer:
    """The attributes llguidance asks for; it never has to tokenise here."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special
        self.eos_token_id = vocabulary.end
        self.bos_token_id = None

    def __call__(self, _: bytes) -> list[int]:
        return []


def _serve(connection: socket.socket) -> None:
    body = receive(connection)
    if body is None:
        return
    vocabulary = msgspec.msgpack.decode(body, type=Vocabulary)
    tokenizer = LLTokenizer(TokenizerWrapper(_Tokenizer(vocabulary)))
    while (body := receive(connection)) is not None:
        attempt = msgspec.msgpack.decode(body, type=Attempt)
        # A timer of the kernel: no code has to run in this process for it to end.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome = _convert(attempt.text) if attempt.gbnf else _compile(tokenizer, attempt.text)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _send(connection, msgspec.msgpack.encode(outcome))


def _compile(tokenizer: LLTokenizer, grammar: str) -> Outcome:
    """Whether it can be used is found out later; here it only has to come to an end."""
    before = _resident()
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if not matcher.is_error():
        matcher.deep_copy().compute_bitmask()
    return Outcome(size=max(0, _resident() - before))


def _resident() -> int:
    """Bytes of memory this process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _convert(gbnf: str) -> Outcome:
    try:
        return Outcome(lark=gbnf_to_lark(gbnf))
    except Exception as error:  # noqa: BLE001 - the converter has its own exceptions and lets others through
        return Outcome(fault=brief(str(error)))


def brief(text: str) -> str:
    """The first line of an error, without the dump of the grammar that follows."""
    line = text.strip().splitlines()[0] if text.strip() else "unknown error"
    return line[:300]


def main() -> None:
    """`python -m akashllm.server.engines.trial FD PARENT_PID`."""
    descriptor, parent = (int(word) for word in sys.argv[1:3])
    work_for(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    threading.stack_size(STACK)
    with socket.socket(fileno=descriptor) as connection:
        work = threading.Thread(target=_serve, args=(connection,))
        work.start()
        work.join()
    os._exit(0)


if __name__ == "__main__":
    main()
