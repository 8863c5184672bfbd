"""A name that can be asked for: what is in memory for it, and what its author wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from akashllm.server.domain import Message
from akashllm.server.resident import Resident


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds for a model where a request says nothing: a Modelfile's or a configuration's words.

    parameters   option names of Ollama (`temperature`, `stop`, `num_predict`, ...), values as JSON has them
    messages     put before those of a chat
    """

    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()


NOTHING = Defaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One name and the model it means. Several names may mean one resident, each with its own defaults.

    digest   of the manifest, 64 hexadecimal digits; empty: the model is the deployed one, whose file says it
    """

    name: str
    resident: Resident
    defaults: Defaults = NOTHING
    digest: str = ""
