"""What an upstream's refusals mean here: any body, any status, one of our errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from akashllm.errors import (
    BadRequest,
    Busy,
    ContextOverflow,
    EngineDied,
    EngineFailed,
    ServiceError,
    TooLarge,
    Unsupported,
)
from akashllm.server.domain import ChatPrompt, Generation

OVERFLOW = ContextOverflow.code
"""The code of every refusal that says the prompt is too long, whether its numbers are known or not."""

LOADING = "model_loading"
"""The code of a refusal that says to wait for the model."""

_WORDS = 400
_RETRY = 5.0
_LONGEST_RETRY = 600.0

_NUMBERS = (
    # llama-server and Ollama; this service; vLLM in its two wordings, where the context comes first.
    (re.compile(r"\((\d+) tokens\) exceeds the available context size \((\d+) tokens\)"), False),
    (re.compile(r"input \((\d+) tokens\) is too large to process.{0,80}batch size: (\d+)", re.DOTALL), False),
    (re.compile(r"prompt has (\d+) tokens and the context window of this model is (\d+)"), False),
    (re.compile(r"passed (\d+) input tokens.{0,80}context length is only (\d+)", re.DOTALL), False),
    (re.compile(r"maximum context length is (\d+) tokens.{0,200}?(\d+)(?: tokens)? in the", re.DOTALL), True),
    (re.compile(r"maximum context length is (\d+).{0,80}?has (\d+) input tokens", re.DOTALL), True),
)
_TOO_LONG = re.compile(
    r"longer than the (?:maximum )?(?:context|model) length|exceeds? the (?:maximum )?context length"
    r"|exceeds maximum context length|input is too large to process|maximum context length",
    re.IGNORECASE,
)
_SHAPE = re.compile(r"schema|grammar|constraint|invalid format", re.IGNORECASE)


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> ServiceError:
    """The error for an answer that is not 200.

    What is the client's doing stays a 400 in the upstream's own words. What is the operator's (the key, the
    model's name, the address) is `EngineFailed`: the client can do nothing about it.
    """
    told = _told(body)
    words = told.words or f"HTTP status {status}"
    if 300 <= status < 400:
        return EngineFailed(f"the upstream answers with a redirect (status {status}), which is not followed")
    if status in {401, 403}:
        return EngineFailed(f"the upstream does not accept this service's key (status {status})")
    if status == 404:
        return EngineFailed(f"the upstream has no such model or path: {words}")
    if status == 429:
        return Busy(f"the upstream is busy: {words}", retry_after=_retry(headers))
    if status == 503:
        return Busy(words, code=LOADING if "loading" in words.lower() else None, retry_after=_retry(headers))
    if overflow := told.overflow():
        return overflow
    if status == 501:
        return Unsupported(words, param=told.param)
    if status == 413:
        return TooLarge(f"the upstream refuses a request of this size: {words}")
    if status in {400, 409, 415, 422}:
        return BadRequest(words, code=told.code, param=told.param)
    return EngineDied(f"the upstream failed: {words}", hint="send the request again")


def in_band(error: object) -> ServiceError:
    """The error for an `error` that came in a stream after its beginning. Only a 400 says so in there."""
    told = _read(error)
    words = told.words or "it gave no reason"
    if overflow := told.overflow():
        return overflow
    if told.status in {400, 422}:
        return BadRequest(words, code=told.code, param=told.param)
    if told.status == 503:
        return Busy(words, retry_after=_RETRY)
    return EngineDied(f"the upstream failed while it was answering: {words}", hint="send the request again")


def blame(error: BadRequest, request: Generation) -> None:
    """Name the parameter, where the upstream did not and its words leave no doubt."""
    if error.param is not None or not _SHAPE.search(error.message):
        return
    prompt, constraint = request.prompt, request.constraint
    if isinstance(prompt, ChatPrompt) and prompt.tool_choice.mode in {"required", "named"}:
        error.param = "tools"
    elif constraint is not None:
        error.param = "grammar" if constraint.kind == "gbnf" else "response_format"


def garbage(what: str) -> EngineDied:
    """The error for an answer that breaks the dialect's own rules."""
    return EngineDied(f"the upstream sent {what}", hint="see whether it is what its address promises")


def broken_off() -> EngineDied:
    """The error for an answer whose end never came."""
    return EngineDied("the upstream closed the connection before its answer was complete", hint="send it again")


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an error body says. `text` is all of its words, `words` those that may be shown."""

    text: str = ""
    code: str | None = None
    param: str | None = None
    status: int = 0
    numbers: tuple[int, int] | None = None

    @property
    def words(self) -> str:
        """The message on one line, without control characters, cut."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self.text).split())
        return line if len(line) <= _WORDS else f"{line[:_WORDS]}..."

    def overflow(self) -> BadRequest | None:
        """The error, if the refusal is that the prompt is too long."""
        if self.numbers is not None:
            return ContextOverflow(*self.numbers)
        for pattern, swapped in _NUMBERS:
            if found := pattern.search(self.text):
                first, second = int(found[1]), int(found[2])
                return ContextOverflow(second, first) if swapped else ContextOverflow(first, second)
        if self.code == OVERFLOW or _TOO_LONG.search(self.text):
            return BadRequest(self.words, code=OVERFLOW)
        return None


def _told(body: bytes) -> _Told:
    try:
        return _read(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return _Told() if text.lstrip().startswith("<") else _Told(text=text)


def _read(value: object) -> _Told:
    """Take an error apart: an object or its text; Ollama hands on its engine's JSON as the text of its own."""
    texts: list[str] = []
    code = param = None
    status = 0
    numbers = None
    for level in _levels(value):
        if isinstance(level, str):
            texts.append(level)
            continue
        texts += [level[key] for key in ("message", "detail") if isinstance(level.get(key), str)]
        code = _short(level.get("code")) or code
        param = _short(level.get("param")) or param
        if isinstance(level.get("code"), int):
            status = level["code"]
        counts = level.get("n_prompt_tokens"), level.get("n_ctx")
        if isinstance(counts[0], int) and isinstance(counts[1], int):
            numbers = counts[0], counts[1]
    return _Told(text=texts[-1] if texts else "", code=code, param=param, status=status, numbers=numbers)


def _levels(value: object) -> Iterator[dict[str, Any] | str]:
    """The value and what is inside its `error`, outermost first; text that is JSON counts as what it says."""
    for _ in range(4):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = msgspec.json.decode(value)
            except (ValueError, RecursionError):
                yield str(value)
                return
        if isinstance(value, str):
            yield value
            return
        if not isinstance(value, dict):
            return
        yield value
        value = value.get("error")


def _short(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() else None


def _retry(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after", "")), 0.0), _LONGEST_RETRY)
    except ValueError:
        return _RETRY
