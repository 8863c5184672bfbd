"""A provider's gateway: how a lease is, its logs and events, and commands inside its containers.

Paths and frames are those of the provider's gateway (akash-network/provider, gateway/rest/router.go): REST for
the status, WebSocket for the rest, a JWT as bearer. Tried against the testing gateway only.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from akashllm.errors import MarketError, ProviderFailed
from akashllm.market.base import Lease, LogLine
from akashllm.market.console_errors import cleaned
from akashllm.market.gateway_shell import GatewaySession, shell_query
from akashllm.market.gateway_tls import Published, Trusted, on_chain, trust
from akashllm.market.shell import Tell, Terminal, checked, counted

if TYPE_CHECKING:
    from akashllm.market.websocket import WebSocket

Token = Callable[[Sequence[str]], str]
"""Scopes -> a JWT that is good for them, at this provider, for some minutes."""

_MAX_BYTES = 4 << 20
_MAX_LINE = 1 << 20
_SECONDS = 30.0
_PING = 20.0
_GOODBYE = 1.0
"""Seconds that the other side has for closing: nobody waits longer who has ended the view with Ctrl-C."""

_CLOSED = {
    4000: "no container of this deployment is running",
    4001: "the provider does not know this lease",
    4002: "the provider's cluster cannot be reached now",
}


@dataclass(slots=True)
class Gateway:
    """One provider. Its certificate is checked before the first token is made."""

    host_uri: str
    provider: str
    token: Token = field(repr=False)
    published: Published = on_chain
    _trusted: Trusted | None = None

    def status(self, lease: Lease) -> Mapping[str, Any]:
        """`{services, forwarded_ports, ips}` of a lease."""
        trusted = self._trust()
        connection = http.client.HTTPSConnection(
            trusted.host, trusted.port, context=trusted.context, timeout=_SECONDS
        )
        try:
            connection.request("GET", f"{_path(lease)}/status", headers=self._headers("status"))
            reply = connection.getresponse()
            body = reply.read(_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(type(error).__name__) from None
        finally:
            connection.close()
        if reply.status != 200:
            raise self._broken(_refusal(reply.status, body))
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            raise self._broken("its answer cannot be read") from None
        return data if isinstance(data, dict) else {}

    def logs(
        self, lease: Lease, *, follow: bool = False, tail: int | None = None, service: str | None = None
    ) -> Iterator[LogLine]:
        """What the containers wrote; with `follow`, as they write."""
        query = {"follow": str(follow).lower()}
        if tail is not None:
            query["tail"] = str(tail)
        if service:
            query["service"] = service
        for data in self._frames(lease, "logs", "logs", query):
            yield LogLine(service=cleaned(str(data.get("name", ""))), text=str(data.get("message", "")))

    def events(self, lease: Lease, *, follow: bool = False) -> Iterator[LogLine]:
        """What the cluster says of them: an image that cannot be pulled shows here."""
        for data in self._frames(lease, "kubeevents", "events", {"follow": str(follow).lower()}):
            about = data.get("object")
            name = about.get("name", "") if isinstance(about, dict) else ""
            words = f"{data.get('type', '')} {data.get('reason', '')}: {data.get('note', '')}"
            yield LogLine(service=cleaned(str(name)), text=words.strip())

    def run(
        self, lease: Lease, service: str, command: Sequence[str], tell: Tell, *, stdin: bytes | None = None
    ) -> int:
        """Run a command in a service's first container, without a terminal; its exit code."""
        words = checked(command) if stdin is None else counted(checked(command), stdin)
        asked = shell_query(service, words, tty=False, stdin=stdin is not None)
        with self._socket(lease, "shell", "shell", asked, ping=None) as connection:
            session = GatewaySession(connection)
            session.watch()
            return session.run(tell, stdin)

    def attach(self, lease: Lease, service: str, command: Sequence[str], terminal: Terminal) -> int:
        """Run a command on the terminal here; its exit code."""
        asked = shell_query(service, checked(command), tty=True, stdin=True)
        with self._socket(lease, "shell", "shell", asked) as connection:
            return terminal.attach(GatewaySession(connection))

    def _frames(
        self, lease: Lease, what: str, scope: str, query: Mapping[str, str]
    ) -> Iterator[Mapping[str, Any]]:
        with self._socket(lease, what, scope, query) as connection:
            for frame in connection.messages(None if query.get("follow") == "true" else _SECONDS):
                try:
                    data = json.loads(frame)
                except (ValueError, RecursionError):
                    continue
                if isinstance(data, dict):
                    yield data

    @contextmanager
    def _socket(
        self,
        lease: Lease,
        what: str,
        scope: str,
        query: Mapping[str, str],
        *,
        ping: float | None = _PING,
    ) -> Iterator[WebSocket]:
        # Late: most commands talk to no gateway, and these take a while to import.
        from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

        from akashllm.market.websocket import websocket

        trusted = self._trust()
        address = f"[{trusted.host}]" if ":" in trusted.host else trusted.host
        uri = f"wss://{address}:{trusted.port}{_path(lease)}/{what}?{urlencode(query)}"
        try:
            with websocket(
                uri,
                ssl=trusted.context,
                additional_headers=self._headers(scope),
                proxy=None,
                open_timeout=_SECONDS,
                ping_interval=ping,
                close_timeout=_GOODBYE,
                max_size=_MAX_LINE,
            ) as connection:
                yield connection
                self._check_end(connection.close_code)
        except ConnectionClosed as error:
            self._check_end(error.rcvd.code if error.rcvd else None)
            raise self._broken("the connection was lost") from None
        except InvalidStatus as error:
            raise self._broken(
                _refusal(error.response.status_code, bytes(error.response.body or b""))
            ) from None
        except TimeoutError:
            raise self._broken(f"it said nothing for {_SECONDS:g} seconds") from None
        except (WebSocketException, OSError) as error:
            raise self._broken(type(error).__name__) from None

    def _check_end(self, code: int | None) -> None:
        if code in _CLOSED:
            raise MarketError(f"{_CLOSED[code]} (provider {self.provider})", hint="`akashllm status` says more")

    def _trust(self) -> Trusted:
        if self._trusted is None:
            self._trusted = trust(self.host_uri, self.provider, self.published)
        return self._trusted

    def _headers(self, scope: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token([scope])}"}

    def _broken(self, why: str) -> ProviderFailed:
        return ProviderFailed(
            f"the gateway of {self.provider} did not answer as it should: {why}",
            hint="the service itself may be well: `akashllm status` asks it",
        )


def _path(lease: Lease) -> str:
    return f"/lease/{lease.dseq}/{lease.gseq}/{lease.oseq}"


def _refusal(status: int, body: bytes) -> str:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    message = data.get("message") if isinstance(data, dict) else None
    return f"{status} {cleaned(str(message))}" if message else str(status)
