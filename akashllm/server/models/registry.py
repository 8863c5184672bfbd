"""Registries of models: which may be asked, how they let us in, and what they say a model consists of.

The protocol is the one Ollama speaks (`server/images.go`, `server/auth.go`, `server/download.go`), which is
that of container registries: `GET /v2/<namespace>/<model>/manifests/<tag>`, then `/blobs/<digest>`.

Who may be contacted: a host on the list, at its own address or its mirror; and where such a host redirects to,
if that is https at a public address. A name that a client made up leads nowhere else. That a public name could
point to a private address a moment after it was checked is harmless, as no private service can show a
certificate for it.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from akashllm.digests import Sha256
from akashllm.errors import BadRequest, RegistryFailed, StoreFailed
from akashllm.names import REGISTRIES, ModelName
from akashllm.server.models.manifest import MANIFEST, MAX_MANIFEST, Manifest
from akashllm.server.models.source import MAX_REDIRECTS, REDIRECTS, Origin, Patience, new_client, origin
from akashllm.server.values import pairs
from akashllm.version import __version__

CONTRACT = "0.33.0"
"""The version of Ollama whose interface this service has. Clients compare it (some refuse less than 0.6.4), and
registries answer 412 for models that need a newer one.
"""

_MAX_TOKEN = 64 << 10
_MAX_ERROR = 4 << 10
_REALMS = {"hf.co": "huggingface.co", "huggingface.co": "hf.co", "registry.ollama.ai": "ollama.com"}
"""Where public registries also give tokens, each of the same owner (ollama#15661, ollama#17361)."""
_PARAMETER = re.compile(r'([a-zA-Z]+)="([^"]*)"')


class Broken(RegistryFailed):
    """A connection that did not last, or a fault of the registry's own: worth another attempt."""


class Registries:
    """The operator's list: whom to ask for what, and with which key."""

    def __init__(
        self,
        admitted: Iterable[str] = (),
        mirrors: Iterable[tuple[str, str]] = (),
        auth: str | None = None,
        *,
        patience: Patience | None = None,
    ) -> None:
        self._admitted = frozenset(host.lower() for host in admitted)
        self._mirrors = {host.lower(): address.rstrip("/") for host, address in mirrors}
        self._keys = pairs(auth or "")
        self.patience = patience or Patience()
        self._shared: dict[Sha256, _Connections] = {}

    def address(self, host: str, *, insecure: bool = False) -> str:
        """Where the registry of that name answers. Raises `BadRequest` for one that is not on the list.

        `insecure` is plain HTTP, for the operator's own registries only.
        """
        host = host.lower()
        if host not in REGISTRIES and host not in self._admitted:
            raise BadRequest("the registry of that name is not on this service's list: see AKASHLLM_REGISTRIES")
        if host in self._mirrors:
            return self._mirrors[host]
        return f"http://{host}" if insecure and host in self._admitted else f"https://{host}"

    @asynccontextmanager
    async def open(self, name: ModelName, *, insecure: bool = False) -> AsyncIterator[Registry]:
        """The registry of a model, with connections of its own until the block ends."""
        address = httpx.URL(self.address(name.host, insecure=insecure))
        async with self._client({origin(address)}, parts=1) as client:
            yield Registry(client, address, name, self._keys.get(name.host.lower()))

    @asynccontextmanager
    async def connections(self, digest: Sha256, url: str, parts: int) -> AsyncIterator[httpx.AsyncClient]:
        """Connections for fetching one file: the same ones for all who fetch it, until the last is done.

        Whoever comes first may leave first, and the others go on with what it began.
        """
        shared = self._shared.get(digest)
        if shared is None:
            trusted: set[Origin] = set()
            shared = self._shared[digest] = _Connections(self._client(trusted, parts=parts), trusted)
        shared.users += 1
        shared.trusted.add(origin(httpx.URL(url)))
        try:
            yield shared.client
        finally:
            shared.users -= 1
            if not shared.users:
                if self._shared.get(digest) is shared:
                    del self._shared[digest]
                await shared.client.aclose()

    def _client(self, trusted: set[Origin], parts: int) -> httpx.AsyncClient:
        """A client that goes to `trusted`, and elsewhere only where a redirect may lead."""
        client = new_client(self.patience, parts=parts)
        client.headers["user-agent"] = f"ollama/{CONTRACT} (amd64 linux) akashllm/{__version__}"

        async def allowed(request: httpx.Request) -> None:
            if origin(request.url) not in trusted:
                await require_public(request.url)

        client.event_hooks = {"request": [allowed]}
        return client


@dataclass(slots=True)
class _Connections:
    client: httpx.AsyncClient
    trusted: set[Origin]
    users: int = 0


class Registry:
    """One model's repository in one registry."""

    def __init__(self, client: httpx.AsyncClient, address: httpx.URL, name: ModelName, key: str | None) -> None:
        self.client = client
        self.host = name.host
        self._address = address
        self._name = name
        self._key = key
        self.authorization: dict[str, str] = {}

    def url(self, path: str) -> str:
        """An address in the repository."""
        prefix = str(self._address).rstrip("/")
        return f"{prefix}/v2/{self._name.namespace}/{self._name.model}/{path}"

    def blob(self, digest: Sha256) -> str:
        """Where the registry has a file."""
        return self.url(f"blobs/{digest}")

    async def manifest(self) -> tuple[Manifest, bytes]:
        """The model's manifest and its bytes. Raises `RegistryFailed`."""
        url = self.url(f"manifests/{self._name.tag}")
        async with self.ask("GET", url, {"accept": MANIFEST}) as response:
            if response.status_code == 404:
                raise RegistryFailed("pull model manifest: file does not exist", code="no_such_model")
            if response.status_code != 200:
                raise RegistryFailed(f"pull model manifest: {await self.refusal(response)}")
            data = await _bounded(response, MAX_MANIFEST, f"{self.host} sends a manifest")
            promised = response.headers.get("docker-content-digest", "")
        if promised.startswith("sha256:") and promised != str(Sha256.of(data)):
            raise RegistryFailed(f"pull model manifest: {self.host} sends another one than it says")
        try:
            return Manifest.read(data), data
        except StoreFailed as error:
            raise RegistryFailed(f"pull model manifest: {error.message}") from error

    @asynccontextmanager
    async def ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, **body: Any
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to come, after redirects, and after a token where one is wanted.

        Authorization goes to the registry itself and nowhere else. Raises `RegistryFailed` if nobody answers.
        """
        response = await self._send(method, url, headers, body)
        try:
            if response.status_code == 401 and await self.authorize(response):
                await response.aclose()
                response = await self._send(method, url, headers, body)
            yield response
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        finally:
            await response.aclose()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: Mapping[str, Any]
    ) -> httpx.Response:
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS):
            own = self.authorization if origin(target) == origin(self._address) else {}
            request = self.client.build_request(method, target, headers={**(headers or {}), **own}, **body)
            try:
                response = await self.client.send(request, stream=True)
            except httpx.HTTPError as error:
                raise self._broken(error) from error
            if response.status_code not in REDIRECTS or method not in {"GET", "HEAD"}:
                return response
            await response.aclose()
            target = self.within(response, target, method)
        raise RegistryFailed(f"{self.host} redirects in circles")

    def within(self, response: httpx.Response, asked: httpx.URL, method: str = "GET") -> httpx.URL:
        """Where an answer's Location leads; for anything but reading, only within the registry."""
        try:
            target = asked.join(response.headers.get("location", ""))
        except (httpx.InvalidURL, ValueError):
            target = httpx.URL("")
        if not target.host or target.scheme not in {"http", "https"}:
            raise RegistryFailed(f"{self.host} redirects to something that is no address")
        if method not in {"GET", "HEAD"} and origin(target) != origin(self._address):
            raise RegistryFailed(f"{self.host} wants the model sent to another host, which is refused")
        return target

    async def authorize(self, response: httpx.Response) -> bool:
        """Get what a 401 asks for; whether there is something new to try. Raises `RegistryFailed`."""
        challenge = response.headers.get("www-authenticate", "")
        scheme, _, rest = challenge.partition(" ")
        fields = {key.lower(): value for key, value in _PARAMETER.findall(rest)}
        had, user = dict(self.authorization), self._basic()
        if scheme.lower() == "basic" and user:
            self.authorization = user
        elif scheme.lower() == "bearer" and self._key and ":" not in self._key:
            self.authorization = {"authorization": f"Bearer {self._key}"}
        elif scheme.lower() == "bearer" and "realm" in fields:
            self.authorization = {"authorization": f"Bearer {await self._token(fields, user)}"}
            return True
        return self.authorization != had

    async def _token(self, fields: Mapping[str, str], user: Mapping[str, str]) -> str:
        """A token from the place the registry names, which must be the registry's own (CVE-2025-51471)."""
        try:
            realm = httpx.URL(fields["realm"])
        except httpx.InvalidURL:
            realm = httpx.URL("")
        twin = ("https", _REALMS.get(self._address.host), 443)
        if origin(realm) != origin(self._address) and origin(realm) != twin:
            raise RegistryFailed(f"{self.host} wants its tokens asked for at another host, which is refused")
        query = {key: fields[key] for key in ("service", "scope") if key in fields}
        request = self.client.build_request("GET", realm.copy_merge_params(query), headers=user)
        try:
            response = await self.client.send(request, stream=True)
            try:
                data = await _bounded(response, _MAX_TOKEN, f"{self.host} sends a token")
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        try:
            answer = msgspec.json.decode(data, type=dict[str, Any])
        except (ValueError, RecursionError):
            answer = {}
        token = answer.get("token") or answer.get("access_token")
        if response.status_code != 200 or not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise RegistryFailed(f"{self.host} gives no token (it answers {response.status_code})")
        return token

    def _basic(self) -> dict[str, str]:
        if not self._key or ":" not in self._key:
            return {}
        return {"authorization": f"Basic {base64.b64encode(self._key.encode()).decode()}"}

    async def refusal(self, response: httpx.Response) -> str:
        """What an answer other than the wanted one says, in a line that is safe to show."""
        if response.status_code in {401, 403}:
            return f"{self.host} does not let us: it answers {response.status_code}"
        if response.status_code in REDIRECTS:
            return f"{self.host} redirects a request that must not be redirected"
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) >= _MAX_ERROR:
                break
        said = "".join(char if char.isprintable() else " " for char in body[:300].decode("utf-8", "replace"))
        return f"{self.host} answers {response.status_code}: {said.strip()}"

    def _broken(self, error: httpx.HTTPError) -> Broken:
        if isinstance(error, httpx.ConnectError):
            hint = "insecure" if self._address.scheme == "https" else ""
            return Broken(
                f"{self.host} cannot be reached over {self._address.scheme}",
                hint=f"a registry without TLS needs {hint!r}: true" if hint else "",
            )
        if isinstance(error, httpx.TimeoutException):
            return Broken(f"{self.host} does not answer in time")
        return Broken(f"{self.host} breaks the connection")


async def require_public(url: httpx.URL) -> None:
    """Raise `RegistryFailed` unless a redirect to `url` may be followed: https, and every address public.

    A name that does not resolve here is left to the connection: behind a proxy only the proxy can.
    """
    if url.scheme != "https":
        raise RegistryFailed("the registry redirects to another host without TLS, which is refused")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, url.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        return
    if not all(_is_public(entry[4][0]) for entry in found):
        raise RegistryFailed("the registry redirects to an address that is not public, which is refused")


def _is_public(address: object) -> bool:
    try:
        found = ipaddress.ip_address(str(address).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    checked = mapped or found
    return bool(checked.is_global and not checked.is_multicast)


async def _bounded(response: httpx.Response, most: int, what: str) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > most:
            raise RegistryFailed(f"{what} of more than {most} bytes, which is refused")
    return bytes(data)
