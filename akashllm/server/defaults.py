"""What a model's author wants where a request says nothing: a Modelfile's or a configuration's words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import ChatPrompt, Generation, Message, Prompt
from akashllm.server.wire.ollama.options import SAMPLERS, Chosen, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for every request to a model.

    parameters   option names of Ollama (`temperature`, `stop`, `num_predict`, ...), values as JSON has them
    messages     put before those of a chat
    """

    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()

    def apply(self, request: Generation, said: Collection[str], *, chat: bool = True) -> Generation:
        """The request with these defaults. `said` has the options that its sender gave, by Ollama's names.

        With `chat` the messages are a conversation; otherwise they are a prompt and perhaps a system message
        (`/api/generate`). The order of messages is Ollama's (server/routes.go): the model's system message if
        the conversation does not begin with one, the model's messages, the request's.
        """
        changes: dict[str, Any] = {}
        unsaid = {name: value for name, value in self.parameters.items() if name not in said}
        if unsaid:
            changes = _changes(request, unsaid, _choose(unsaid))
        if self.system or self.messages:
            changes["prompt"] = self._prompt(request.prompt, chat=chat)
        return msgspec.structs.replace(request, **changes) if changes else request

    def _prompt(self, prompt: Prompt, *, chat: bool) -> Prompt:
        if not isinstance(prompt, ChatPrompt):
            return prompt
        asked = prompt.messages
        has_system = bool(asked) and asked[0].role == "system"
        system = (Message(role="system", content=self.system),) if self.system and not has_system else ()
        # A context already holds the model's messages: it was made with them.
        own = () if prompt.prefix_tokens else self.messages
        if not chat and has_system:
            return msgspec.structs.replace(prompt, messages=(asked[0], *own, *asked[1:]))
        return msgspec.structs.replace(prompt, messages=(*system, *own, *asked))


NOTHING = Defaults()

_OPENAI = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty_num": "repeat_last_n",
}
"""Parameters of the OpenAI dialect whose name is not the option's."""


def said_by(body: Mapping[str, Any]) -> set[str]:
    """The options a body of the OpenAI dialect gives, at the top level or in `options`, by Ollama's names."""
    inner = body.get("options")
    found = [*body.items(), *(inner.items() if isinstance(inner, dict) else ())]
    return {_OPENAI.get(name, name) for name, value in found if value is not None}


def said_in(options: object) -> set[str]:
    """The options that the `options` of Ollama's dialect give; null gives nothing."""
    return (
        {name for name, value in options.items() if value is not None} if isinstance(options, dict) else set()
    )


def _choose(parameters: Mapping[str, Any]) -> Chosen:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    try:
        return choose(plain)
    except BadRequest as error:
        message = f"this model's own parameters cannot be used: {error.message}"
        raise BadRequest(message, param=error.param, hint="give the option in the request") from error


def _changes(request: Generation, named: Collection[str], chosen: Chosen) -> dict[str, Any]:
    """What the options in `named` change in a request. `num_ctx` is not among it: the model is loaded so."""
    sampling = {name: getattr(chosen.sampling, name) for name in SAMPLERS if name in named}
    changes: dict[str, Any] = {}
    if sampling:
        changes["sampling"] = msgspec.structs.replace(request.sampling, **sampling)
    if "stop" in named:
        changes["stop"] = chosen.stop
    if "num_keep" in named:
        changes["num_keep"] = chosen.num_keep
    if "num_predict" in named and chosen.max_tokens is not None:
        most = request.max_tokens
        changes["max_tokens"] = chosen.max_tokens if most is None else min(most, chosen.max_tokens)
    return changes
