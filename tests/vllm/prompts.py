"""What both engines are asked, greedily: chats and plain texts, with and without thinking and tools."""

from __future__ import annotations

from typing import Any

from akashllm.server.domain import Generation, InfillPrompt, Message, Tool
from tests.engine.ask import ask, chat, say, text

_CITIES = ("Japan", "France", "Germany", "Italy", "Spain", "Brazil", "Canada", "Egypt", "India", "Mexico")
_QUESTIONS = (
    "Count to 12.",
    "Count to 30.",
    "What is 7+8?",
    "What is 12+9?",
    "Repeat after me: river stone moon",
    "Repeat after me: blue tree seven lamp cold",
    "Why is the sky blue?",
    "Tell me a story.",
    "Tell me a joke.",
    "Who are you?",
    "Hello!",
    "How are you?",
    "What can you do?",
    "Translate to French: cat",
    "Translate to German: house",
    "Li Hua is 33 years old and lives in Paris. Respond using JSON.",
    "Emma is 51 years old and lives in Rome. Respond using JSON.",
    "\u4f60\u597d",
    "\U0001f600 What does this mean?",
    "",
)
_TEXTS = (
    "Hello",
    "The capital of",
    "Once upon a time",
    "1, 2, 3, 4, 5",
    "def add(a, b):\n    return",
    '{"name": "Li Hua", "age":',
    "<|im_start|>user\nWhat is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n",
    "To be, or not to be",
    "\u00fc\u00f6\u00e4 \u4e2d\u6587 \U0001f999",
    "  leading and trailing spaces  ",
)
WEATHER = Tool(
    name="get_weather",
    description="The weather in a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
_ALICE = (
    Message(role="user", content="My name is Alice."),
    Message(role="assistant", content="Nice to meet you, Alice."),
    Message(role="user", content="What is my name?"),
)


def requests() -> list[Generation]:
    """All of them, told to give their tokens."""
    more: dict[str, Any] = {"max_tokens": 120, "want_context": True}
    found = [say(f"What is the capital of {city}?", **more) for city in _CITIES]
    found += [say(question, **more) for question in _QUESTIONS]
    found += [say(question, prompt={"think": True}, **more) for question in _QUESTIONS[:8]]
    found += [text(words, max_tokens=60, want_context=True) for words in _TEXTS]
    found += [
        say(f"What is the weather in {city}?", prompt={"tools": (WEATHER,)}, **more)
        for city in ("Paris", "Rome", "Berlin")
    ]
    found.append(chat(*_ALICE, **more))
    for persona in ("You are Batman.", "You are a pirate."):
        system = Message(role="system", content=persona)
        found.append(chat(system, Message(role="user", content="Who are you?"), **more))
    code = InfillPrompt(prefix="def add(a, b):\n    return ", suffix="\n\nprint(add(2, 3))\n")
    found.append(ask(code, max_tokens=20, want_context=True))
    return found
