"""The file that says which models are served, and how: the configuration of lllms, as YAML or JSON.

Keys may be written as that document writes them (`contextSize`) or with underscores (`context_size`). All
faults of a file are found before any is reported, each with the path of what is at fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from akashllm.errors import BadName, BadRequest, UsageError
from akashllm.names import ModelName
from akashllm.server.config_fields import Fields, kind
from akashllm.server.domain import Message
from akashllm.server.wire.ollama.options import choose

MAX_BYTES = 1 << 20
MAX_MODELS = 1000

ENGINES = ("node-llama-cpp", "gpt4all", "llama.cpp", "llamacpp")
"""Words for an engine that all mean llama.cpp here: what those libraries run is a GGUF file."""

TASKS = ("text-completion", "embedding")

DEFAULTS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "max_tokens": "num_predict",
    "num_predict": "num_predict",
    "stop": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repeat_penalty": "repeat_penalty",
    "repeat_penalty_num": "repeat_last_n",
    "repeat_last_n": "repeat_last_n",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
"""`completionDefaults` by name, and the option of Ollama that means the same."""


class BadConfig(UsageError):
    """A configuration file is not usable; `faults` has a line for each place."""

    def __init__(self, file: str, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            f"the configuration {file} is not usable:\n" + "\n".join(f"  {fault}" for fault in faults),
            hint="correct the places above and start again; all of them are listed",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredModel:
    """One model of the file. `file` or `url` says where it is; with both it is fetched if no file is there.

    slots      answers at once (`maxInstances`); None: as many as the service gives
    pinned     `minInstances` is 1 or more: loaded at the start, never unloaded
    ttl        seconds of idleness; negative: forever; None: the service's
    """

    name: str
    task: str = TASKS[0]
    file: Path | None = None
    url: str = ""
    sha256: str = ""
    context: int = 0
    slots: int | None = None
    pinned: bool = False
    ttl: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    preload: tuple[Message, ...] = ()
    adapters: tuple[Path, ...] = ()
    projector: Path | None = None

    @property
    def origin(self) -> str:
        """The address in the words of AKASHLLM_MODEL."""
        address = self.url.replace("hf://", "hf.co/", 1) if self.url.startswith("hf://") else self.url
        return f"{address}#sha256={self.sha256}" if self.sha256 and address.startswith("http") else address


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole file. `concurrency` bounds the answers of all models together; None: each its own slots."""

    models: tuple[ConfiguredModel, ...]
    concurrency: int | None = None
    host: str | None = None
    port: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the file says in the words of the settings."""
        said = {"AKASHLLM_HOST": self.host, "AKASHLLM_PORT": self.port}
        return {name: str(value) for name, value in said.items() if value is not None}


def read_config(path: Path) -> Config:
    """The configuration in a file. Raises `BadConfig` with every fault, `UsageError` if it cannot be read."""
    try:
        if path.is_fifo():
            raise UsageError(
                f"the configuration {path} is a pipe, and a configuration is read more than once",
                hint="write it to a file and name that",
            )
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise BadConfig(path.name, [f"it is larger than {MAX_BYTES} bytes"])
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"the configuration {path} cannot be read: {reason}", hint="give the path of a YAML or JSON file"
        ) from error
    faults: list[str] = []
    config = _Reader(faults, path).config(_parsed(text, path.name))
    if faults:
        raise BadConfig(path.name, faults)
    return config


def _parsed(text: str, name: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_once)
        except RecursionError:
            raise BadConfig(name, ["it is nested too deeply"]) from None
        except ValueError as error:
            # A brace also opens a mapping of YAML, which knows comments and bare words.
            reason = f"as JSON: {error}"
    else:
        reason = ""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise BadConfig(name, ["it is nested too deeply"]) from None
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadConfig(name, [reason or f"{where}it is neither YAML nor JSON: {what}"]) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            message = f"the key {key[:60]!r} is there twice"
            raise ValueError(message)
        found[key] = value
    return found


class _Reader:
    """Walks the tree and notes every fault with its path."""

    def __init__(self, faults: list[str], file: Path) -> None:
        self._faults = faults
        self._folder = file.parent

    def fault(self, path: str, words: str) -> None:
        """Note one."""
        self._faults.append(f"{path}: {words}" if path else words)

    def config(self, tree: Any) -> Config:
        """The root."""
        fields = Fields(self.fault, "", tree, ("concurrency", "models", "listen"))
        listen = Fields(self.fault, "listen", fields.get("listen", {}), ("port", "host"))
        return Config(
            models=tuple(self._models(fields)),
            concurrency=fields.integer("concurrency", 1, 1024),
            host=listen.text("host") or None,
            port=listen.integer("port", 0, 65535),
        )

    def _models(self, fields: Fields) -> Iterator[ConfiguredModel]:
        models = fields.get("models")
        if not isinstance(models, dict) or not models:
            self.fault("models", "is required: a name and a description for each model")
            return
        if len(models) > MAX_MODELS:
            self.fault("models", f"has {len(models)} models; {MAX_MODELS} at most")
            return
        seen: dict[str, str] = {}
        for name, tree in models.items():
            path = f"models.{name}"
            try:
                canonical = ModelName.parse(str(name)).canonical
            except BadName as error:
                self.fault(path, f"{error.message}; {error.hint}")
                continue
            if canonical in seen:
                self.fault(path, f"names the same model as models.{seen[canonical]}")
            seen[canonical] = str(name)
            yield self._model(str(ModelName.parse(str(name))), path, tree)

    def _model(self, name: str, path: str, tree: Any) -> ConfiguredModel:
        fields = Fields(self.fault, path, tree, _MODEL_KEYS)
        fields.choice("engine", ENGINES)
        least = fields.integer("min_instances", 0, 1024) or 0
        most = fields.integer("max_instances", 1, 1024)
        if most is not None and least > most:
            self.fault(f"{path}.{fields.spelled('min_instances')}", f"is more than the most, which is {most}")
        file, url = fields.text("file"), fields.text("url")
        if not file and not url and isinstance(tree, dict):
            self.fault(path, "needs a file or a url: where the model is")
        if url and not re.match(r"(https?|hf)://\S+$", url):
            self.fault(f"{path}.url", "must begin with https://, http:// or hf://")
            url = ""
        place = self._place(f"{path}.file", file, there=not url)
        sha256 = fields.text("sha256").lower().removeprefix("sha256:")
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            self.fault(f"{path}.sha256", "must be 64 hexadecimal digits")
        projector = fields.text("projector")
        return ConfiguredModel(
            name=name,
            task=fields.choice("task", TASKS) or TASKS[0],
            file=place,
            url=url,
            sha256=sha256,
            context=fields.integer("context_size", 16, 1 << 24) or 0,
            slots=most,
            pinned=least > 0,
            ttl=fields.seconds("ttl"),
            parameters=self._defaults(fields.at("completion_defaults"), fields.get("completion_defaults", {})),
            preload=self._preload(fields.at("preload"), fields.get("preload", {})),
            adapters=tuple(
                found
                for position, one in enumerate(fields.texts("adapters"))
                if (found := self._place(f"{path}.adapters[{position}]", one, there=True)) is not None
            ),
            projector=self._place(f"{path}.projector", projector, there=True),
        )

    def _place(self, path: str, text: str, *, there: bool) -> Path | None:
        """A file, relative to the configuration's own folder."""
        if not text:
            return None
        found = self._folder / Path(text).expanduser()
        if there and not found.is_file():
            self.fault(path, "there is no such file")
        return found

    def _defaults(self, path: str, tree: Any) -> dict[str, Any]:
        fields = Fields(self.fault, path, tree, tuple(DEFAULTS))
        found: dict[str, Any] = {}
        for key, option in DEFAULTS.items():
            value = fields.get(key)
            if value is None:
                continue
            try:
                choose({option: value})
            except BadRequest as error:
                words = error.message.replace(f'option "{option}" ', "")
                self.fault(f"{path}.{fields.spelled(key)}", words)
            else:
                found[option] = value
        return found

    def _preload(self, path: str, tree: Any) -> tuple[Message, ...]:
        fields = Fields(self.fault, path, tree, ("messages",))
        messages = fields.get("messages", [])
        if not isinstance(messages, list):
            self.fault(f"{path}.messages", f"must be a list of messages, not {kind(messages)}")
            return ()
        found = []
        for position, one in enumerate(messages):
            message = Fields(self.fault, f"{path}.messages[{position}]", one, ("role", "content"))
            role = message.choice("role", ("system", "user", "assistant"))
            if role is None:
                if isinstance(one, dict) and message.get("role") is None:
                    self.fault(f"{path}.messages[{position}].role", "is required: system, user or assistant")
                continue
            found.append(Message(role=role, content=message.text("content")))
        return tuple(found)


_MODEL_KEYS = (
    "task",
    "engine",
    "url",
    "file",
    "sha256",
    "preload",
    "context_size",
    "max_instances",
    "min_instances",
    "ttl",
    "completion_defaults",
    "adapters",
    "projector",
)
