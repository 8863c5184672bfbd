"""Digests and sizes asked of registries: a real one, and ones that lie."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from akashllm.digests import Sha256
from akashllm.errors import AkashllmError, DigestMismatch, ImageFailed, Unreachable, UsageError
from akashllm.images import look, registry, resolve
from tests.images.conftest import free_port

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def upload(address: str, repository: str, data: bytes) -> dict[str, Any]:
    """A blob at a real registry, as a manifest describes it."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    begun = requests.post(f"http://{address}/v2/{repository}/blobs/uploads/", timeout=10)
    joint = "&" if "?" in begun.headers["Location"] else "?"
    done = requests.put(f"{begun.headers['Location']}{joint}digest={digest}", data=data, timeout=10)
    assert done.status_code == 201, done.text
    return {"mediaType": "application/octet-stream", "digest": digest, "size": len(data)}


def publish(address: str, repository: str, tag: str, document: dict[str, Any]) -> str:
    """A manifest at a real registry; its digest."""
    data = json.dumps(document).encode()
    headers = {"Content-Type": document["mediaType"]}
    done = requests.put(
        f"http://{address}/v2/{repository}/manifests/{tag}", data=data, headers=headers, timeout=10
    )
    assert done.status_code == 201, done.text
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(
    address: str, repository: str, tag: str, layers: list[bytes], config: dict[str, Any] | None = None
) -> str:
    """An image of these layers; its digest. `config` is what Docker calls the container's configuration."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {
            **upload(address, repository, json.dumps({"config": config or {}}).encode()),
            "mediaType": "application/vnd.oci.image.config.v1+json",
        },
        "layers": [upload(address, repository, layer) for layer in layers],
    }
    return publish(address, repository, tag, document)


def test_a_tag_resolves_to_the_digest_the_registry_holds(registry: str) -> None:
    """A real registry answers the digest, and the sizes of what has to be downloaded."""
    digest = image(registry, "me/one", "1", [b"a" * 1000, b"b" * 500])

    assert str(resolve(f"{registry}/me/one:1")) == digest
    remote = look(f"{registry}/me/one:1")
    assert (str(remote.digest), remote.layers, remote.size) == (digest, (1000, 500), 1500)


@pytest.mark.parametrize(
    ("config", "user", "as_root"),
    [
        ({"User": "10001:10001"}, "10001:10001", False),
        ({"User": "akashllm"}, "akashllm", False),
        ({"User": "0:0"}, "0:0", True),
        ({"User": "root"}, "root", True),
        ({"User": ""}, "", True),
        ({}, "", True),
        ({"User": 7}, None, None),
    ],
)
def test_whom_an_image_starts_as_is_told(
    registry: str, config: dict[str, Any], user: str | None, as_root: bool | None
) -> None:
    """A real registry tells the user in an image's configuration; no user is root, as engines have it."""
    image(registry, "me/users", "1", [b"a"], config)

    found = look(f"{registry}/me/users:1")

    assert (found.user, found.as_root) == (user, as_root)


def test_a_configuration_that_cannot_be_had_leaves_the_user_open() -> None:
    """An image is still an image whose registry does not hand out its configuration."""
    document = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": {"digest": f"sha256:{'0' * 64}"}, "layers": []}
    ).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, document) if "/manifests/" in handler.path else reply(handler, 500)

    with pretending(answer) as address:
        found = look(f"{address}/me/x:1")

    assert (found.user, found.as_root) == (None, None)


def test_a_configuration_that_was_changed_on_the_way_is_refused() -> None:
    """Bytes that are not those of the manifest's digest are nobody's configuration."""
    document = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": {"digest": f"sha256:{'0' * 64}"}, "layers": []}
    ).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, document if "/manifests/" in handler.path else b'{"config": {"User": ""}}')

    with pretending(answer) as address, pytest.raises(DigestMismatch, match="configuration"):
        look(f"{address}/me/x:1")


def test_a_digest_follows_its_tag(registry: str) -> None:
    """When a tag moves, the new digest is told; the old one still names the old image."""
    old = image(registry, "me/moves", "1", [b"old"])
    new = image(registry, "me/moves", "1", [b"newer"])

    assert str(resolve(f"{registry}/me/moves:1")) == new
    assert look(f"{registry}/me/moves@{old}").layers == (3,)


def test_an_index_is_one_digest_and_one_platform_s_layers(registry: str) -> None:
    """The digest of a multi-platform image is the index's; the sizes are those of the platform asked for."""
    amd, arm = image(registry, "me/many", "a", [b"amd64"]), image(registry, "me/many", "b", [b"arm64!!"])
    entries = [
        {"mediaType": OCI, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": name}}
        for name, digest in (("amd64", amd), ("arm64", arm))
    ]
    sizes = {"size": len(requests.get(f"http://{registry}/v2/me/many/manifests/{amd}", timeout=5).content)}
    entries = [{**entry, **sizes} for entry in entries]
    index = publish(registry, "me/many", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})

    assert str(resolve(f"{registry}/me/many:1")) == index
    assert look(f"{registry}/me/many:1").layers == (5,)
    assert look(f"{registry}/me/many:1", "linux/arm64").layers == (7,)
    with pytest.raises(UsageError, match="linux/s390x"):
        look(f"{registry}/me/many:1", "linux/s390x")


def test_what_is_not_there_is_said(registry: str) -> None:
    """A missing tag, a missing repository and a missing registry are one sentence each."""
    image(registry, "me/here", "1", [b"x"])

    for name in (f"{registry}/me/here:2", f"{registry}/me/gone:1"):
        with pytest.raises(UsageError, match="no such image"):
            resolve(name)
    with pytest.raises(Unreachable, match="cannot be reached"):
        resolve(f"127.0.0.1:{free_port()}/me/here:1")


def test_a_digest_is_its_own_answer() -> None:
    """A reference that is pinned already is not asked for: no registry of that name exists."""
    digest = f"sha256:{'0' * 64}"

    assert str(resolve(f"registry.invalid/me/x:1@{digest}")) == digest


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def pretending(answer: Answer) -> Iterator[str]:
    """A registry that does what it is told; its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            answer(self)

        def do_HEAD(self) -> None:
            answer(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Send an answer whole."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI, "layers": [{"size": 7}]}).encode()


def test_a_token_is_fetched_as_the_challenge_says() -> None:
    """Public images behind a bearer challenge: one anonymous token, for one repository, then the answer."""
    asked: list[tuple[str, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers.get("Authorization", "")))
        if handler.path.startswith("/token"):
            reply(handler, 200, b'{"token": "abc.def"}')
        elif handler.headers.get("Authorization") != "Bearer abc.def":
            host = handler.headers["Host"]
            challenge = f'Bearer realm="http://{host}/token",service="reg",scope="repository:me/x:pull"'
            reply(handler, 401, WWW_Authenticate=challenge)
        else:
            reply(handler, 200, MANIFEST)

    with pretending(answer) as address:
        assert look(f"{address}/me/x:1").layers == (7,)

    token = next(path for path, _ in asked if path.startswith("/token"))
    assert parse_qs(urlsplit(token).query) == {"service": ["reg"], "scope": ["repository:me/x:pull"]}
    assert [key for path, key in asked if path.startswith("/token")] == [""]


def test_no_login_of_the_user_is_ever_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for the host in ~/.netrc stay at home."""
    seen: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization", ""))
        reply(handler, 401, WWW_Authenticate='Basic realm="x"')

    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with pretending(answer) as address, pytest.raises(UsageError, match="log in"):
        resolve(f"{address}/me/x:1")

    assert seen
    assert set(seen) == {""}


HOSTILE: list[tuple[str, Answer, type[AkashllmError]]] = [
    (
        "a wrong digest",
        lambda h: reply(h, 200, MANIFEST, Docker_Content_Digest=f"sha256:{'1' * 64}"),
        DigestMismatch,
    ),
    ("no digest at all", lambda h: reply(h, 200, MANIFEST, Docker_Content_Digest="latest"), ImageFailed),
    ("not JSON", lambda h: reply(h, 200, b"<html>"), ImageFailed),
    ("a list", lambda h: reply(h, 200, b"[1]"), ImageFailed),
    ("deep JSON", lambda h: reply(h, 200, b"[" * 100_000), ImageFailed),
    ("layers of text", lambda h: reply(h, 200, b'{"layers": ["x"]}'), ImageFailed),
    ("a manifest without end", lambda h: reply(h, 200, b"x" * (registry.MAX_MANIFEST + 1)), ImageFailed),
    ("a redirect in a circle", lambda h: reply(h, 307, Location=h.path), ImageFailed),
    ("a redirect to another machine", lambda h: reply(h, 307, Location="http://192.0.2.1/x"), ImageFailed),
    ("a redirect to a file", lambda h: reply(h, 307, Location="file:///etc/passwd"), ImageFailed),
    (
        "a token from elsewhere",
        lambda h: reply(h, 401, WWW_Authenticate='Bearer realm="http://192.0.2.1/"'),
        UsageError,
    ),
    (
        "a token from a file",
        lambda h: reply(h, 401, WWW_Authenticate='Bearer realm="file:///etc/passwd"'),
        UsageError,
    ),
    ("no challenge", lambda h: reply(h, 401), UsageError),
    ("too many requests", lambda h: reply(h, 429, Retry_After="7"), Unreachable),
    ("a fault", lambda h: reply(h, 503), Unreachable),
    ("a closed door", lambda h: h.connection.close(), Unreachable),
]


@pytest.mark.parametrize(("answer", "error"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_registry_that_misbehaves_is_one_error(answer: Answer, error: type[AkashllmError]) -> None:
    """Whatever a registry answers, it ends in one sentence of a known kind, and leads to no other machine."""
    with pretending(answer) as address, pytest.raises(error) as failure:
        look(f"{address}/me/x:1")

    assert "\n" not in failure.value.message


def test_a_token_with_a_line_end_goes_into_no_header() -> None:
    """A token that would break out of its header is refused."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/token"):
            reply(handler, 200, json.dumps({"token": "a\r\nX-Evil: 1"}).encode())
        else:
            reply(handler, 401, WWW_Authenticate=f'Bearer realm="http://{handler.headers["Host"]}/token"')

    with pretending(answer) as address, pytest.raises(UsageError):
        look(f"{address}/me/x:1")


def test_a_registry_without_the_header_is_hashed() -> None:
    """Where no header tells the digest, it is that of the manifest's bytes."""
    with pretending(lambda handler: reply(handler, 200, MANIFEST)) as address:
        assert resolve(f"{address}/me/x:1") == Sha256.of(MANIFEST)
