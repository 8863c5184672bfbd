"""What a Docker engine is told, and what is made of its answers; the engine itself is in tests/images."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from docker.types import HostConfig

from akashllm.errors import MarketError, MarketUnavailable
from akashllm.images import DockerEngine
from akashllm.market.container import ContainerMarket
from akashllm.market.container_spec import create_container, ensure_image
from akashllm.market.container_state import GIVE_UP, lines_of, standing_of
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import fill, load, manifest_json
from akashllm.state import Home

LABELS = {"akashllm.home": "/somewhere", "akashllm.dseq": "1", "akashllm.reference": "x"}


class Api:
    """Notes what it is told to create."""

    def __init__(self, *, networks: bool = True, user: str = "10001:10001", cpus: int = 64) -> None:
        self.made: dict[str, Any] = {}
        self._networks, self._user, self._cpus = networks, user, cpus

    def networks(self, names: list[str]) -> list[dict[str, str]]:
        """The bridge, if there is one."""
        return [{"Name": name} for name in names if self._networks]

    def info(self) -> dict[str, int]:
        """Processors."""
        return {"NCPU": self._cpus}

    def inspect_image(self, _name: str) -> dict[str, Any]:
        """Who the image runs as."""
        return {"Config": {"User": self._user}}

    def create_host_config(self, **settings: Any) -> HostConfig:
        """As the SDK writes it."""
        return HostConfig(version="1.41", **settings)

    def create_container(self, image: str, **settings: Any) -> dict[str, str]:
        """Noted."""
        self.made = {"image": image, **settings}
        return {"Id": "c0ffee"}


def engine_of(api: Api) -> DockerEngine:
    """An engine with that client."""
    return cast("DockerEngine", SimpleNamespace(api=api, info=api.info, has=lambda _image: False))


def service_of(**request: Any) -> dict[str, Any]:
    """The service of a model's manifest."""
    plan = make_plan(DeployRequest(**{"model": "llama3", "engine": "vllm", "name": "x", **request}))
    filled = fill(render_sdl(plan), dict.fromkeys(plan.secrets, "s" * 20))
    service: dict[str, Any] = json.loads(manifest_json(load(filled)))[0]["services"][0]
    return service


def test_a_container_gets_what_the_manifest_says_and_no_more() -> None:
    """Ports on loopback only, memory, CPU, GPUs, shared memory and volumes; no root, no capability."""
    api = Api()
    service = service_of(gpu=("h100",), gpu_count=2)

    assert create_container(engine_of(api), service, port=4711, labels=LABELS) == "c0ffee"

    host = api.made["host_config"]
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4711"}]}
    assert host["NetworkMode"] == "default"
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["NanoCpus"] == int(service["resources"]["cpu"]["units"]["val"]) * 1_000_000
    assert host["ShmSize"] > 0
    assert host["Memory"] == int(service["resources"]["memory"]["size"]["val"]) + host["ShmSize"]
    assert (host["DeviceRequests"][0]["Count"], host["DeviceRequests"][0]["Driver"]) == (2, "nvidia")
    assert [(one["Target"], one["Source"]) for one in host["Mounts"]] == [("/data", "akashllm-1-data")]
    assert "/dev/shm" not in host["Tmpfs"]
    assert api.made["user"] is None
    assert "AKASHLLM_API_KEY=" + "s" * 20 not in json.dumps({**api.made, "environment": ""}, default=str)


@pytest.mark.parametrize("user", ["", "0", "0:0", "root"])
def test_nothing_runs_as_root(user: str) -> None:
    """An image that would be root is run as the user that our images have."""
    api = Api(user=user)
    create_container(engine_of(api), service_of(), port=1, labels=LABELS)

    assert api.made["user"] == "10001:10001"


def test_an_engine_without_networks_lets_the_service_listen_here() -> None:
    """There the service is told to bind loopback, and its port, itself; CPUs are those that there are."""
    api = Api(networks=False, cpus=1)
    create_container(engine_of(api), service_of(), port=4711, labels=LABELS)

    assert api.made["host_config"]["NetworkMode"] == "host"
    assert api.made["environment"]["AKASHLLM_HOST"] == "127.0.0.1"
    assert api.made["environment"]["AKASHLLM_PORT"] == "4711"
    assert api.made["host_config"]["NanoCpus"] == 1_000_000_000


def test_an_image_of_ours_that_was_never_built_is_taken_from_nobody() -> None:
    """Its name is not looked up at a public registry: the hint says how to build it."""
    with pytest.raises(MarketError, match="has no image") as failure:
        ensure_image(engine_of(Api()), "akashllm/llamacpp:0.1.0-cpu")

    assert "build --engine llamacpp --cpu" in failure.value.hint


@pytest.mark.parametrize(
    ("state", "restarts", "word", "reason"),
    [
        ({"Status": "running"}, 0, "running", ""),
        ({"Status": "restarting", "ExitCode": 1}, 1, "restarting", "status 1"),
        ({"Status": "restarting", "ExitCode": 1}, GIVE_UP, "failed", "status 1"),
        ({"Status": "restarting", "ExitCode": 78}, 1, "failed", "status 78"),
        ({"Status": "restarting", "ExitCode": 137, "OOMKilled": True}, 1, "restarting", "more memory"),
        ({"Status": "created", "Error": "no such device"}, 0, "failed", "no such device"),
        ({"Status": "created"}, 0, "starting", ""),
        ({"Status": "exited", "ExitCode": 0}, 0, "stopped", "status 0"),
        (None, 0, "stopped", "removed"),
    ],
)
def test_an_engine_s_word_is_a_market_s_word(
    state: dict[str, Any] | None, restarts: int, word: str, reason: str
) -> None:
    """What keeps dying, or can never start, has failed; the rest goes on; each says why."""
    found = None if state is None else {"State": state, "RestartCount": restarts}
    standing = standing_of("1", found, "http://127.0.0.1:1", "this-docker")

    assert standing.state == word
    assert reason in standing.reason


def test_a_log_in_pieces_is_lines() -> None:
    """Pieces are joined, the last line needs no end, and no line grows without a bound."""
    assert list(lines_of([b"a", b"b\r\nc", b"\n", "ä\n".encode()[:1], "ä\n".encode()[1:], b"end"])) == [
        "ab",
        "c",
        "ä",
        "end",
    ]
    assert len(list(lines_of([b"x" * 70_000, b"y"]))) == 2


def test_an_engine_that_is_away_hides_nothing(home: Home) -> None:
    """Orders are listed and can be closed before anything ran; with a lease, the silence is an error."""
    market = ContainerMarket(home.containers, environ={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    plan = make_plan(DeployRequest(model="tiny", name="tiny", local=True))
    sdl = fill(render_sdl(plan), {"AKASHLLM_API_KEY": "k" * 20})
    dseq = market.create(sdl, reference="tiny-1").dseq

    assert market.create(sdl, reference="tiny-1").dseq == dseq
    assert [(one.dseq, one.reference, one.state) for one in market.holdings()] == [(dseq, "tiny-1", "open")]
    with pytest.raises(MarketUnavailable, match="no Docker engine answers"):
        market.lease(dseq, market.bids(dseq)[0], manifest_json(load(sdl)).decode())
    market.close(dseq)
    assert (market.holdings(), market.status(dseq).state) == ([], "closed")
