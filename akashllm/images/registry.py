"""What a registry says of an image: its digest and the sizes of its layers, over the HTTP API v2, anonymously.

The protocol is the OCI distribution specification 1.1 (manifests, digests) with the bearer token flow of the
distribution project (`docs/spec/auth/token.md`). Nothing of the user's is ever sent: no login, no cookie.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests

from akashllm.digests import Sha256
from akashllm.errors import AkashllmError, BadName, DigestMismatch, ImageFailed, Unreachable, UsageError
from akashllm.images.reference import HUB, ImageReference
from akashllm.version import __version__

TIMEOUT = (5.0, 15.0)
"""Seconds to connect, and between two pieces of an answer."""

DEADLINE = 30.0
"""Seconds for one whole answer, however slowly it drips."""

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest; registries refuse larger ones (OCI distribution specification, "Pushing Manifests")."""

MAX_CONFIG = 4 << 20
MAX_TOKEN = 64 << 10
MAX_REDIRECTS = 3
_HUB_HOST = "registry-1.docker.io"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Remote:
    """An image at its registry. `layers` are in bytes, compressed: what a provider downloads, base first.

    user   whom its container starts as, as `USER` in the Dockerfile says it (empty: root); None: not known
    """

    digest: Sha256
    platform: str
    layers: tuple[int, ...]
    user: str | None = None

    @property
    def size(self) -> int:
        """Bytes to download for an image of which no layer is there yet."""
        return sum(self.layers)

    @property
    def as_root(self) -> bool | None:
        """Whether its container starts as root, who may write to any volume; None: not known."""
        return None if self.user is None else self.user.partition(":")[0] in {"", "0", "root"}


class Registry:
    """One registry. A context manager."""

    def __init__(self, reference: ImageReference) -> None:
        self._host = _HUB_HOST if reference.registry == HUB else reference.registry
        self._shown = reference.registry
        self._repository = reference.repository
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"akashllm/{__version__}"
        # An authentication that adds nothing keeps requests from looking into ~/.netrc; proxies stay.
        self._session.auth = lambda request: request
        self._local = _loopback(urlsplit(f"//{self._host}").hostname or "")
        self._base = f"https://{self._host}"
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def digest(self, name: str) -> Sha256:
        """The digest of a tag, without its manifest where the registry says it in a header."""
        status, headers, _ = self._manifest("HEAD", name)
        if status == requests.codes.ok and "Docker-Content-Digest" in headers:
            return _digest(headers["Docker-Content-Digest"], self._shown)
        return Sha256.of(self._fetch(name))

    def remote(self, name: str, platform: str = "linux/amd64") -> Remote:
        """The image of a tag or digest for one platform."""
        body = self._fetch(name)
        top = Sha256.of(body)
        document = _json(body, self._shown)
        if isinstance(document.get("manifests"), list):
            document = _json(self._fetch(str(_choose(document["manifests"], platform))), self._shown)
        layers = document.get("layers")
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise ImageFailed(f"{self._shown} answers with a manifest of a kind that is not known")
        sizes = tuple(int(layer.get("size") or 0) for layer in layers)
        return Remote(top, platform, sizes, self._user(document.get("config")))

    def _user(self, described: Any) -> str | None:
        """The user in an image's configuration, a blob of the registry; None where that is not to be had."""
        said = described.get("digest") if isinstance(described, dict) else None
        if not isinstance(said, str):
            return None
        digest = _digest(said, self._shown)
        try:
            status, _, body = self._ask("GET", f"/v2/{self._repository}/blobs/{digest}", {}, MAX_CONFIG)
        except (Unreachable, ImageFailed):
            return None
        if status != requests.codes.ok:
            return None
        if Sha256.of(body) != digest:
            raise DigestMismatch(
                f"{self._shown} sent a configuration that is not the one its manifest names",
                hint="something between you and the registry changes answers: do not deploy this image",
            )
        config = _json(body, self._shown).get("config")
        user = config.get("User", "") if isinstance(config, dict) else ""
        return user if isinstance(user, str) else None

    def _fetch(self, name: str) -> bytes:
        """A manifest, checked against its digest where it was asked for by one or the registry names one."""
        status, headers, body = self._manifest("GET", name)
        if status != requests.codes.ok:
            raise self._refusal(status, headers)
        said = name if name.startswith("sha256:") else headers.get("Docker-Content-Digest")
        if said and _digest(said, self._shown) != Sha256.of(body):
            raise DigestMismatch(
                f"{self._shown} sent a manifest that is not the one it names",
                hint="something between you and the registry changes answers: do not deploy this image",
            )
        return body

    def _manifest(self, method: str, name: str) -> tuple[int, Mapping[str, str], bytes]:
        path = f"/v2/{self._repository}/manifests/{name}"
        accept = {"Accept": ", ".join((*_INDEXES, *_MANIFESTS))}
        status, headers, body = self._ask(method, path, accept)
        if status == requests.codes.unauthorized and not self._token:
            self._token = self._anonymous(headers.get("WWW-Authenticate", ""))
            status, headers, body = self._ask(method, path, accept)
        if status != requests.codes.ok and (method == "GET" or status in {401, 403, 404, 429}):
            raise self._refusal(status, headers)
        return status, headers, body

    def _ask(
        self, method: str, path: str, headers: dict[str, str], limit: int = MAX_MANIFEST
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._token:
            headers = {**headers, "Authorization": f"Bearer {self._token}"}
        try:
            return self._call(method, self._base + path, headers, limit)
        except requests.exceptions.SSLError as error:
            # As engines have it, plain HTTP is for registries on this machine only.
            if not (self._local and self._base.startswith("https:")):
                raise self._away(error) from None
        except requests.RequestException as error:
            if not (self._local and self._base.startswith("https:")):
                raise self._away(error) from None
        self._base = f"http://{self._host}"
        try:
            return self._call(method, self._base + path, headers, limit)
        except requests.RequestException as error:
            raise self._away(error) from None

    def _call(
        self, method: str, url: str, headers: Mapping[str, str], limit: int = MAX_MANIFEST
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its bounded answer; a few redirects, each to https or on this machine."""
        sent = dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            with self._session.request(
                method, url, headers=sent, stream=True, timeout=TIMEOUT, allow_redirects=False
            ) as answer:
                if not answer.is_redirect:
                    return answer.status_code, answer.headers, self._body(answer, limit)
                target = urljoin(url, answer.headers["Location"])
            parts = urlsplit(target)
            if parts.scheme != "https" and not (
                parts.scheme == "http" and self._local and _loopback(parts.hostname)
            ):
                raise ImageFailed(f"{self._shown} redirects to an address without encryption")
            if parts.netloc != urlsplit(url).netloc:
                sent.pop("Authorization", None)
            url = target
        raise ImageFailed(f"{self._shown} redirects in circles")

    def _body(self, answer: requests.Response, limit: int) -> bytes:
        body = bytearray()
        until = time.monotonic() + DEADLINE
        for piece in answer.iter_content(1 << 14):
            body += piece
            if len(body) > limit:
                raise ImageFailed(f"{self._shown} sends more than {limit} bytes, which no real answer has")
            if time.monotonic() > until:
                raise Unreachable(f"{self._shown} answers too slowly", hint="try again")
        return bytes(body)

    def _anonymous(self, challenge: str) -> str:
        """A token for reading one repository without a login, from where the registry sends us for it."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        realm = urlsplit(parameters.get("realm", ""))
        encrypted = realm.scheme == "https" or (
            realm.scheme == "http" and self._local and _loopback(realm.hostname)
        )
        if scheme.lower() != "bearer" or not encrypted or realm.username or realm.password:
            raise self._login()
        query = {"scope": parameters.get("scope") or f"repository:{self._repository}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        url = requests.Request("GET", parameters["realm"], params=query).prepare().url or ""
        try:
            status, _, body = self._call("GET", url, {}, MAX_TOKEN)
        except requests.RequestException as error:
            raise self._away(error) from None
        if status != requests.codes.ok:
            raise self._login()
        answer = _json(body, self._shown)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise self._login()
        return token

    def _login(self) -> UsageError:
        return UsageError(
            f"{self._shown} shows {self._repository} only to those who log in, or has no such repository",
            hint="check the name; for a private image give its digest yourself: name@sha256:...",
        )

    def _refusal(self, status: int, headers: Mapping[str, str]) -> AkashllmError:
        if status in {401, 403}:
            return self._login()
        if status == 404:
            return UsageError(
                f"{self._shown} has no such image in {self._repository}", hint="check the name and the tag"
            )
        if status == 429:
            after = headers.get("Retry-After", "")
            wait = f"in {after} s" if after.isdigit() else "in a few minutes"
            return Unreachable(f"{self._shown} says that it was asked too often", hint=f"try again {wait}")
        return Unreachable(f"{self._shown} answered {status}", hint="try again later")

    def _away(self, error: Exception) -> Unreachable:
        if isinstance(error, requests.exceptions.SSLError):
            return Unreachable(
                f"the certificate of {self._shown} cannot be verified",
                hint="if it is your own, name its authority in REQUESTS_CA_BUNDLE",
            )
        kind = "does not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        return Unreachable(f"{self._shown} {kind}", hint="check the name of the registry and the network")


def resolve(image: str) -> Sha256:
    """The digest that an image's name stands for at this moment, asked of its registry.

    A name that has a digest is its own answer. Raises `BadName`, `Unreachable`, and `UsageError` for an image
    that is not there or not public.
    """
    reference = ImageReference.parse(image)
    if reference.digest:
        return reference.digest
    with Registry(reference) as registry:
        return registry.digest(reference.tag or "latest")


def look(image: str, platform: str = "linux/amd64") -> Remote:
    """What has to be downloaded to run an image, asked of its registry. Raises as `resolve` does."""
    reference = ImageReference.parse(image)
    with Registry(reference) as registry:
        name = str(reference.digest) if reference.digest else reference.tag or "latest"
        return registry.remote(name, platform)


def _choose(entries: list[Any], platform: str) -> Sha256:
    """The entry of an index for one platform; attestations and the like have none."""
    offered = []
    for entry in entries:
        described = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(described, dict):
            continue
        name = f"{described.get('os')}/{described.get('architecture')}"
        offered.append(name)
        if name == platform:
            return _digest(str(entry.get("digest")), "the registry")
    raise UsageError(
        f"the image is not made for {platform}", hint=f"it is for {', '.join(sorted(set(offered))[:8])}"
    )


def _digest(text: str, who: str) -> Sha256:
    try:
        return Sha256.parse(text)
    except BadName:
        raise ImageFailed(f"{who} names its manifest by a digest that is none") from None


def _json(body: bytes, who: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageFailed(f"{who} answered with something that is not JSON")
    return document


def _loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
