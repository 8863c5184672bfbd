"""The service's settings: read from the environment once, checked all at once, frozen.

The environment is what an SDL can set, so it is the only source. `Settings.from_env` collects every fault
before it complains; `Settings.table` is the table in the documentation.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from akashllm.errors import BadName, UsageError
from akashllm.models import TINY
from akashllm.names import ModelName, admit
from akashllm.server.values import (
    Fault,
    Parser,
    address,
    boolean,
    choice,
    duration,
    folders,
    integer,
    mapping,
    mirrors,
    names,
    number,
    origins,
    pairs,
    registries,
    secret_fault,
    size,
    text,
    token_fault,
)

PREFIX = "AKASHLLM_"
ELSEWHERE = frozenset({"AKASHLLM_HOME", "AKASHLLM_LOCAL"})
"""Variables with our prefix that other parts read."""
STORE_ENGINE = "llamacpp"
"""The engine that serves models of a store: the others have one model, or a store of their own."""
KIB = 1024
MIB = 1024 * KIB


class BadSettings(UsageError):
    """The environment says something impossible; `faults` has a line for each variable."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "the settings are not usable:\n" + "\n".join(f"  {fault}" for fault in faults),
            hint="correct the variables above and start again; all of them are listed",
        )


class Row(NamedTuple):
    """One line of the settings table: everything as text."""

    variable: str
    default: str
    unit: str
    doc: str


def _setting(default: Any, parse: Parser, doc: str, *, unit: str = "", example: str = "", env: str = "") -> Any:
    return field(
        default=default, metadata={"parse": parse, "doc": doc, "unit": unit, "example": example, "env": env}
    )


def _secret(doc: str, *, env: str = "") -> Any:
    return field(
        default=None,
        repr=False,
        metadata={"parse": text(), "doc": doc, "unit": "", "example": "", "env": env, "secret": True},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator of one service decided. Secrets do not show in `repr`."""

    host: str = _setting(
        "127.0.0.1", text(), "address to listen on; `0.0.0.0` is every IPv4 one", example="127.0.0.1"
    )
    port: int = _setting(11434, integer(0, 65535), "port to listen on; 0 takes any free one", example="8080")
    api_key: str | None = _secret(
        "the key clients send as `Authorization: Bearer`; required unless the address is loopback. "
        "`AKASHLLM_API_KEY_FILE` names a file that holds it instead"
    )
    admin_key: str | None = _secret(
        "a second key, accepted wherever the first is and reserved for operations that change the service. "
        "`AKASHLLM_ADMIN_KEY_FILE` likewise"
    )
    unauthenticated: bool = _setting(
        False, boolean(), "serve without a key even on a public address", example="true"
    )

    engine: str = _setting(
        "llamacpp", choice("llamacpp", "vllm", "ollama", "upstream", "whisper"), "what runs the model"
    )
    model: str = _setting(
        "tiny",
        text(),
        "where the weights come from: `tiny` (bundled), the path of a GGUF file, `hf.co/org/repo:QUANT`, "
        "`hf.co/org/repo@REVISION/file.gguf`, a file's address; for the engine `ollama` a name of its library",
        example="/models/m.gguf",
    )
    weights: str = _setting(
        "", text(), "path of the model's file, where MODEL is only its name", example="/models/m.gguf"
    )
    data: str = _setting(
        "",
        text(),
        "folder where fetched weights are kept, a persistent volume; empty: in the user's cache folder",
        example="/data",
    )
    download_timeout: float = _setting(
        30.0, duration(0.001), "longest silence of a server that weights come from", unit="s"
    )
    hf_token: str | None = _secret(
        "a token of the Hugging Face hub, for gated and private repositories; sent nowhere else. "
        "`HF_TOKEN_FILE` names a file that holds it instead",
        env="HF_TOKEN",
    )
    hf_endpoint: str = _setting(
        "https://huggingface.co",
        address(),
        "where the hub answers; a mirror is named here",
        example="https://huggingface.co",
        env="HF_ENDPOINT",
    )
    model_name: str = _setting("", text(), "name the model is served under; empty: from the file's name")
    model_aliases: tuple[str, ...] = _setting(
        (), names(), "further names it answers to; `*` answers to any", example="llama3,gpt-4o"
    )
    context: int = _setting(
        0, integer(0, 16 * MIB), "tokens one request may use; 0: what the model allows", unit="tokens"
    )
    concurrency: int = _setting(8, integer(1, 1024), "answers produced at once", unit="answers")
    threads: int = _setting(0, integer(0, 1024), "threads that compute; 0: one a core", unit="threads")
    gpu_layers: int = _setting(
        -1, integer(-1, 10_000), "layers on the GPU; -1: all that fit, 0: none", unit="layers"
    )
    batch: int = _setting(
        0, integer(0, 65536), "prompt tokens computed in one step; 0: the engine decides", unit="tokens"
    )
    gpus: int = _setting(
        1, integer(1, 64), "for the engine `vllm`: GPUs of a node over which each layer is split", unit="GPUs"
    )
    nodes: int = _setting(
        1, integer(1, 64), "for the engine `vllm`: nodes over which layers are spread, with Ray", unit="nodes"
    )
    head: str = _setting(
        "",
        text(),
        "for the engine `vllm`: `host:port` of the head this node works for; all else as the head has it",
        example="llm:6379",
    )
    gpu_memory: float = _setting(
        0.0, number(0.0, 1.0), "for the engine `vllm`: part of a GPU's memory to plan with; 0: its default 0.92"
    )
    dtype: str = _setting(
        "auto",
        choice("auto", "bfloat16", "float16", "float32"),
        "for the engine `vllm`: what it computes in; auto: what the weights are in, or half of that",
    )
    task: str = _setting(
        "auto",
        choice("auto", "generate", "embed", "transcribe"),
        "for the engine `vllm`: what the model is for; `embed` makes embeddings with a model for text, "
        "`transcribe` serves a Whisper",
    )
    chats: str = _setting(
        "auto",
        choice("auto", "own", "vllm"),
        "for the engine `vllm`: who writes and reads chats; auto: this service where it knows the format",
    )
    tool_parser: str = _setting(
        "", text(), "for the engine `vllm`: its parser of the model's tool calls", example="hermes"
    )
    reasoning_parser: str = _setting(
        "", text(), "for the engine `vllm`: its parser of the model's thinking", example="qwen3"
    )
    lora: tuple[tuple[str, str], ...] = _setting(
        (),
        folders(),
        "for the engine `vllm`: LoRA adapters, each served under a name of its own",
        example="poet=/models/poet",
    )
    vllm_options: str = _setting(
        "",
        mapping(),
        "for the engine `vllm`: further engine arguments, in its own words",
        example='{"kv_cache_dtype": "fp8"}',
    )
    child_python: str = _setting(
        "",
        text(),
        "for the engine `vllm`: the interpreter that has vLLM; empty: this service's own",
        example="/usr/bin/python3",
    )
    child_path: str = _setting(
        "",
        text(),
        "for the engine `vllm`: folder where that interpreter finds this package, if not by itself",
        example="/opt/akashllm/child",
    )
    upstream_url: str = _setting(
        "",
        address(),
        "for the engine `upstream`: where a server answers in OpenAI's or Ollama's dialect",
        example="http://127.0.0.1:8000",
    )
    upstream_api_key: str | None = _secret(
        "the key of that server. `AKASHLLM_UPSTREAM_API_KEY_FILE` names a file that holds it instead"
    )
    upstream_dialect: str = _setting(
        "auto", choice("auto", "openai", "ollama"), "which dialect to speak with it; auto: find out"
    )
    upstream_model: str = _setting(
        "", text(), "what it calls the model; empty: MODEL, or the first it lists if that is `tiny`"
    )
    ollama_binary: str = _setting("ollama", text(), "for the engine `ollama`: path or name of its program")
    ollama_models: str = _setting(
        "", text(), "for the engine `ollama`: folder of its models; empty: its own default", example="/models"
    )

    models: str = _setting(
        "",
        text(),
        "folder of the model store; empty: no store. An existing folder of Ollama will do",
        example="/models",
    )
    registries: tuple[str, ...] = _setting(
        (),
        registries(),
        "registries that models may be pulled from and pushed to, beside `registry.ollama.ai` and `hf.co`; "
        "`insecure` (plain HTTP) works for these only",
        example="registry.example.org,127.0.0.1:5000",
    )
    registry_mirrors: tuple[tuple[str, str], ...] = _setting(
        (),
        mirrors(),
        "addresses to ask instead of a registry's own",
        example="registry.ollama.ai=https://mirror.example.org",
    )
    registry_auth: str | None = _secret(
        "keys for registries as `HOST=TOKEN` or `HOST=USER:PASSWORD`, between commas. "
        "`AKASHLLM_REGISTRY_AUTH_FILE` names a file that holds them instead"
    )
    prune: bool = _setting(
        True, boolean(), "remove files of the store that no model uses when the service starts", example="false"
    )
    manage_unauthenticated: bool = _setting(
        False,
        boolean(),
        "on loopback and without any key: let everyone on this machine manage models, as Ollama does",
        example="true",
    )
    max_blob_bytes: int = _setting(
        256 * 1024 * MIB, integer(KIB, 1 << 50), "one uploaded file of a model", unit="bytes"
    )

    projector: str = _setting(
        "",
        text(),
        "for the engine `llamacpp`: a GGUF file that turns images into tokens (`mmproj`); `auto`: the one that "
        "the model's repository has",
        example="/models/mmproj.gguf",
    )
    transcribe_model: str = _setting(
        "",
        text(),
        "a Whisper for `/v1/audio/transcriptions` beside the model: a folder or repository in CTranslate2's "
        "format (`hf.co/org/repo`), or a size such as `small`; empty: none",
        example="/models/whisper",
    )
    transcribe_name: str = _setting(
        "", text(), "name it is served under; empty: from TRANSCRIBE_MODEL. `whisper-1` always names it as well"
    )

    revision: str = _setting(
        "",
        text(),
        "what `/health` shows as `revision`: `akashllm update` sets it, to know a new container from an old",
        example="3f2a91c04b7e",
    )

    queue: int = _setting(
        64, integer(0, 100_000), "requests that may wait for a slot; more are refused", unit="requests"
    )
    queue_timeout: float = _setting(300.0, duration(0.001), "longest wait for a slot", unit="s", example="5m")
    load_timeout: float = _setting(
        300.0, duration(0.001), "longest wait for a model that loads", unit="s", example="5m"
    )
    config: str = _setting(
        "",
        text(),
        "file that says which models are served, and how (YAML or JSON)",
        example="/config/models.yaml",
    )
    memory: int = _setting(
        0,
        size(),
        "memory for all loaded models together, also as `24GiB`; 0: most of what the GPUs or the machine have",
        unit="bytes",
        example="24GiB",
    )
    max_loaded: int = _setting(
        0, integer(0, 10_000), "models in memory at once; 0: as many as fit", unit="models"
    )
    keep_alive: float = _setting(
        -1.0,
        duration(None),
        "how long an idle model stays in memory; negative: forever",
        unit="s",
        example="30m",
    )
    heartbeat: float = _setting(15.0, duration(0.001), "longest silence in a response", unit="s")
    write_timeout: float = _setting(
        60.0, duration(0.001), "longest wait for a client that does not read", unit="s"
    )
    header_timeout: float = _setting(20.0, duration(0.001), "longest wait for a request's headers", unit="s")
    body_timeout: float = _setting(
        30.0, duration(0.001), "longest wait for a body, plus a second for every 16 KiB of it", unit="s"
    )
    idle_timeout: float = _setting(
        75.0, duration(0.001), "how long a connection may idle between requests", unit="s"
    )
    drain_timeout: float = _setting(
        25.0, duration(0.0), "how long running requests may finish after SIGTERM", unit="s"
    )

    max_connections: int = _setting(
        1024, integer(8, 1_000_000), "open connections; more get 503", unit="connections"
    )
    max_header_bytes: int = _setting(
        32 * KIB, integer(KIB, MIB), "request line and headers together", unit="bytes"
    )
    max_body_bytes: int = _setting(100 * MIB, integer(KIB, 1024 * MIB), "body of a request", unit="bytes")
    max_depth: int = _setting(64, integer(4, 500), "nesting of a JSON body", unit="levels")
    max_keys: int = _setting(100_000, integer(100, 10_000_000), "object keys in a JSON body", unit="keys")
    max_values: int = _setting(1_000_000, integer(100, 100_000_000), "values in a JSON body", unit="values")
    max_prompt_bytes: int = _setting(
        8 * MIB, integer(1, 1024 * MIB), "text of a prompt or of all messages", unit="bytes"
    )
    max_messages: int = _setting(4096, integer(1, 1_000_000), "messages of a chat", unit="messages")
    max_tools: int = _setting(128, integer(0, 10_000), "tools of a chat", unit="tools")
    max_tool_bytes: int = _setting(
        MIB, integer(1, 64 * MIB), "names, descriptions and schemas of all tools", unit="bytes"
    )
    max_schema_bytes: int = _setting(
        256 * KIB, integer(1, 64 * MIB), "schema or grammar of the output", unit="bytes"
    )
    max_n: int = _setting(16, integer(1, 1024), "choices of one request (`n`, `best_of`)", unit="choices")
    max_stop: int = _setting(32, integer(0, 10_000), "stop strings", unit="strings")
    max_stop_bytes: int = _setting(4 * KIB, integer(1, MIB), "all stop strings together", unit="bytes")
    max_logprobs: int = _setting(20, integer(0, 1000), "alternatives a token (`top_logprobs`)", unit="tokens")
    max_logit_bias: int = _setting(4096, integer(0, 1_000_000), "entries of `logit_bias`", unit="entries")
    max_inputs: int = _setting(2048, integer(1, 100_000), "inputs of one embedding request", unit="inputs")

    max_images: int = _setting(16, integer(0, 1024), "images of a request", unit="images")
    max_image_bytes: int = _setting(20 * MIB, integer(KIB, 1024 * MIB), "one image, decoded", unit="bytes")
    max_image_pixels: int = _setting(
        40_000_000, integer(1, 1_000_000_000), "width times height of one image", unit="pixels"
    )
    max_audio_bytes: int = _setting(25 * MIB, integer(KIB, 1024 * MIB), "file of a transcription", unit="bytes")
    max_audio_seconds: float = _setting(
        3600.0, duration(1.0), "longest recording of a transcription", unit="s", example="30m"
    )

    log_level: str = _setting("info", choice("debug", "info", "warning", "error"), "least severe line to log")
    log_format: str = _setting("json", choice("json", "text"), "one JSON object a line, or text")
    cors_origins: tuple[str, ...] = _setting(
        (),
        origins(),
        "origins whose pages may call the service; none by default",
        example="https://chat.example.org",
    )
    metrics: bool = _setting(True, boolean(), "serve `/metrics`", example="false")
    docs: bool = _setting(False, boolean(), "serve `/openapi.json`", example="true")
    chat_page: bool = _setting(True, boolean(), "serve the chat page at `/chat`", example="false")

    def __post_init__(self) -> None:
        admit(self.registries)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings `environ` describes (the process's own if None).

        Raises `BadSettings` with every fault. A variable with our prefix that means nothing is a warning: it
        is a typing error more often than not.
        """
        environ = os.environ if environ is None else environ
        faults: list[str] = []
        values: dict[str, Any] = {}
        known = set()
        for item in dataclasses.fields(cls):
            variable = _variable(item)
            known.add(variable)
            raw = environ.get(variable)
            if item.metadata.get("secret"):
                known.add(f"{variable}_FILE")
                raw = _from_file(variable, raw, environ, faults)
            if raw is None or not raw.strip():
                continue
            try:
                values[item.name] = item.metadata["parse"](raw.strip())
            except Fault as fault:
                example = item.metadata["example"] or _shown(item.default) or "..."
                faults.append(f"{variable}: {fault}; for example {variable}={example}")
        for variable in sorted(set(environ)):
            if variable.startswith(PREFIX) and variable not in known | ELSEWHERE:
                warnings.warn(f"{variable} is not a setting of this service and is ignored", stacklevel=2)
        settings = cls(**values)
        faults += settings.faults()
        if faults:
            raise BadSettings(faults)
        return settings

    def faults(self) -> list[str]:
        """What is wrong between the settings, one line each; a line never holds a secret."""
        faults = []
        for variable, key in (("API_KEY", self.api_key), ("ADMIN_KEY", self.admin_key)):
            problem = secret_fault(key) if key is not None else None
            if problem:
                faults.append(
                    f"{PREFIX}{variable}: {problem}; for example the output of `openssl rand -hex 24`"
                )
        if not self.loopback and self.api_key is None and not self.unauthenticated:
            faults.append(
                f"{PREFIX}API_KEY: is required to listen on {self.host}, which others can reach; set it (or "
                f"{PREFIX}API_KEY_FILE), or {PREFIX}UNAUTHENTICATED=true to serve without one"
            )
        if self.model_name:
            try:
                ModelName.parse(self.model_name)
            except BadName as error:
                faults.append(f"{PREFIX}MODEL_NAME: {error.message}; for example {PREFIX}MODEL_NAME=llama3:8b")
        if self.weights.startswith(("http://", "https://", "hf://")):
            faults.append(
                f"{PREFIX}WEIGHTS: must be the path of a file; for example {PREFIX}WEIGHTS=/models/m.gguf"
            )
        if self.upstream_api_key is not None and not _fits_header(self.upstream_api_key):
            faults.append(
                f"{PREFIX}UPSTREAM_API_KEY: must be printable ASCII without spaces, because it travels in a "
                "header; for example the key as its owner gave it to you"
            )
        if self.hf_token is not None and (problem := token_fault(self.hf_token)):
            faults.append(f"HF_TOKEN: {problem}; for example hf_ and the letters that the hub gave you")
        if self.engine == "upstream" and not self.upstream_url:
            faults.append(
                f"{PREFIX}UPSTREAM_URL: is required by the engine upstream; for example "
                f"{PREFIX}UPSTREAM_URL=http://127.0.0.1:8000"
            )
        if self.head and not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", self.head):
            faults.append(f"{PREFIX}HEAD: must be host:port; for example {PREFIX}HEAD=llm:6379")
        if self.head and (self.engine != "vllm" or self.nodes < 2):
            faults.append(
                f"{PREFIX}HEAD: makes this a worker of several nodes with vLLM; set {PREFIX}ENGINE=vllm and "
                f"{PREFIX}NODES to how many there are, or unset it"
            )
        if self.unauthenticated and self.api_key is not None:
            faults.append(f"{PREFIX}UNAUTHENTICATED: contradicts {PREFIX}API_KEY; unset one of them")
        if self.registry_auth is not None and not pairs(self.registry_auth):
            faults.append(
                f"{PREFIX}REGISTRY_AUTH: must be pairs of a host and a key between commas; for example "
                f"{PREFIX}REGISTRY_AUTH=registry.example.org=USER:PASSWORD"
            )
        if self.manage_unauthenticated and (self.keys or not self.loopback):
            faults.append(
                f"{PREFIX}MANAGE_UNAUTHENTICATED: is only for a service on loopback without any key; set "
                f"{PREFIX}ADMIN_KEY instead"
            )
        if self.max_body_bytes < self.max_prompt_bytes and self.max_prompt_bytes != _default(
            "max_prompt_bytes"
        ):
            faults.append(
                f"{PREFIX}MAX_PROMPT_BYTES: is larger than {PREFIX}MAX_BODY_BYTES, so it never applies"
            )
        return faults

    @property
    def served_name(self) -> str:
        """What the model is called: as told, as MODEL says, or as its file is called; well-formed."""
        for candidate in (self.model_name, self.model, Path(self.model).stem):
            try:
                return str(ModelName.parse(candidate))
            except BadName:
                continue
        return "model:latest"

    @property
    def model_file(self) -> Path:
        """Where the model's file should be; whether it is there is another question."""
        if self.weights:
            return Path(self.weights)
        return TINY if self.model == "tiny" and self.engine == "llamacpp" else Path(self.model)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that open the service; empty: it is open."""
        return tuple(key for key in (self.api_key, self.admin_key) if key is not None)

    @classmethod
    def table(cls) -> list[Row]:
        """Every setting in the order of the class, for the documentation."""
        return [
            Row(_variable(item), _shown(item.default), item.metadata["unit"], item.metadata["doc"])
            for item in dataclasses.fields(cls)
        ]


def _variable(item: dataclasses.Field[Any]) -> str:
    name: str = item.metadata["env"] or PREFIX + item.name.upper()
    return name


def _fits_header(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable() and " " not in value


def _default(name: str) -> Any:
    return next(item.default for item in dataclasses.fields(Settings) if item.name == name)


def _shown(value: Any) -> str:
    match value:
        case None | () | "":
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case _:
            return str(value)


_MAX_SECRET = 1 << 16
"""Bytes of a file with a key: one that is longer is another file."""


def _from_file(variable: str, raw: str | None, environ: Mapping[str, str], faults: list[str]) -> str | None:
    """The secret itself, from the variable or from the file another one names."""
    path = environ.get(f"{variable}_FILE", "").strip()
    if not path:
        return raw
    if raw is not None and raw.strip():
        faults.append(f"{variable}_FILE: contradicts {variable}; unset one of them")
        return raw
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_SECRET + 1)
        content = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        faults.append(
            f"{variable}_FILE: cannot be read ({reason}); for example {variable}_FILE=/run/secrets/key"
        )
        return None
    if len(data) > _MAX_SECRET:
        faults.append(f"{variable}_FILE: the file is larger than any key; put the key on its only line")
        return None
    if not content:
        faults.append(f"{variable}_FILE: the file is empty; put the key on its only line")
    return content
