"""A provider's gateway: TLS 1.3, REST and WebSocket, tokens checked. Needs `websockets` and `cryptography`."""

from __future__ import annotations

import asyncio
import http
import json
import ssl
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from akashllm.market.gateway_shell import RESULT
from akashllm.market.websocket import Loop, WebSocket
from akashllm.testing.certificates import Certificate, Signer
from akashllm.testing.gateway_shell import RemoteCommand
from akashllm.testing.market.replies import lease_status
from akashllm.testing.market.world import Leased, World

_SCOPES = {"status": "status", "logs": "logs", "kubeevents": "events", "shell": "shell"}
_GONE, _NOT_FOUND = 4000, 4001
_BEAT = 0.05


class GatewayServer:
    """The gateway of one provider of a world. A context manager; `host_uri` is its address.

    signer   whose tokens are good
    events   what the cluster tells, as `(type, reason, note)`
    """

    def __init__(
        self,
        world: World,
        provider: str,
        certificate: Certificate,
        signer: Signer,
        *,
        events: Sequence[tuple[str, str, str]] = (),
        newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self.world = world
        self.provider = provider
        self.signer = signer
        self.events = events
        self.asked: list[str] = []
        self.commands: list[RemoteCommand] = []
        self._ending = threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = min(newest_tls, ssl.TLSVersion.TLSv1_3)
        self._context.maximum_version = newest_tls
        with tempfile.NamedTemporaryFile() as file:
            file.write(certificate.pem + certificate.key)
            file.flush()
            self._context.load_cert_chain(file.name)

    @property
    def host_uri(self) -> str:
        """As a provider registers it."""
        return f"https://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._loop = starting.enter_context(Loop())
            self._server = self._loop.call(self._listen())
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for command in self.commands:
            command.kill()
        self._loop.call(self._stop())
        self._running.close()

    async def _listen(self) -> Server:
        return await serve(
            self._serve, "127.0.0.1", 0, ssl=self._context, process_request=self._answer, compression=None
        )

    async def _stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        if connection.request is not None:
            await asyncio.to_thread(self._talk, WebSocket(self._loop, connection), connection.request)

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """None lets a WebSocket through; anything else is the whole reply."""
        del connection
        parts = urlsplit(request.path)
        words = parts.path.strip("/").split("/")
        self.asked.append(parts.path)
        if parts.path == "/address":
            return _json(200, {"address": self.provider})
        if len(words) != 5 or words[0] != "lease" or words[4] not in _SCOPES:
            return _json(404, {"message": "not found"})
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            return _json(401, {"message": "no token"})
        if why := self.signer.refusal(token, provider=self.provider, scope=_SCOPES[words[4]]):
            return _json(401, {"message": why})
        if words[4] != "status":
            return None
        leased = self._lease(words[1])
        if leased is None or leased.manifest is None:
            return _json(404, {"message": "no lease for deployment"})
        return _json(200, lease_status(words[1], leased))

    def _talk(self, connection: WebSocket, request: Request) -> None:
        parts = urlsplit(request.path)
        _, dseq, _, _, what = parts.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        leased = self._lease(dseq)
        if leased is None or leased.state != "active":
            connection.close(_NOT_FOUND, "lease not found")
        elif leased.provider.runner.url(dseq) is None:
            connection.close(_GONE, "no running pods")
        else:
            try:
                getattr(self, f"_{what}")(connection, dseq, leased, query)
            except ConnectionClosed:
                return

    def _logs(self, connection: WebSocket, dseq: str, leased: Leased, query: dict[str, str]) -> None:
        def send(lines: Sequence[str]) -> None:
            for service in leased.services(query.get("service", "")):
                for line in lines:
                    connection.send(json.dumps({"name": f"{service}-{dseq}-0", "message": line}))

        lines = list(leased.provider.runner.lines(dseq))
        sent = len(lines)
        send(lines[-int(query["tail"]) :] if query.get("tail") else lines)
        while query.get("follow") == "true" and leased.state == "active" and not self._ending.wait(_BEAT):
            lines = list(leased.provider.runner.lines(dseq))
            send(lines[sent:])
            sent = max(sent, len(lines))

    def _kubeevents(self, connection: WebSocket, dseq: str, leased: Leased, query: dict[str, str]) -> None:
        for kind, reason, note in self.events:
            about = {"kind": "Pod", "namespace": dseq, "name": "llm-0"}
            event = {"type": kind, "reason": reason, "note": note, "reportingController": "", "object": about}
            connection.send(json.dumps(event))
        while query.get("follow") == "true" and leased.state == "active" and not self._ending.wait(_BEAT):
            pass

    def _shell(self, connection: WebSocket, dseq: str, leased: Leased, query: dict[str, str]) -> None:
        del dseq
        service = query["service"]
        if service not in leased.services():
            words = "remote command execute error: no such service exists with that name"
            connection.send(bytes([RESULT]) + json.dumps({"exit_code": 0, "message": words}).encode())
            return
        command = RemoteCommand(connection, query)
        self.commands.append(command)
        command.run()

    def sever(self) -> None:
        """Break every connection of a shell without a word, as a network does."""
        for command in self.commands:
            command.sever()

    def _lease(self, dseq: str) -> Leased | None:
        deployed = self.world.deployments.get(dseq)
        leases = deployed.leases if deployed else []
        return next((one for one in leases if one.provider.address == self.provider), None)


def _json(status: int, body: Any) -> Response:
    data = json.dumps(body).encode()
    headers = Headers(
        {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, data)
