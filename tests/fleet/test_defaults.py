"""A model's own words, where a request has none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from akashllm.errors import BadRequest
from akashllm.server.defaults import NOTHING, Defaults, said_by, said_in
from akashllm.server.domain import ChatPrompt, Generation, Message, TextPrompt

FACTS = (Message(role="user", content="q"), Message(role="assistant", content="a"))


def chat(*messages: tuple[str, str], **changes: Any) -> Generation:
    """A request with these messages."""
    prompt = ChatPrompt(messages=tuple(Message(role=role, content=text) for role, text in messages))
    return msgspec.structs.replace(Generation(id="t", model="m", prompt=prompt), **changes)


def shown(request: Generation) -> list[str]:
    """The contents of its messages, in order."""
    assert isinstance(request.prompt, ChatPrompt)
    return [message.content for message in request.prompt.messages]


def test_messages_come_in_ollamas_order() -> None:
    """System, the model's messages, the request's; a system message of the request replaces the model's."""
    own = Defaults(system="S", messages=FACTS)
    assert shown(own.apply(chat(("user", "u")), ())) == ["S", "q", "a", "u"]
    assert shown(own.apply(chat(("system", "mine"), ("user", "u")), ())) == ["q", "a", "mine", "u"]
    assert shown(own.apply(chat(("user", "u")), (), chat=False)) == ["S", "q", "a", "u"]
    assert shown(own.apply(chat(("system", "mine"), ("user", "u")), (), chat=False)) == ["mine", "q", "a", "u"]


def test_a_context_already_has_the_messages() -> None:
    """With Ollama's `context` only the system message is said again."""
    request = chat(("user", "u"))
    prompt = msgspec.structs.replace(request.prompt, prefix_tokens=(1, 2))
    request = msgspec.structs.replace(request, prompt=prompt)
    assert shown(Defaults(system="S", messages=FACTS).apply(request, (), chat=False)) == ["S", "u"]


def test_raw_prompts_stay_as_they_are() -> None:
    """Text without a template gets no messages, but the sampling."""
    request = Generation(id="t", model="m", prompt=TextPrompt(text="x"))
    changed = Defaults(system="S", messages=FACTS, parameters={"top_k": 3}).apply(request, ())
    assert changed.prompt == request.prompt
    assert changed.sampling.top_k == 3


def test_parameters_hold_unless_they_are_said() -> None:
    """Each option of the model holds where the request does not have it, and only there."""
    own = Defaults(
        parameters={
            "temperature": 0.1,
            "top_k": -5 + 5,
            "seed": 7,
            "stop": ("X", "Y"),
            "num_predict": 9,
            "num_keep": 2,
            "num_ctx": 64,
            "num_gpu": 1,
        }
    )
    plain = chat(("user", "u"))
    changed = own.apply(plain, ())
    assert (changed.sampling.temperature, changed.sampling.top_k, changed.sampling.seed) == (0.1, 0, 7)
    assert (changed.stop, changed.max_tokens, changed.num_keep) == (("X", "Y"), 9, 2)
    assert changed.context is None, "num_ctx is how the model is loaded"
    assert changed.sampling.top_p == plain.sampling.top_p
    said = {"temperature", "top_k", "seed", "stop", "num_predict", "num_keep"}
    assert own.apply(plain, said) == plain
    assert NOTHING.apply(plain, ()) is plain


def test_a_random_seed_and_endless_answers() -> None:
    """Negative values mean what they mean in Ollama: a random seed, no bound of its own."""
    changed = Defaults(parameters={"seed": -1, "num_predict": -1}).apply(chat(("user", "u"), max_tokens=50), ())
    assert changed.sampling.seed is None
    assert changed.max_tokens == 50


def test_parameters_that_cannot_be_used_say_so() -> None:
    """A value outside its bounds is the model's fault and not the request's."""
    with pytest.raises(BadRequest, match="this model's own parameters"):
        Defaults(parameters={"top_p": 7}).apply(chat(("user", "u")), ())


def test_what_a_request_says() -> None:
    """Null says nothing; OpenAI's words and the extras count by Ollama's names, wherever they stand."""
    assert said_in({"seed": 1, "stop": None}) == {"seed"}
    assert said_in(None) == said_in([]) == set()
    body = {"max_completion_tokens": 5, "top_p": None, "options": {"repetition_penalty": 1.1}, "n": 1}
    assert said_by(body) >= {"num_predict", "repeat_penalty"}
    assert "top_p" not in said_by(body)
    assert "temperature" not in said_by({"options": 5})
