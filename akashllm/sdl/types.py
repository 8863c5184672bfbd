"""A valid SDL as types: what `load` returns and the manifest is made of. Sizes in bytes, CPU in thousandths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from akashllm.sdl.document import Document

INGRESS_PORT = 80
"""The one external port that gets a host name and TLS; any other is a random port of the provider."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - inside a container
"""Where a volume of class `ram` becomes what processes share; without one a container has 64 MiB of it."""

DEFAULT_BODY = 1_048_576
DEFAULT_TIMEOUT = 60_000
DEFAULT_TRIES = 3
DEFAULT_CASES = ("error", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How the ingress treats HTTP. Sizes in bytes, times in milliseconds; the defaults are the chain's."""

    max_body_size: int = DEFAULT_BODY
    read_timeout: int = DEFAULT_TIMEOUT
    send_timeout: int = DEFAULT_TIMEOUT
    next_tries: int = DEFAULT_TRIES
    next_timeout: int = 0
    next_cases: tuple[str, ...] = DEFAULT_CASES
    proxy_buffer_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who may reach a port: the world, a service of the same placement, or the world by a leased IP."""

    is_global: bool = False
    service: str = ""
    ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose:
    """One port of a service. `external` is 0 where the SDL has no `as`."""

    port: int
    external: int = 0
    proto: str = "TCP"
    to: tuple[Target, ...] = ()
    accept: tuple[str, ...] = ()
    http: HttpOptions = HttpOptions()

    @property
    def ingress(self) -> bool:
        """Whether a host name and TLS come with this port when it is global."""
        return self.proto == "TCP" and (self.external or self.port) == INGRESS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A login to a private image registry."""

    host: str
    username: str
    password: str
    email: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Where a volume of the compute profile appears in the container."""

    volume: str
    path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One container. `command`, `args` and `env` are None where the SDL has none."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    expose: tuple[Expose, ...] = ()
    mounts: tuple[Mount, ...] = ()
    has_params: bool = False
    permissions: tuple[str, ...] | None = None
    tee: str = ""
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume of a compute profile. `persistent` is None where the SDL gives no attributes."""

    name: str
    size: int
    storage_class: str = ""
    persistent: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of NVIDIA GPU that will do; an empty model is any. `ram` is in bytes, 0 for any."""

    model: str
    ram: int = 0
    interface: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What one replica needs. `gpus` is None where no GPU is asked for."""

    cpu: int
    memory: int
    storage: tuple[Volume, ...]
    arch: str = ""
    gpu_units: int = 0
    gpus: tuple[Gpu, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The most that one replica may cost, a block (about 6 s). `amount` is as the file spells it."""

    denom: str
    amount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where replicas may run and what they may cost, by compute profile."""

    attributes: tuple[tuple[str, str], ...]
    any_of: tuple[str, ...]
    all_of: tuple[str, ...]
    pricing: Mapping[str, Price]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """`count` replicas of a service, sized by `profile`."""

    profile: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdl:
    """One SDL that broke no rule.

    deployment   service -> placement -> Deployment
    """

    version: str
    services: Mapping[str, Service]
    compute: Mapping[str, Compute]
    placement: Mapping[str, Placement]
    deployment: Mapping[str, Mapping[str, Deployment]]
    endpoints: tuple[str, ...]
    document: Document

    @property
    def text(self) -> str:
        """The file as it was read."""
        return self.document.text
