"""A request for a model, and the plan that answers it: frozen, hashable, the same bytes everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

EngineName = Literal["ollama", "vllm", "llamacpp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """What a person asked for. None means: decide for me.

    context          tokens one request may use
    concurrency      requests answered at once
    gpu              market names (h100, rtx4090, ...), empty: any that fits
    nodes            machines that share one copy of the model (vLLM on Ray); replicas are whole copies
    max_price        US dollars an hour for everything
    persistent       weights on a volume that outlives the container, where there are any to keep
    manage           with an admin key, whose holder may pull, make and delete models
    parameters, layers, hidden, heads, kv_heads, head_size, vocab
                     figures of a model whose files cannot be read
    """

    model: str
    engine: EngineName = "llamacpp"
    name: str | None = None
    context: int | None = None
    concurrency: int | None = None
    quant: str | None = None
    gpu: tuple[str, ...] = ()
    gpu_count: int | None = None
    cpu_only: bool = False
    region: str | None = None
    max_price: float | None = None
    replicas: int = 1
    nodes: int = 1
    persistent: bool = True
    manage: bool = False
    audited: bool = True
    image: str | None = None
    local: bool = False
    parameters: int | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    vocab: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One summand of a memory estimate, in GiB, with where the figure comes from."""

    what: str
    gib: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuChoice:
    """One kind of GPU that would do. `ram_gib` and `interface` are the market's words."""

    model: str
    ram_gib: int
    count: int
    interface: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights come from: what the container is told, and what pins it."""

    alias: str
    kind: Literal["bundled", "file", "gguf", "hf", "ollama", "ct2"]
    repository: str = ""
    file: str = ""
    revision: str = ""
    gated: bool = False
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the templates and the markets need, as plain data.

    env       what the container gets, sorted; never a secret
    secrets   names of environment variables filled at deploy time (the API key, a Hugging Face token)
    nodes     containers that share one copy of the model; cpu, memory, volumes and GPUs are those of each
    price     `max_price_hour` is US dollars an hour for all containers; `max_uact_block` is the bid cap of one
              container in uact a block. Both None on this machine, where it is free.
    """

    name: str
    engine: EngineName
    model: ModelSource
    image: str
    port: int
    env: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]
    context: int
    concurrency: int
    quant: str
    memory: tuple[MemoryLine, ...]
    cpu_units: float
    ram_gib: int
    disk_gib: int
    volume_gib: int
    volume_class: str | None
    shm_gib: int
    gpus: tuple[GpuChoice, ...] = ()
    replicas: int = 1
    nodes: int = 1
    region: str | None = None
    audited: bool = True
    max_price_hour: float | None = None
    max_uact_block: float | None = None
    price_source: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def containers(self) -> int:
        """How many containers are paid for."""
        return self.replicas * self.nodes

    @property
    def memory_gib(self) -> float:
        """The sum of the memory lines, in GiB."""
        return sum(line.gib for line in self.memory)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, in the order of the fields: what `--json` prints and templates see."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The plan that `as_dict` gave, also by way of JSON. What it does not know is left out."""
        known = {item.name for item in dataclasses.fields(cls)}
        found = {name: value for name, value in data.items() if name in known}
        found["model"] = ModelSource(**found["model"])
        found["memory"] = tuple(MemoryLine(**line) for line in found["memory"])
        found["gpus"] = tuple(GpuChoice(**choice) for choice in found.get("gpus", ()))
        found["env"] = tuple((str(name), str(value)) for name, value in found["env"])
        for name in ("secrets", "warnings"):
            found[name] = tuple(found.get(name, ()))
        return cls(**found)

    def digest(self) -> str:
        """sha256 of the canonical JSON, as hex."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
