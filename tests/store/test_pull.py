"""Pulling from registries that are honest, slow, broken, and worse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from akashllm.digests import Sha256
from akashllm.errors import BadRequest, DownloadFailed, ModelNotFound, RegistryFailed, ServiceError, StoreFailed
from akashllm.names import ModelName, admit
from akashllm.server.models import registry as registry_module
from akashllm.server.models.manifest import MAX_MANIFEST
from akashllm.server.models.pull import pull
from akashllm.server.models.registry import Registries, Registry, require_public
from akashllm.server.models.steps import Step
from akashllm.server.models.store import ModelStore
from akashllm.testing.files import Asked, Fault, FileServer, running_files
from tests.store.build import files
from tests.store.conftest import Shelf, content

MIB = 1 << 20
M = ModelName("m")


async def pulled(store: ModelStore, registries: Registries, name: ModelName = M) -> list[Step]:
    """All steps of a pull."""
    return [step async for step in pull(store, registries, name)]


def statuses(steps: list[Step]) -> list[str]:
    """What they say, each once in a row."""
    return [
        step.status for index, step in enumerate(steps) if not index or steps[index - 1].status != step.status
    ]


def named(store: ModelStore) -> set[str]:
    """The files that have a final name."""
    return {path for path in files(store.layout.root) if not path.rpartition("/")[2].startswith(".")}


async def test_a_pull_brings_the_model_as_it_is(shelf: Shelf, store: ModelStore) -> None:
    """Every layer and the manifest's own bytes are there, and the lines are Ollama's."""
    weights, template = content(3 * MIB), b"{{ .Prompt }}"
    manifest = shelf.offer(model=weights, template=template)

    steps = await pulled(store, shelf.registries())

    found = store.get(M)
    assert found.weights.read_bytes() == weights
    assert found.template == "{{ .Prompt }}"
    assert found.digest == Sha256.of(manifest.encode()).hex
    short = [layer.digest[7:19] for layer in manifest.files]
    assert statuses(steps) == [
        "pulling manifest",
        *(f"pulling {each}" for each in short),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    of_weights = [step for step in steps if step.digest == manifest.layers[0].digest]
    assert [step.completed for step in of_weights] == sorted(step.completed for step in of_weights)
    assert (of_weights[0].completed, of_weights[-1].completed) == (0, 3 * MIB)
    assert {step.total for step in of_weights} == {3 * MIB}
    assert found.weights.stat().st_mode & 0o777 == 0o644


async def test_what_is_there_is_not_fetched_again(shelf: Shelf, store: ModelStore) -> None:
    """A second model with the same weights, and a second pull of the first, fetch only what is new."""
    shelf.offer(model=content(2 * MIB))
    await pulled(store, shelf.registries())
    other = shelf.offer("me/other", model=content(2 * MIB), system=b"Be brief.")
    shelf.server.seen.clear()

    steps = await pulled(store, shelf.registries(), ModelName("other", namespace="me"))
    again = await pulled(store, shelf.registries())

    assert set(shelf.blobs()) == {other.layers[1].digest}
    cached = [step for step in (*steps, *again) if step.digest == other.layers[0].digest]
    assert [(step.completed, step.total) for step in cached] == [(2 * MIB, 2 * MIB)] * 2


async def test_a_newer_version_takes_the_place_of_the_older(shelf: Shelf, store: ModelStore) -> None:
    """The old weights go once the new manifest is written, and a line says so."""
    old = shelf.offer(model=b"old")
    await pulled(store, shelf.registries())
    shelf.offer(model=b"new")

    steps = await pulled(store, shelf.registries())

    assert statuses(steps)[-3:] == ["writing manifest", "removing unused layers", "success"]
    assert store.get(M).weights.read_bytes() == b"new"
    assert store.blob(old.layers[0].sha256) is None


async def test_a_pull_amid_a_deletion(shelf: Shelf, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a deletion is about to remove is fetched again, instead of being missing at the end."""
    shelf.offer(model=content(MIB))
    await pulled(store, shelf.registries())
    shelf.offer("me/other", model=content(MIB))
    looked, go = threading.Event(), threading.Event()
    used, blob, locked = store._used, store.blob, store.volume.locked

    def slowly() -> set[str]:
        found = used()
        looked.set()
        assert go.wait(30)
        return found

    def seen(digest: Sha256, size: int | None = None) -> Path | None:
        try:
            return blob(digest, size)
        finally:
            go.set()

    def waiting(patience: float = 30) -> contextlib.AbstractContextManager[None]:
        if looked.is_set():
            go.set()
        return locked(patience)

    monkeypatch.setattr(store, "_used", slowly)
    monkeypatch.setattr(store, "blob", seen)
    monkeypatch.setattr(store.volume, "locked", waiting)
    deletion = asyncio.create_task(asyncio.to_thread(store.delete, M))
    await asyncio.to_thread(looked.wait, 30)
    other = ModelName("other", namespace="me")
    steps = await pulled(store, shelf.registries(), other)
    await deletion

    assert steps[-1].status == "success"
    assert store.get(other).weights.read_bytes() == content(MIB)


async def test_two_pulls_share_one_download(shelf: Shelf, store: ModelStore) -> None:
    """Two pulls of one model at once bring it twice to its name and once over the network."""
    weights = content(4 * MIB)
    shelf.offer(model=weights)
    registries = shelf.registries()

    both = await asyncio.gather(pulled(store, registries), pulled(store, registries))

    assert [steps[-1].status for steps in both] == ["success", "success"]
    blob = f"/v2/library/m/blobs/{Sha256.of(weights)}"
    spans = [asked.span for asked in shelf.server.seen if asked.path == blob and asked.span is not None]
    assert sum(end - start for start, end in spans) == 4 * MIB


async def test_whoever_came_first_may_leave_first(shelf: Shelf, store: ModelStore) -> None:
    """A pull that joined another's download goes on when the other is cancelled, and fetches nothing twice."""
    weights = content(4 * MIB)
    shelf.offer(model=weights)
    registries = shelf.registries()
    shelf.server.judge = stalling(after=MIB)

    first = asyncio.create_task(pulled(store, registries))
    await asyncio.to_thread(shelf.server.stalled.wait, 30)
    second = asyncio.create_task(pulled(store, registries))
    await until(lambda: registries._shared[Sha256.of(weights)].users == 2)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    shelf.server.judge = None
    shelf.server.released.set()

    assert (await second)[-1].status == "success"
    assert store.get(M).weights.read_bytes() == weights
    assert registries._shared == {}


async def test_a_pull_cancelled_at_90_percent_is_resumed(shelf: Shelf, store: ModelStore) -> None:
    """What had come is not fetched again, nothing has a final name meanwhile, and the end is whole."""
    weights = content(10 * MIB)
    shelf.offer(model=weights)
    registries = shelf.registries()
    shelf.server.judge = stalling(after=8 * MIB + MIB // 2)
    steps = pull(store, registries, M)
    async for step in steps:
        if step.completed >= 9 * MIB:
            break
    await steps.aclose()
    shelf.server.judge = None
    shelf.server.released.set()
    assert named(store) == set()
    with pytest.raises(ModelNotFound):
        store.get(M)
    store.prune()
    shelf.server.seen.clear()

    resumed = [step async for step in pull(store, registries, M)]

    assert resumed[-1].status == "success"
    assert store.get(M).weights.read_bytes() == weights
    blob = f"/v2/library/m/blobs/{Sha256.of(weights)}"
    spans = [asked.span for asked in shelf.server.seen if asked.path == blob and asked.span is not None]
    assert min(start for start, _ in spans) >= 9 * MIB
    assert named(store) == {path for path in files(store.layout.root) if "partial" not in path}


def stalling(after: int) -> Callable[[Asked], Fault | None]:
    """Of the second request for a large file, only so many bytes come."""

    def judge(asked: Asked) -> Fault | None:
        large = "/blobs/" in asked.path and asked.span is not None and asked.span[0] > 0
        return Fault(stall=after) if large else None

    return judge


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that other tasks bring about."""
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


LIES: dict[str, Fault] = {
    "a flipped bit": Fault(flip=MIB + 5),
    "too short": Fault(missing=1000, ignore=True),
    "too long": Fault(extra=1000, ignore=True),
    "a web page": Fault(page=True),
    "cut": Fault(cut=1000),
    "an error": Fault(status=500),
    "gone": Fault(status=404),
    "locked": Fault(status=403),
    "to the cloud's secrets": Fault(
        status=307, headers={"Location": "http://169.254.169.254/latest/meta-data"}
    ),
    "to a private address": Fault(status=307, headers={"Location": "https://10.0.0.1/x"}),
    "to this machine": Fault(status=307, headers={"Location": "https://127.0.0.1:1/x"}),
    "to a mapped address": Fault(status=307, headers={"Location": "https://[::ffff:169.254.169.254]/x"}),
    "to a file": Fault(status=307, headers={"Location": "file:///etc/passwd"}),
    "to nowhere": Fault(status=307),
    "to itself": Fault(status=307, headers={"Location": "?again"}),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_file_that_is_not_what_was_promised_has_no_name(
    lie: str, shelf: Shelf, store: ModelStore
) -> None:
    """Whatever a registry does with a layer, the pull fails with a reason and the store has no new file."""
    shelf.offer(model=content(2 * MIB))
    shelf.server.judge = lambda asked: LIES[lie] if "/blobs/" in asked.path else None

    with pytest.raises(ServiceError) as caught:
        await pulled(store, shelf.registries())

    assert isinstance(caught.value, RegistryFailed | DownloadFailed)
    assert "/" not in caught.value.message.replace("https", "")
    assert named(store) == set()
    shelf.server.judge = None
    assert (await pulled(store, shelf.registries()))[-1].status == "success"


@pytest.mark.parametrize(
    "lie", [lie for lie in LIES if lie not in {"a flipped bit", "too short", "too long", "a web page", "cut"}]
)
async def test_a_manifest_that_cannot_be_had(lie: str, shelf: Shelf, store: ModelStore) -> None:
    """The same for the manifest: a reason, no file asked for, nothing written."""
    shelf.offer(model=b"weights")
    shelf.server.judge = lambda _: LIES[lie]

    with pytest.raises(RegistryFailed):
        await pulled(store, shelf.registries())

    assert shelf.blobs() == []
    assert files(store.layout.root) == set()


async def test_a_model_that_is_not_there(shelf: Shelf, store: ModelStore) -> None:
    """The words are Ollama's, which clients know."""
    with pytest.raises(RegistryFailed, match=r"^pull model manifest: file does not exist$"):
        await pulled(store, shelf.registries())


HOSTILE_MANIFESTS = {
    "not JSON": b"<html>",
    "with a path for a digest": (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../../etc/cron.d/x","size":1},"layers":[]}'
    ),
    "with a shout for a digest": (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:'
        + b"A" * 64
        + b'","size":1},"layers":[]}'
    ),
    "with a size below nothing": (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:'
        + b"0" * 64
        + b'","size":-1},"layers":[]}'
    ),
    "with a template of 1 TB": (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:'
        + b"0" * 64
        + b'","size":1},"layers":[{"mediaType":"application/vnd.ollama.image.template","digest":"sha256:'
        + b"1" * 64
        + b'","size":1000000000000}]}'
    ),
    "a list of other manifests": b'{"schemaVersion":2,"manifests":[]}',
    "nested": b"[" * 50_000,
}


@pytest.mark.parametrize("kind", HOSTILE_MANIFESTS)
async def test_a_hostile_manifest(kind: str, shelf: Shelf, store: ModelStore) -> None:
    """It is refused before anything it names is asked for."""
    shelf.server.put("/v2/library/m/manifests/latest", HOSTILE_MANIFESTS[kind])

    with pytest.raises(RegistryFailed, match=r"^pull model manifest: "):
        await pulled(store, shelf.registries())

    assert shelf.blobs() == []
    assert files(store.layout.root) == set()


async def test_a_manifest_without_end(shelf: Shelf, store: ModelStore) -> None:
    """One that goes on and on is read no further than a manifest can be long."""
    shelf.server.put("/v2/library/m/manifests/latest", b" " * (MAX_MANIFEST + 64 * MIB))

    with pytest.raises(RegistryFailed, match="sends a manifest of more than 4194304 bytes"):
        await pulled(store, shelf.registries())

    assert shelf.server.sent < MAX_MANIFEST + 32 * MIB


async def test_a_manifest_other_than_the_registry_says(shelf: Shelf, store: ModelStore) -> None:
    """Where a registry names the digest of its manifest, the manifest must have it."""
    shelf.offer(model=b"weights")
    shelf.server.judge = lambda _: Fault(headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"})

    with pytest.raises(RegistryFailed, match="sends another one than it says"):
        await pulled(store, shelf.registries())


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1:1", "169.254.169.254", "registry.ollama.ai.evil.example"]
)
def test_no_name_leads_to_a_host_that_is_not_on_the_list(host: str) -> None:
    """Only the operator's list says who is contacted; `insecure` changes nothing for the public registries."""
    registries = Registries(["registry.example.org", "localhost:5000"])

    with pytest.raises(BadRequest, match="AKASHLLM_REGISTRIES"):
        registries.address(host, insecure=True)

    assert registries.address("HF.co", insecure=True) == "https://hf.co"
    assert registries.address("localhost:5000", insecure=True) == "http://localhost:5000"
    assert registries.address("localhost:5000") == "https://localhost:5000"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://192.168.1.1/",
        "https://localhost/",
        "https://224.0.0.1/",
        "ftp://example.org/",
    ],
)
async def test_redirects_to_what_is_not_public_are_refused(url: str) -> None:
    """However an address of this machine or its network is written, no redirect leads to it."""
    with pytest.raises(RegistryFailed, match="which is refused"):
        await require_public(httpx.URL(url))


def locked(server: FileServer, *, realm: str, token: Callable[[], str]) -> Callable[[Asked], Fault | None]:
    """A registry that lets only the bearers of its present token in."""

    def judge(asked: Asked) -> Fault | None:
        if asked.path.startswith("/token") or asked.headers.get("authorization") == f"Bearer {token()}":
            return None
        challenge = f'Bearer realm="{realm}",service="here",scope="repository:library/m:pull"'
        return Fault(status=401, headers={"WWW-Authenticate": challenge})

    return judge


async def test_a_token_is_fetched_where_one_is_wanted(shelf: Shelf, store: ModelStore) -> None:
    """The registry's challenge is answered with what it asks for, and the token opens manifest and files."""
    shelf.offer(model=content(2 * MIB))
    shelf.server.put("/token", b'{"token":"t1"}')
    shelf.server.judge = locked(shelf.server, realm=f"{shelf.server.url}/token", token=lambda: "t1")

    await pulled(store, shelf.registries("registry.ollama.ai=me:secret-word"))

    asked = [asked for asked in shelf.server.seen if asked.path.startswith("/token")]
    assert [one.path for one in asked] == ["/token?service=here&scope=repository%3Alibrary%2Fm%3Apull"]
    assert asked[0].headers["authorization"] == "Basic bWU6c2VjcmV0LXdvcmQ="
    assert store.get(M).weights.stat().st_size == 2 * MIB


async def test_a_token_that_runs_out_is_renewed(shelf: Shelf, store: ModelStore) -> None:
    """Where the token stops working between two files, a new one is asked for and the pull goes on."""
    shelf.offer(model=content(2 * MIB), system=b"Be brief.")
    shelf.server.put("/token", b'{"access_token":"t1"}')
    current = "t1"
    inner = locked(shelf.server, realm=f"{shelf.server.url}/token", token=lambda: current)

    def judge(asked: Asked) -> Fault | None:
        nonlocal current
        if "/blobs/" in asked.path and current == "t1":
            current = "t2"
            shelf.server.files["/token"] = b'{"access_token":"t2"}'
        return inner(asked)

    shelf.server.judge = judge

    assert (await pulled(store, shelf.registries()))[-1].status == "success"


async def test_a_token_is_asked_for_at_the_registry_only(shelf: Shelf, store: ModelStore) -> None:
    """A realm on another host is refused, and that host hears nothing (CVE-2025-51471)."""
    shelf.offer(model=b"weights")
    with running_files() as other:
        shelf.server.judge = locked(shelf.server, realm=f"{other.url}/token", token=lambda: "t")

        with pytest.raises(RegistryFailed, match="tokens asked for at another host"):
            await pulled(store, shelf.registries("registry.ollama.ai=me:secret-word"))

        assert other.seen == []


@pytest.mark.parametrize(
    ("host", "realm", "allowed"),
    [
        ("hf.co", "https://huggingface.co/v2/token", True),
        ("registry.ollama.ai", "https://ollama.com/token", True),
        ("hf.co", "http://huggingface.co/v2/token", False),
        ("hf.co", "https://ollama.com/token", False),
        ("hf.co", "https://huggingface.co:8443/token", False),
        ("hf.co", "https://huggingface.co.evil.example/token", False),
        ("hf.co", "https://hf.co@evil.example/token", False),
        ("registry.ollama.ai", "/token", False),
    ],
)
async def test_only_the_owners_other_address_gives_tokens(host: str, realm: str, *, allowed: bool) -> None:
    """The Hub's short and long name are one, Ollama's registry and its site too; nothing else is."""
    asked = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url).partition("?")[0])
        if request.url.path.endswith("token"):
            return httpx.Response(200, json={"token": "t"})
        if request.headers.get("authorization") != "Bearer t":
            return httpx.Response(401, headers={"www-authenticate": f'Bearer realm="{realm}",service="s"'})
        return httpx.Response(404)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        registry = Registry(client, httpx.URL(f"https://{host}"), ModelName("m", host=host), None)
        expected = "does not exist" if allowed else "at another host"
        with pytest.raises(RegistryFailed, match=expected):
            await registry.manifest()

    assert (realm in asked) is allowed


async def test_authorization_stays_with_the_registry(
    shelf: Shelf, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host to which manifest and files are redirected gets neither key nor token."""

    async def anywhere(_: httpx.URL) -> None:
        """As if every address were public."""

    monkeypatch.setattr(registry_module, "require_public", anywhere)
    shelf.offer(model=b"weights")
    with running_files() as other:
        other.files.update(shelf.server.files)

        def judge(asked: Asked) -> Fault | None:
            if asked.headers.get("authorization") != "Bearer the-token":
                return Fault(status=401, headers={"WWW-Authenticate": 'Bearer realm="x"'})
            if "/manifests/" in asked.path:
                return Fault(status=307, headers={"Location": other.url + asked.path})
            return None

        shelf.server.judge = judge

        await pulled(store, shelf.registries("registry.ollama.ai=the-token"))

        assert [asked.headers.get("authorization") for asked in other.seen] == [None]


async def test_a_disk_that_is_too_small_is_noticed_first(
    shelf: Shelf, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is asked for where the model does not fit; the error has both sizes."""
    shelf.offer(model=content(2 * MIB))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=MIB))

    with pytest.raises(
        StoreFailed, match=r"has 0\.0 MiB left beside the 64\.0 MiB that stay free, and 2\.0 MiB are needed"
    ):
        await pulled(store, shelf.registries())

    assert shelf.blobs() == []


async def test_a_disk_that_fills_up_meanwhile(
    shelf: Shelf, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull ends with that reason, nothing has a name, and with room again it succeeds."""
    shelf.offer(model=content(2 * MIB))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(ServiceError, match=r"disk.* is full"):
            await pulled(store, shelf.registries())

    assert named(store) == set()
    assert (await pulled(store, shelf.registries()))[-1].status == "success"


async def test_an_unreachable_registry_says_so(store: ModelStore) -> None:
    """Nobody at the address is an error with the registry's name and what may help."""
    registries = Registries(["localhost:1"])
    admit(["localhost:1"])
    name = ModelName.parse("localhost:1/me/m")

    with pytest.raises(RegistryFailed, match="localhost:1 cannot be reached over https") as caught:
        await pulled(store, registries, name)

    assert "insecure" in caught.value.hint


def _pull_alone(root: str, address: str) -> None:
    async def run() -> None:
        registries = Registries((), [("registry.ollama.ai", address)])
        assert (await pulled(ModelStore(Path(root)), registries))[-1].status == "success"

    asyncio.run(run())


def test_two_processes_pull_one_model(shelf: Shelf, store: ModelStore) -> None:
    """They wait for each other: the weights come once, both succeed, and the model is whole."""
    weights = content(8 * MIB)
    shelf.offer(model=weights)
    context = multiprocessing.get_context("spawn")
    both = [
        context.Process(target=_pull_alone, args=(str(store.layout.root), shelf.server.url)) for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)

    assert [process.exitcode for process in both] == [0, 0]
    assert store.get(M).weights.read_bytes() == weights
    blob = f"/v2/library/m/blobs/{Sha256.of(weights)}"
    spans = [asked.span for asked in shelf.server.seen if asked.path == blob and asked.span is not None]
    assert sum(end - start for start, end in spans) == 8 * MIB
