"""Who may manage models, and what uploads may be."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from pathlib import Path

import httpx
import pytest

from akashllm.models import TINY
from akashllm.server.settings import BadSettings, Settings
from akashllm.testing.engine import ScriptedEngine
from akashllm.testing.files import Fault, running_files
from tests.ollama.conftest import serving
from tests.store.build import files, model
from tests.store.conftest import ADMIN, HOST, KEY, Shelf, content

ZERO = f"sha256:{'0' * 64}"
ROUTES = [
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/copy"),
    ("POST", "/api/create"),
    ("DELETE", "/api/delete"),
    ("HEAD", f"/api/blobs/{ZERO}"),
    ("POST", f"/api/blobs/{ZERO}"),
    ("DELETE", "/v1/models/m"),
    ("DELETE", "/openai/v1/models/m"),
]


def ask(url: str, method: str, path: str, key: str | None = None) -> tuple[int, str]:
    """Status and message of an answer, in whichever dialect."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    response = httpx.request(method, url + path, headers=headers, json={"model": "m"})
    error = json.loads(response.text.splitlines()[-1]).get("error", "") if response.content else ""
    return response.status_code, error["message"] if isinstance(error, dict) else error


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_the_admin_key_manages(method: str, path: str, locked_service: str, root: Path) -> None:
    """No key or a wrong one is 401, the everyday key 403 with the reason; the admin key gets through."""
    model(root, "keep")
    before = files(root)

    nobody, wrong = ask(locked_service, method, path), ask(locked_service, method, path, "wrong-key")
    everyday, admin = ask(locked_service, method, path, KEY), ask(locked_service, method, path, ADMIN)

    assert nobody[0] == wrong[0] == 401
    assert everyday[0] == 403
    if method != "HEAD":
        assert everyday[1].startswith("managing models needs the admin key, and this is the other one")
    assert admin[0] not in {401, 403}
    assert files(root) == before


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_an_admin_key_it_is_off(method: str, path: str, tmp_path: Path) -> None:
    """With a key only, or with none at all, nobody manages models, and the answer says what to set."""
    found = []
    for settings in (Settings(models=str(tmp_path), api_key=KEY), Settings(models=str(tmp_path))):
        with serving(ScriptedEngine(), settings) as url:
            found.append(ask(url, method, path, KEY))

    assert [status for status, _ in found] == [403, 403]
    if method != "HEAD":
        assert found[0][1].startswith("managing models is off: set AKASHLLM_ADMIN_KEY")
        assert "or AKASHLLM" not in found[0][1]
        assert found[1][1].startswith(
            "managing models is off: set AKASHLLM_ADMIN_KEY, or AKASHLLM_MANAGE_UNAUTH"
        )


def test_without_a_store_it_says_so(tmp_path: Path) -> None:
    """The admin key alone is not enough: there must be a place for models."""
    with serving(ScriptedEngine(), Settings(api_key=KEY, admin_key=ADMIN)) as url:
        status, said = ask(url, "POST", "/api/pull", ADMIN)

    assert (status, said) == (
        403,
        "this service has no model store: set AKASHLLM_MODELS to a folder and start it again",
    )


def test_other_engines_have_no_store(root: Path) -> None:
    """What only llama.cpp can serve is neither listed nor managed where another engine runs."""
    model(root, "m")
    settings = Settings(
        models=str(root), api_key=KEY, admin_key=ADMIN, engine="upstream", upstream_url="http://127.0.0.1:1"
    )
    with serving(ScriptedEngine(), settings) as url:
        status, said = ask(url, "DELETE", "/api/delete", ADMIN)
        listed = httpx.get(f"{url}/api/tags", headers={"Authorization": f"Bearer {KEY}"}).json()["models"]

    assert (status, said) == (
        403,
        "the engine upstream serves what it was started with: only llamacpp has a model store",
    )
    assert [each["name"] for each in listed] == ["tiny:latest"]


def test_a_service_without_a_key_is_not_managed_from_a_page(service: str, root: Path) -> None:
    """Where everyone on the machine may manage models, a page of another origin still may not."""
    model(root, "m")
    headers = {"Origin": "https://evil.example"}

    refused = httpx.request("DELETE", f"{service}/api/delete", json={"model": "m"}, headers=headers)
    rebound = httpx.request(
        "DELETE", f"{service}/api/delete", json={"model": "m"}, headers={"Host": "evil.example"}
    )

    assert (refused.status_code, rebound.status_code) == (403, 403)
    assert files(root)


def test_an_open_service_keeps_its_management_closed(root: Path) -> None:
    """`unauthenticated` opens what answers, not what changes: that needs the admin key all the same."""
    settings = Settings(models=str(root), unauthenticated=True, admin_key=ADMIN)
    with serving(ScriptedEngine(), settings) as url:
        assert httpx.get(f"{url}/api/tags").status_code == 200
        assert ask(url, "POST", "/api/copy")[0] == 401
        assert ask(url, "POST", "/api/copy", ADMIN)[0] == 400
        page = httpx.post(f"{url}/api/show", json={"model": "tiny"}, headers={"Origin": "https://evil.example"})

    assert page.status_code == 403


@pytest.mark.parametrize(
    "environ",
    [
        {"AKASHLLM_MANAGE_UNAUTHENTICATED": "1", "AKASHLLM_API_KEY": KEY},
        {"AKASHLLM_MANAGE_UNAUTHENTICATED": "1", "AKASHLLM_ADMIN_KEY": ADMIN},
        {"AKASHLLM_MANAGE_UNAUTHENTICATED": "1", "AKASHLLM_HOST": "0.0.0.0", "AKASHLLM_UNAUTHENTICATED": "1"},
        {"AKASHLLM_REGISTRIES": "http://x"},
        {"AKASHLLM_REGISTRIES": "a/../b"},
        {"AKASHLLM_REGISTRY_MIRRORS": "registry.ollama.ai"},
        {"AKASHLLM_REGISTRY_MIRRORS": "registry.ollama.ai=ftp://x"},
        {"AKASHLLM_REGISTRY_AUTH": "only-a-token"},
        {"AKASHLLM_REGISTRY_AUTH": "hf.co=, x=y"},
        {"AKASHLLM_REGISTRY_AUTH": "https://hf.co=token"},
    ],
)
def test_impossible_settings_are_refused(environ: dict[str, str]) -> None:
    """Management without a key only on loopback without keys; registries are hosts, mirrors are addresses."""
    with pytest.raises(BadSettings):
        Settings.from_env(environ)


def test_registries_come_from_the_environment() -> None:
    """Hosts, mirrors and keys are read, and no key shows."""
    settings = Settings.from_env(
        {
            "AKASHLLM_REGISTRIES": "Registry.example.org, 127.0.0.1:5000",
            "AKASHLLM_REGISTRY_MIRRORS": "registry.ollama.ai=https://mirror.example.org",
            "AKASHLLM_REGISTRY_AUTH": "hf.co=hf_canary0123456789",
        }
    )

    assert settings.registries == ("registry.example.org", "127.0.0.1:5000")
    assert settings.registry_mirrors == (("registry.ollama.ai", "https://mirror.example.org"),)
    assert "canary" not in repr(settings)


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "x y",
    "evil.example/ns/m",
    "http://evil/x",
    "a@b/c",
    "-x",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_reach_nothing(name: str, locked_service: str, root: Path) -> None:
    """Every route refuses them with 400 before it looks at a file, and nothing appears on the disk."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    requests = [
        ("POST", "/api/pull", {"model": name}),
        ("POST", "/api/push", {"model": name}),
        ("POST", "/api/copy", {"source": name, "destination": "x"}),
        ("POST", "/api/copy", {"source": "x", "destination": name}),
        ("DELETE", "/api/delete", {"model": name}),
    ]
    with httpx.Client(base_url=locked_service, headers=headers) as http:
        answers = [http.request(method, path, json=body) for method, path, body in requests]

    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 400]
    assert all(list(answer.json()) == ["error"] for answer in answers)
    assert files(root) == set()


DIGESTS = [
    "sha256:../../x",
    "sha256:..%2f..%2fx",
    f"sha256:{'0' * 63}",
    f"sha256:{'0' * 65}",
    f"SHA256:{'0' * 64}",
    f"sha256:{'A' * 64}",
    f"md5:{'0' * 64}",
    f"sha256:{'0' * 64}%0a",
    f"sha256:{'0' * 64}%00",
    f"sha256:{'g' * 64}",
]


@pytest.mark.parametrize("digest", DIGESTS)
def test_hostile_digests_reach_nothing(digest: str, locked_service: str, root: Path) -> None:
    """Only 64 lower-case hexadecimal digits are a digest; everything else is 400 or no route."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    sent = httpx.post(f"{locked_service}/api/blobs/{digest}", content=b"x", headers=headers)
    asked = httpx.head(f"{locked_service}/api/blobs/{digest}", headers=headers)

    assert (sent.status_code, asked.status_code) in {(400, 400), (404, 404), (405, 405)}
    assert files(root) == set()


def upload(url: str, data: bytes, digest: str, **headers: str) -> httpx.Response:
    """An upload with the admin key."""
    sent = {
        "Authorization": f"Bearer {ADMIN}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return httpx.post(f"{url}/api/blobs/{digest}", content=data, headers=sent)


def test_an_upload_of_something_else_is_refused(locked_service: str, root: Path) -> None:
    """Content with another digest is 400 with both digests, and leaves no file under either name."""
    right, wrong = (f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (b"right", b"wrong"))

    response = upload(locked_service, b"wrong", right)

    assert response.status_code == 400
    assert response.json() == {"error": f'digest mismatch, expected "{right}", got "{wrong}"'}
    assert files(root) == set()


def test_an_upload_has_its_own_limit(locked_service: str, root: Path) -> None:
    """More than AKASHLLM_MAX_BLOB_BYTES is 413, with a length at once and without one at the byte too many."""
    data = b"x" * ((1 << 20) + 1)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    told = upload(locked_service, data, digest)
    untold = httpx.post(
        f"{locked_service}/api/blobs/{digest}",
        content=iter([data]),
        headers={"Authorization": f"Bearer {ADMIN}"},
    )
    packed = upload(locked_service, b"x", digest, content_encoding="gzip")

    assert [answer.status_code for answer in (told, untold, packed)] == [413, 413, 415]
    assert "AKASHLLM_MAX_BLOB_BYTES" in told.json()["error"]
    assert files(root) == set()


def test_an_upload_that_does_not_fit_is_refused_first(
    locked_service: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file larger than what the disk has left is refused before any of it is written."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))

    response = upload(locked_service, b"x" * 1000, ZERO)

    assert response.status_code == 500
    assert "the disk of the model store has 0.0 MiB left" in response.json()["error"]
    assert files(root) == set()


def test_an_upload_is_not_held_to_the_limit_of_json(root: Path) -> None:
    """A file may be larger than AKASHLLM_MAX_BODY_BYTES, and is never whole in memory."""
    data = b"y" * 300_000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    settings = Settings(
        models=str(root), admin_key=ADMIN, api_key=KEY, max_body_bytes=2048, max_prompt_bytes=2048
    )
    with serving(ScriptedEngine(), settings) as url:
        assert upload(url, data, digest).status_code == 201

    assert (root / "blobs" / digest.replace(":", "-")).stat().st_size == 300_000


def test_an_upload_mends_a_cut_file(locked_service: str, root: Path) -> None:
    """A file of the store that has lost its end is written anew, not taken for the one that is sent."""
    digest = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    path = root / "blobs" / digest.replace(":", "-")
    assert upload(locked_service, b"weights", digest).status_code == 201
    path.write_bytes(b"wei")

    assert upload(locked_service, b"weights", digest).status_code == 201

    assert path.read_bytes() == b"weights"


def test_a_cut_upload_leaves_nothing(locked_service: str, root: Path) -> None:
    """A client that goes away in the middle of a file leaves no file, not even a part of one."""
    address = httpx.URL(locked_service)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(
            f"POST /api/blobs/{ZERO} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN}\r\n"
            "Content-Length: 500000\r\n\r\n".encode()
            + b"x" * 100_000
        )
    with serving_again(locked_service) as status:
        assert status == 200
    for _ in range(200):
        if not files(root):
            break
        httpx.get(f"{locked_service}/health")

    assert files(root) == set()


class serving_again:  # noqa: N801 - reads as a sentence
    """The service answers others meanwhile."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> int:
        return httpx.get(f"{self._url}/api/tags", headers={"Authorization": f"Bearer {KEY}"}).status_code

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


def test_the_lines_of_a_failing_pull_end_in_one_error(locked_service: str) -> None:
    """With a stream the status is 200, and the last line says what is wrong."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    settings = {"model": "hf.co/x/y", "stream": True}
    with httpx.stream("POST", f"{locked_service}/api/pull", json=settings, headers=headers) as response:
        lines = [json.loads(line) for line in response.iter_lines()]

    assert response.status_code == 200
    assert lines[0] == {"status": "pulling manifest"}
    assert list(lines[-1]) == ["error"]


def test_a_client_that_leaves_a_pull_is_taken_up_again(root: Path) -> None:
    """Over HTTP too: cut at 90 %, nothing has a name; asked again, only the rest is fetched."""
    weights = content(10 << 20)
    with running_files() as server:
        shelf = Shelf(server)
        shelf.offer(model=weights)
        server.judge = lambda asked: (
            Fault(stall=8 << 20) if "/blobs/" in asked.path and asked.span and asked.span[0] else None
        )
        settings = Settings(
            models=str(root),
            manage_unauthenticated=True,
            registry_mirrors=((HOST, server.url),),
            log_level="error",
        )
        with serving(ScriptedEngine(), settings) as url:
            with httpx.stream("POST", f"{url}/api/pull", json={"model": "m"}, timeout=60) as response:
                for line in response.iter_lines():
                    if json.loads(line).get("completed", 0) >= 9 << 20:
                        break
            record = root / "blobs" / f".sha256-{hashlib.sha256(weights).hexdigest()}.partial.json"
            while not record.exists():
                assert httpx.get(f"{url}/api/tags").json()["models"][0]["name"] == "tiny:latest"
            assert not (root / "manifests").exists()
            assert [path.name for path in (root / "blobs").iterdir() if path.name.startswith("sha256-")] == []
            server.judge = None
            server.released.set()
            server.seen.clear()
            last = httpx.post(f"{url}/api/pull", json={"model": "m"}, timeout=60).text.splitlines()[-1]

        assert json.loads(last) == {"status": "success"}
        large = [asked.span[0] for asked in server.seen if asked.span and asked.span[1] > 1 << 20]
        assert min(large) >= 9 << 20


def test_a_pull_is_among_the_downloads(root: Path) -> None:
    """What comes shows in `/` to whoever has a key, and no longer once its client has gone or it is here."""
    asked = {"Accept": "application/json"}
    with running_files() as server:
        Shelf(server).offer(model=content(4 << 20))
        server.judge = lambda asked: (
            Fault(stall=1 << 20) if "/blobs/" in asked.path and asked.span and asked.span[0] else None
        )
        settings = Settings(
            models=str(root),
            admin_key=ADMIN,
            registry_mirrors=((HOST, server.url),),
            log_level="error",
        )
        key = {"Authorization": f"Bearer {ADMIN}"}
        with serving(ScriptedEngine(), settings) as url, httpx.Client(base_url=url, timeout=60) as client:
            with client.stream("POST", "/api/pull", headers=key, json={"model": "m"}) as response:
                told = response.iter_lines()  # httpx closes the connection once nobody holds this
                for line in told:
                    if json.loads(line).get("completed", 0) >= 2 << 20:
                        break
                state = client.get("/", headers={**asked, **key}).json()
                hidden = client.get("/", headers=asked).json()
                used = client.get("/health", headers=key).json()["idle_seconds"]
            while client.get("/", headers={**asked, **key}).json()["downloads"]:
                pass
            server.judge = None
            server.released.set()
            client.post("/api/pull", headers=key, json={"model": "m", "stream": False}).raise_for_status()
            after = client.get("/", headers={**asked, **key}).json()

    (download,) = state["downloads"]
    assert download["model"] == "m:latest"
    assert download["status"].startswith("pulling ")
    assert 50 <= download["percent"] < 100
    assert (hidden["downloads"], after["downloads"], used) == ([], [], 0)


def test_weights_that_are_none_are_listed_and_shown(service: str, root: Path) -> None:
    """A file that is no GGUF, or a broken one, is described by its configuration, and nothing falls over."""
    model(root, "noise", b"GGUF" + b"\xff" * 1000)
    model(root, "cut", TINY.read_bytes()[:5000])

    with httpx.Client(base_url=service) as http:
        listed = {each["name"]: each for each in http.get("/api/tags").json()["models"]}
        shown = [http.post("/api/show", json={"model": each, "verbose": True}) for each in ("noise", "cut")]

    assert listed["noise:latest"]["details"]["family"] == "llama"
    assert listed["cut:latest"]["size"] > 5000
    assert [response.status_code for response in shown] == [200, 200]
    assert shown[0].json()["model_info"]["general.architecture"] == "llama"
