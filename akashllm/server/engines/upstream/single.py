"""Reading an answer of one choice whose last part has the counts."""

from __future__ import annotations

from typing import Any

from akashllm.server.domain import Delta, Event, Generation, Started
from akashllm.server.engines.upstream.choices import Choice
from akashllm.server.engines.upstream.faults import broken_off


class SingleReader:
    """What reading the parts of such an answer has in common, whatever they look like."""

    def __init__(self, request: Generation, choice: Choice) -> None:
        self.over = False
        self._request = request
        self._choice = choice
        self._began = False
        self._last: dict[str, Any] = {}

    def _part(self, part: dict[str, Any], prompt_tokens: int, delta: Delta, reason: str) -> list[Event]:
        """The events of a part, which is the last if it has a reason."""
        events: list[Event] = [] if self._began else [Started(prompt_tokens=prompt_tokens)]
        self._began = True
        if delta.text or delta.thinking or delta.tool_calls or delta.logprobs:
            events += self._choice.delta(delta)
        if reason:
            self._last = part
            self.over = True
            events += self._choice.finish(reason)
        return events

    def _whole(self) -> dict[str, Any]:
        """The last part. Raises `EngineDied` if it never came."""
        if not self._choice.finished:
            raise broken_off()
        return self._last

    def _made(self, told: int) -> int:
        """Tokens of the answer, of which one that was asked for in vain is none."""
        return 0 if self._request.max_tokens == 0 else told
