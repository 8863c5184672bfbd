"""Collecting the events of a request into choices and token counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from akashllm.server.domain import Delta, Done, Event, Finish, Started, TokenLogprob, ToolCall, Usage


class Counter:
    """Token counts over all generations of a request. A prompt counts once, however many its choices.

    They are those of the end: an engine may not know the prompt's tokens before.
    """

    def __init__(self) -> None:
        self.prompt = 0
        self.cached = 0
        self.completion = 0
        self.reasoning = 0

    def delta(self, delta: Delta) -> None:
        """Count the tokens of thought."""
        if delta.thinking:
            self.reasoning += delta.tokens

    def done(self, done: Done) -> None:
        """Count the prompt and what was generated."""
        self.prompt += done.usage.prompt_tokens
        self.cached += done.usage.cached_tokens
        self.completion += done.usage.completion_tokens

    def usage(self) -> dict[str, Any]:
        """OpenAI's `usage` object."""
        return usage_object(
            Usage(prompt_tokens=self.prompt, completion_tokens=self.completion, cached_tokens=self.cached),
            self.reasoning,
        )


def usage_object(usage: Usage, reasoning: int = 0) -> dict[str, Any]:
    """OpenAI's `usage` object, with every field of the specification."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


class Choice:
    """One choice as it grows. `score` is the sum of its tokens' log probabilities, if that was asked."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.thoughts: list[str] = []
        self.tool_calls: list[ToolCall] = []
        self.logprobs: list[TokenLogprob] = []
        self.tokens = 0
        self.reason: str = "stop"
        self.score: float | None = None

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.parts)

    @property
    def thinking(self) -> str:
        """The thought before it."""
        return "".join(self.thoughts)

    def add(self, delta: Delta) -> None:
        """Append a delta."""
        if delta.text:
            self.parts.append(delta.text)
        if delta.thinking:
            self.thoughts.append(delta.thinking)
        self.tool_calls.extend(delta.tool_calls)
        self.logprobs.extend(delta.logprobs)
        self.tokens += delta.tokens


class Collected:
    """Everything a request's generations said. Choices are in order: by prompt, then by choice."""

    def __init__(self, generations: int, choices: int) -> None:
        self._choices = choices
        self.choices = [Choice() for _ in range(generations * choices)]
        self.prompts: list[tuple[TokenLogprob, ...]] = [()] * generations
        self.counter = Counter()

    def feed(self, incoming: Event, generation: int = 0) -> None:
        """Take an event of the generation of that number."""
        match incoming:
            case Delta():
                self.counter.delta(incoming)
                self.choices[generation * self._choices + incoming.index].add(incoming)
            case Started():
                self.prompts[generation] = incoming.prompt
            case Finish():
                choice = self.choices[generation * self._choices + incoming.index]
                choice.reason = incoming.reason
                choice.score = incoming.score
            case Done():
                self.counter.done(incoming)

    def of(self, generation: int) -> list[Choice]:
        """The choices of one prompt."""
        start = generation * self._choices
        return self.choices[start : start + self._choices]


def best(choices: Sequence[Choice], n: int) -> list[Choice]:
    """The `n` choices with the highest log probability a token, best first."""
    return sorted(choices, key=_likelihood, reverse=True)[:n]


def _likelihood(choice: Choice) -> float:
    if choice.score is None:
        return float("-inf")
    return choice.score / max(1, choice.tokens)
