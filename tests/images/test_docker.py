"""The whole way with real parts: built by Docker, pushed to a registry, pulled by digest, run, and judged."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from akashllm.digests import Sha256
from akashllm.errors import ImageFailed, Unreachable
from akashllm.images import Context, DockerEngine, Event, ImageReference, build, look, pinned, push, resolve
from akashllm.models import TINY
from akashllm.server.settings import PREFIX
from akashllm.smoke import run as judge
from akashllm.state import Home
from tests.images.conftest import BASE, CANARY, ROOT, BuiltImage, free_port, run_build

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(2400)]

KEY = "sk-container-0123456789abcdef"
ADMIN = "sk-admin-0123456789abcdef"
UID = 10001
BUDGET = 640 << 20
"""Bytes of the image without a GPU, unpacked. It is 619 MiB now, of which speech to text takes 356."""


@dataclass(frozen=True)
class Container:
    """A running service."""

    engine: DockerEngine
    id: str
    url: str

    def sh(self, script: str, user: str = "") -> tuple[int, str]:
        """Exit code and output of a shell inside."""
        job = self.engine.api.exec_create(self.id, ["/bin/sh", "-c", script], user=user)["Id"]
        output = self.engine.api.exec_start(job).decode()
        return int(self.engine.api.exec_inspect(job)["ExitCode"]), output

    def state(self) -> dict[str, Any]:
        """What the engine says of it."""
        return dict(self.engine.api.inspect_container(self.id)["State"])

    def logs(self) -> str:
        """What it has said."""
        return str(self.engine.api.logs(self.id).decode())


@contextmanager
def running(
    engine: DockerEngine, image: str, *, environ: Mapping[str, str] | None = None, **host: Any
) -> Iterator[Container]:
    """The service as a provider would run it, and stricter: nothing but /tmp and /data can be written."""
    port = free_port()
    environ = {"API_KEY": KEY, "HOST": "127.0.0.1", "PORT": str(port), **(environ or {})}
    config = engine.api.create_host_config(
        network_mode="host", read_only=True, security_opt=["no-new-privileges"], **host
    )
    created = engine.api.create_container(
        image,
        environment={f"{PREFIX}{name}": value for name, value in environ.items()},
        host_config=config,
        volumes=["/data"],
    )["Id"]
    try:
        engine.api.start(created)
        container = Container(engine, created, f"http://127.0.0.1:{port}")
        until = time.monotonic() + 60
        while True:
            try:
                if requests.get(f"{container.url}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                assert container.state()["Running"], container.logs()
            assert time.monotonic() < until, container.logs()
            time.sleep(0.1)
        yield container
    finally:
        engine.api.remove_container(created, force=True, v=True)


@pytest.fixture(scope="module")
def container(docker_engine: DockerEngine, built: BuiltImage) -> Iterator[Container]:
    """The image as its registry has it, pulled by the digest, with its own user and a volume for /data."""
    reference, _, digest = built.pinned.partition("@")
    for tag in {built.document["image"], reference}:
        # What the builder took on the way stays, as its cache.
        docker_engine.api.remove_image(tag, noprune=True)
    docker_engine.api.pull(reference.rpartition(":")[0], tag=digest)
    with running(
        docker_engine, built.pinned, cap_drop=["ALL"], tmpfs={"/tmp": "rw,noexec,nosuid,size=64m"}
    ) as found:
        yield found


def test_the_image_that_was_pushed_is_the_one_that_runs(container: Container, built: BuiltImage) -> None:
    """The digest that the push answered names the image that was built, and it is what the container runs."""
    running_image = container.engine.api.inspect_container(container.id)["Image"]

    assert running_image == built.document["id"]
    assert built.document["platform"] == "linux/amd64"


def test_every_promise_holds_against_the_container(container: Container) -> None:
    """The smoke test passes, non-root, read-only, without any capability, with the bundled model."""
    report = judge(container.url, api_key=KEY, model="tiny")

    broken = [
        (result.dialect, result.name, result.reason) for result in report.results if result.verdict == "broken"
    ]
    assert broken == []
    assert sum(result.verdict == "pass" for result in report.results) > 20


def test_nothing_but_the_volume_and_tmp_can_be_written(container: Container) -> None:
    """The service is not root, owns only /data, and cannot change what it runs."""
    assert container.sh("id -u")[1].strip() == str(UID)
    for path in ("/", "/opt/akashllm", "/opt/akashllm/lib", "/etc", "/usr/bin"):
        assert container.sh(f"touch {path}/x")[0] != 0, path
    for path in ("/data", "/tmp"):
        assert container.sh(f"touch {path}/x && rm {path}/x")[0] == 0, path
    assert container.sh("find /opt/akashllm -not -user root")[1] == ""


def test_the_image_holds_no_tools_and_no_leftovers(container: Container) -> None:
    """No compiler, no pip, no package lists or caches, no build directory, no weights but the bundled model."""
    tools = "gcc cc g++ c++ cmake ninja make ld pip pip3 git"
    assert container.sh(f"command -v {tools}")[1] == ""
    assert container.sh("python3 -m pip --version")[0] != 0
    assert container.sh("ls -A /var/lib/apt/lists /build /root/.cache 2>/dev/null | grep -v :")[1].strip() == ""
    weights = container.sh("find / -xdev \\( -name '*.gguf' -o -name '*.safetensors' \\) 2>/dev/null")[
        1
    ].split()
    assert [Path(path).name for path in weights] == ["tiny-q8_0.gguf"]


def test_the_image_says_what_is_in_it(container: Container) -> None:
    """Its bill of materials names every locked package in the locked version, and Debian's packages."""
    parts = json.loads(container.sh("cat /usr/share/akashllm.spdx.json")[1])["packages"]
    purls = [part["externalRefs"][0]["referenceLocator"] for part in parts]
    installed = dict(purl[len("pkg:pypi/") :].split("@") for purl in purls if purl.startswith("pkg:pypi/"))
    locked: dict[str, set[str]] = {}
    for lock in (ROOT / "images/llamacpp-cpu").glob("*.lock"):
        if lock.name != "build.lock":
            for name, version in re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock.read_text()):
                locked.setdefault(name, set()).add(version)

    assert "akashllm" in installed
    assert {name for name, version in installed.items() if version in locked.get(name, {version})} == set(
        installed
    )
    assert {"llama-cpp-python", "fastapi", "prometheus-client"} <= set(installed)
    assert any(purl.startswith("pkg:deb/debian/python3@3.11") for purl in purls)
    assert any(purl.startswith("pkg:deb/debian/tini@") for purl in purls)


def test_its_own_health_check_passes(container: Container) -> None:
    """The command in HEALTHCHECK succeeds inside a running container."""
    image = container.engine.api.inspect_container(container.id)["Image"]
    check = container.engine.api.inspect_image(image)["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"

    job = container.engine.api.exec_create(container.id, check[1:])["Id"]
    container.engine.api.exec_start(job)

    assert container.engine.api.exec_inspect(job)["ExitCode"] == 0


def test_the_first_process_reaps_and_passes_signals_on(container: Container) -> None:
    """Tini is process 1 and the service its child."""
    assert container.sh("tr '\\0' ' ' < /proc/1/cmdline")[1].startswith("/usr/bin/tini --")
    assert container.sh("cat /proc/1/status | grep ^NoNewPrivs")[1].split() == ["NoNewPrivs:", "1"]


def test_no_secret_of_the_build_is_in_the_image(docker_engine: DockerEngine, built: BuiltImage) -> None:
    """Keys in the environment of `akashllm build` are neither in the image's history nor in its settings."""
    image = built.document["id"]
    text = json.dumps(
        [docker_engine.api.history(image), docker_engine.api.inspect_image(image), built.document]
    )

    assert CANARY not in text
    for path in built.home.rglob("*"):
        assert not path.is_file() or CANARY not in path.read_text()


def test_the_image_keeps_to_its_budget(docker_engine: DockerEngine, built: BuiltImage) -> None:
    """It is small enough to be pulled long before a provider gives up, and its layers add up to its size."""
    image = docker_engine.image(built.document["id"])

    assert image.size <= BUDGET
    assert abs(sum(layer.size for layer in image.layers) - image.size) < 1 << 20


def test_the_registry_tells_the_same_digest(built: BuiltImage) -> None:
    """The tag resolves to the digest of the push; what has to be downloaded is less than what is unpacked."""
    reference, _, digest = built.pinned.partition("@")

    assert resolve(reference) == Sha256.parse(digest)
    remote = look(built.pinned)
    assert str(remote.digest) == digest
    assert 0 < remote.size < built.document["size"]


def test_a_plan_s_image_is_pinned_by_the_push(built: BuiltImage) -> None:
    """The name a plan uses becomes the pushed reference with its digest, and the record is private."""
    assert pinned(built.document["image"], Home(built.home)) == built.pinned
    assert pinned("somebody/else:1", Home(built.home)) == "somebody/else:1"
    assert (built.home / "images.json").stat().st_mode & 0o777 == 0o600


def test_a_stop_is_clean(docker_engine: DockerEngine, container: Container) -> None:
    """SIGTERM ends the service at once, with exit code 0 and no traceback."""
    image = docker_engine.api.inspect_container(container.id)["Image"]
    with running(docker_engine, image, tmpfs={"/tmp": ""}, cap_drop=["ALL"]) as other:
        docker_engine.api.stop(other.id, timeout=30)

        assert other.state()["ExitCode"] == 0
        assert "Traceback" not in other.logs()


@pytest.fixture(scope="module")
def owning(docker_address: str, docker_engine: DockerEngine, built: BuiltImage, registry: str) -> str:
    """The same image, built and pushed with `--own-volume`: by digest, at its registry."""
    environ = os.environ | {"DOCKER_HOST": docker_address, "AKASHLLM_HOME": str(built.home)}
    document = run_build(
        [*built.command, "--own-volume", "--tag", "root", "--push", "--repository", f"{registry}/me/akashllm"],
        environ,
    )
    assert document["cached_steps"] > document["steps"] // 2
    return str(document["pushed"]["pinned"])


def test_a_registry_tells_which_image_owns_its_volume(built: BuiltImage, owning: str) -> None:
    """The usual image starts as nobody special, the one for a provider's volume as root."""
    assert (look(built.pinned).user, look(built.pinned).as_root) == (f"{UID}:{UID}", False)
    assert (look(owning).user, look(owning).as_root) == ("0:0", True)


def test_on_a_volume_that_is_not_its_own_it_says_so_and_serves(
    docker_engine: DockerEngine, built: BuiltImage, tmp_path: Path
) -> None:
    """What needs no volume works without one; models cannot be kept there, and the answer says why."""
    tmp_path.chmod(0o755)
    managed = {"ADMIN_KEY": ADMIN}
    with running(
        docker_engine, built.pinned, environ=managed, binds=[f"{tmp_path}:/data"], tmpfs={"/tmp": ""}
    ) as other:
        assert judge(other.url, api_key=KEY, model="tiny", only=("chat",)).ok
        refused = upload(other.url)
        said = other.logs()

    assert (refused.status_code, "the model store does not let user 10001" in refused.text) == (500, True)
    assert "`akashllm build --own-volume`" in said
    assert list(tmp_path.iterdir()) == []


def test_who_manages_models_keeps_them_on_the_volume(container: Container, docker_engine: DockerEngine) -> None:
    """With an admin key the image has a store on its volume, empty at first: a model is made and used."""
    image = container.engine.api.inspect_container(container.id)["Image"]
    with running(docker_engine, image, environ={"ADMIN_KEY": ADMIN}, tmpfs={"/tmp": ""}) as other:
        sent = upload(other.url)
        made = requests.post(
            f"{other.url}/api/create",
            headers={"Authorization": f"Bearer {ADMIN}"},
            json={"model": "mine", "files": {"m.gguf": str(Sha256.of(TINY.read_bytes()))}, "stream": False},
            timeout=60,
        )

        assert (sent.status_code, made.status_code) == (201, 200)
        assert judge(other.url, api_key=KEY, model="mine", only=("chat",)).ok
        assert other.sh("ls /data/models")[1].split() == ["blobs", "manifests"]
    assert upload(container.url, KEY).status_code == 403


def upload(url: str, key: str = ADMIN) -> requests.Response:
    """Send the bundled model to a service's store."""
    weights = TINY.read_bytes()
    return requests.post(
        f"{url}/api/blobs/{Sha256.of(weights)}",
        headers={"Authorization": f"Bearer {key}"},
        data=weights,
        timeout=60,
    )


def test_the_variant_for_a_provider_s_volume_drops_root_before_it_listens(
    docker_engine: DockerEngine, owning: str, tmp_path: Path
) -> None:
    """Started as root on a volume that is root's, it owns the volume, and serves as nobody special."""
    tmp_path.chmod(0o755)
    assert tmp_path.stat().st_uid == 0
    with running(docker_engine, owning, binds=[f"{tmp_path}:/data"], tmpfs={"/tmp": ""}) as other:
        assert other.sh("touch /data/kept", user=str(UID))[0] == 0
        status = other.sh(
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline) in"
            " /opt/akashllm/bin/python*akashllm.server*) cat $p/status;; esac; done; stat -c %u /data"
        )[1]

        assert re.search(rf"(?m)^Uid:\s+{UID}\s+{UID}\s+{UID}\s+{UID}$", status)
        assert re.search(r"(?m)^CapEff:\s+0+$", status)
        assert re.search(r"(?m)^CapBnd:\s+0+$", status)
        assert status.rstrip().endswith(str(UID))
    assert (tmp_path / "kept").stat().st_uid == UID


def test_a_volume_that_cannot_be_taken_over_stops_nothing(
    docker_engine: DockerEngine, owning: str, tmp_path: Path
) -> None:
    """Where even root may not change the owner, it says so and serves what needs no volume."""
    with running(docker_engine, owning, binds=[f"{tmp_path}:/data:ro"], tmpfs={"/tmp": ""}) as other:
        assert judge(other.url, api_key=KEY, model="tiny", only=("chat",)).ok
        assert "/data cannot be taken over" in other.logs()


def test_the_same_context_is_not_built_twice(docker_engine: DockerEngine) -> None:
    """A second build of the same content takes every step from the cache and is the same image."""
    dockerfile = f"FROM {BASE}\nCOPY ours/ ours/\nRUN cat ours/a\n".encode()
    contexts = [Context({"Dockerfile": dockerfile, "ours/a": b"the same"}) for _ in range(2)]

    first, second = (build(docker_engine, each, ImageReference("akashllm/twice", "1")) for each in contexts)

    assert second.image.id == first.image.id
    assert (second.steps, second.cached) == (3, 2)


def test_a_step_that_fails_is_named_with_its_last_words(docker_engine: DockerEngine) -> None:
    """The error says which step of the Dockerfile failed and what it printed; nothing is left running."""
    heard: list[Event] = []
    context = Context({"Dockerfile": f"FROM {BASE}\nRUN echo no room for elephants && exit 3\n".encode()})

    with pytest.raises(ImageFailed, match=r"step 2 of 2 \(RUN echo no room") as failure:
        build(docker_engine, context, ImageReference("akashllm/broken", "1"), on_event=heard.append)

    assert "\n  no room for elephants" in failure.value.message
    assert [event.number for event in heard if event.kind == "step"] == [1, 2]


def test_a_base_that_is_not_there_is_said(docker_engine: DockerEngine, registry: str) -> None:
    """A base image that its registry does not have ends in one sentence with a way out."""
    context = Context({"Dockerfile": f"FROM {registry}/no/such:1\n".encode()})

    with pytest.raises(ImageFailed) as failure:
        build(docker_engine, context, ImageReference("akashllm/broken", "2"))

    assert "step 1 of 1" in failure.value.message
    assert "--build-arg" in failure.value.hint


def test_a_push_to_nowhere_says_who_does_not_answer(docker_engine: DockerEngine, built: BuiltImage) -> None:
    """A registry that is not there is named, and nothing is remembered of the push."""
    target = ImageReference(f"127.0.0.1:{free_port()}/me/akashllm", "1")

    with pytest.raises(Unreachable, match=re.escape(target.registry)):
        push(docker_engine, built.document["id"], target)

    docker_engine.api.remove_image(str(target))
