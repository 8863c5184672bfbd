"""SDL and Compose files from plans: always valid, exact in every value, the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from ruamel.yaml import YAML

from akashllm import sdl
from akashllm.errors import UsageError
from akashllm.plan import GpuChoice, ModelSource, Plan
from akashllm.render import SERVICE, WORKER, render_compose, render_image, render_sdl
from tests.render.plans import TEXT, plan, plans
from tests.sdl.conftest import Judge

ALLOWED = {"image-digest", "signed-by-none", "env-dollar", "env-secret", "shm"}
"""Warnings that a request can ask for: no digest, unaudited providers, odd values, no shared memory."""


def yaml(text: str) -> Any:
    """The file as another parser sees it."""
    return YAML(typ="safe", pure=True).load(text)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request=plans())
def test_both_validators_accept_whatever_is_rendered(request: Plan, official: Judge) -> None:
    """Any plan gives an SDL that we and the official validator accept, and one manifest hash."""
    # Go escapes the two line separators in JSON and the official tool does not: they alone are left out.
    assume(not any(separator in value for _, value in request.env for separator in "\u2028\u2029"))
    text = render_sdl(request)
    assert {finding.rule for finding in sdl.validate(text)} <= ALLOWED, sdl.validate(text)
    answer = official(text)
    assert answer["ok"], answer
    assert sdl.manifest_json(sdl.load(text)).decode() == answer["manifest"]
    assert sdl.manifest_hash(sdl.load(text)) == answer["hash"]


@settings(deadline=None)
@given(plans())
def test_every_value_survives(request: Plan) -> None:
    """Each variable reads back exactly, from the SDL and from the Compose file, in any parser."""
    text = render_sdl(request)
    assert sdl.environment(sdl.load(text), SERVICE) == {
        **dict(request.env),
        **{name: f"${{{name}}}" for name in request.secrets},
    }
    assert yaml(text)["profiles"]["placement"]["akash"].get("attributes", {}).get("location-region", "") == (
        request.region or ""
    )
    alone = dataclasses.replace(request, nodes=1)
    variables = yaml(render_compose(alone))["services"][SERVICE].get("environment", {})
    assert {
        name: value.replace("$$", "$") for name, value in variables.items() if name not in request.secrets
    } == dict(request.env)


@settings(deadline=None)
@given(TEXT)
def test_a_model_name_cannot_leave_its_comment(alias: str) -> None:
    """Names in comments change nothing but comments."""
    normal = yaml(render_sdl(plan()))
    assert yaml(render_sdl(plan(name=alias, model=ModelSource(alias=alias, kind="hf")))) == normal
    assert yaml(render_compose(plan(name=alias))) == yaml(render_compose(plan()))


def test_what_serving_needs_is_there() -> None:
    """One global port as 80 with the limits that serving needs, uact, a quoted version, audited providers."""
    data = yaml(render_sdl(plan()))
    expose = data["services"][SERVICE]["expose"]
    assert data["version"] == "2.0"
    assert expose == [
        {
            "port": 8000,
            "as": 80,
            "proto": "TCP",
            "to": [{"global": True}],
            "http_options": {
                "max_body_size": 104857600,
                "read_timeout": 60000,
                "send_timeout": 60000,
                "next_cases": ["off"],
            },
        }
    ]
    placement = data["profiles"]["placement"]["akash"]
    assert placement["pricing"][SERVICE]["denom"] == "uact"
    assert placement["signedBy"]["anyOf"]
    assert "attributes" not in placement
    assert "gpu" not in data["profiles"]["compute"][SERVICE]["resources"]


def test_volumes() -> None:
    """Weights on a persistent volume, shared memory in RAM, smallest first; without them only the root."""
    request = plan(volume_gib=50, volume_class="beta3", shm_gib=10, disk_gib=20)
    data = yaml(render_sdl(request))
    assert data["profiles"]["compute"][SERVICE]["resources"]["storage"] == [
        {"name": "shm", "size": "10Gi", "attributes": {"class": "ram", "persistent": False}},
        {"size": "20Gi"},
        {"name": "data", "size": "50Gi", "attributes": {"class": "beta3", "persistent": True}},
    ]
    mounts = data["services"][SERVICE]["params"]["storage"]
    assert {name: mount["mount"] for name, mount in mounts.items()} == {"data": "/data", "shm": "/dev/shm"}
    bare = yaml(render_sdl(plan()))
    assert bare["profiles"]["compute"][SERVICE]["resources"]["storage"] == [{"size": "2Gi"}]
    assert "params" not in bare["services"][SERVICE]


def test_gpu_alternatives_are_what_providers_can_read() -> None:
    """One entry a model: two interfaces become any, a second memory size and another count are left out."""
    gpus = (
        GpuChoice(model="h100", ram_gib=80, count=2, interface="sxm"),
        GpuChoice(model="h100", ram_gib=80, count=2, interface="pcie"),
        GpuChoice(model="a100", ram_gib=80, count=2, interface="sxm"),
        GpuChoice(model="a100", ram_gib=40, count=2),
        GpuChoice(model="l40s", ram_gib=48, count=4),
    )
    gpu = yaml(render_sdl(plan(gpus=gpus)))["profiles"]["compute"][SERVICE]["resources"]["gpu"]
    assert gpu["units"] == 2
    assert gpu["attributes"]["vendor"]["nvidia"] == [
        {"model": "a100", "ram": "80Gi", "interface": "sxm"},
        {"model": "h100", "ram": "80Gi"},
    ]


def test_the_same_plan_gives_the_same_bytes_in_another_process() -> None:
    """Hash seed, locale and time zone do not show."""
    code = (
        "from tests.render.plans import plan\nfrom akashllm.render import render_compose, render_sdl\n"
        "import sys\nsys.stdout.write(render_sdl(plan()) + render_compose(plan()))"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "7",
        "LC_ALL": "C",
        "TZ": "Asia/Kathmandu",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == render_sdl(plan()) + render_compose(plan())


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "a b"},
        {"image": "akashllm/vllm"},
        {"image": "akashllm/vllm:latest"},
        {"image": "akashllm/vllm:1\nRUN x"},
        {"env": (("A B", "x"),)},
        {"env": (("A=B", "x"),)},
        {"env": (("A", "x\x00"),)},
        {"env": (("A", "x\ud800"),)},
        {"env": (("A", "${B}"),)},
        {"env": (("AKASHLLM_API_KEY", "hunter2"),)},
        {"secrets": ("lower\n",)},
        {"gpus": (GpuChoice(model="x\ud800", ram_gib=1, count=1),)},
    ],
    ids=str,
)
def test_what_no_file_can_hold_is_refused(changes: dict[str, object]) -> None:
    """Bad images and variables are one-line errors that do not repeat the value."""
    with pytest.raises(UsageError) as caught:
        render_sdl(plan(**changes))
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_compose_reserves_gpus_and_asks_for_secrets() -> None:
    """Docker only: GPUs, shared memory, a read-only root without rights, secrets from the shell."""
    request = plan(gpus=(GpuChoice(model="h100", ram_gib=80, count=2),), shm_gib=10)
    service = yaml(render_compose(request))["services"][SERVICE]
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    ]
    assert service["shm_size"] == "10gb"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert service["ports"] == ["127.0.0.1:11434:8000"]
    assert (
        service["environment"]["AKASHLLM_API_KEY"] == "${AKASHLLM_API_KEY:?set AKASHLLM_API_KEY to your secret}"
    )
    assert "deploy" not in yaml(render_compose(plan()))["services"][SERVICE]


def test_nodes_share_one_copy() -> None:
    """A head that the world reaches and workers that only the head does: equal machines, images and secrets."""
    request = plan(engine="vllm", nodes=3, shm_gib=10, volume_gib=20, volume_class="beta3", max_uact_block=7.0)
    document = yaml(render_sdl(request))
    head, worker = (document["services"][name] for name in (SERVICE, WORKER))
    assert head["expose"][1]["to"] == [{"service": WORKER}]
    assert [port["to"] for port in worker["expose"]] == [[{"service": SERVICE}]]
    assert set(worker["env"]) - set(head["env"]) == {f"AKASHLLM_HEAD={SERVICE}:{head['expose'][1]['port']}"}
    assert set(head["env"]) <= set(worker["env"])
    assert (worker["image"], worker["params"]) == (head["image"], head["params"])
    compute = document["profiles"]["compute"]
    assert compute[SERVICE] == compute[WORKER]
    counts = {name: entry["akash"]["count"] for name, entry in document["deployment"].items()}
    assert counts == {SERVICE: 1, WORKER: 2}
    prices = document["profiles"]["placement"]["akash"]["pricing"]
    assert {name: entry["amount"] for name, entry in prices.items()} == {SERVICE: "7", WORKER: "7"}


def test_compose_asks_the_service_whether_it_lives() -> None:
    """The check is the image's own, spelled out for whoever reads the file alone."""
    health = yaml(render_compose(plan()))["services"][SERVICE]["healthcheck"]
    program = next(
        line for line in render_image("llamacpp")["Dockerfile"].splitlines() if "HEALTHCHECK" in line
    )
    assert health["test"] == ["CMD", *json.loads(program.partition("CMD ")[2])]
    for key, option in (("interval", "interval"), ("timeout", "timeout"), ("start_period", "start-period")):
        assert f"--{option}={health[key]} " in program
    assert f"--retries={health['retries']} " in program


def test_compose_has_one_machine() -> None:
    """Several nodes cannot be composed: said, with what to do."""
    with pytest.raises(UsageError, match="one machine"):
        render_compose(plan(nodes=2))
