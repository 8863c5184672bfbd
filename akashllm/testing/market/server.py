"""Console's API over real HTTP on loopback, with faults on demand.

Nothing here was compared with the live service: what it answers is what Console's published contract allows,
and what its source of August 2026 does.
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

from akashllm.testing.market import replies, sealing
from akashllm.testing.market.contract import check_reply, faults_of_request
from akashllm.testing.market.faults import CODES, PAGE, Fault, Faults
from akashllm.testing.market.world import OWNER, Refused, World

_MAX_BODY = 1 << 20
_HANG = 60.0

Mint = Callable[[dict[str, Any]], str]
"""Makes a token for the provider's gateway from what `POST /v1/create-jwt-token` was asked."""


def key_of(seed: str = "") -> str:
    """An API key in Console's format; of its own where no seed is given."""
    return f"ac.sk.test.{(seed or secrets.token_hex(32)):0>64}"


class MarketServer:
    """A context manager; `url` is its address, `world` what stands behind it, `asked` what was called,
    `heard` the bodies that came with it.

    key    the one API key that is accepted
    mint   makes the tokens for providers' gateways
    """

    def __init__(self, world: World | None = None, *, key: str | None = None, mint: Mint | None = None) -> None:
        self.world = world or World()
        self.key = key or key_of()
        self.mint = mint
        self.faults = Faults()
        self.asked: list[str] = []
        self.heard: list[bytes] = []
        self.broken: list[str] = []
        self.hung = threading.Semaphore(0)
        self._released = threading.Event()
        self._sockets: set[socket.socket] = set()

        class Handler(_Handler):
            market = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every lease and every connection."""
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._sockets):
            self._cut(connection)
        self._server.server_close()
        self.world.clear()

    def changes(self) -> Sequence[str]:
        """Calls that were no GET."""
        return [call for call in self.asked if not call.startswith("GET ")]

    def holding(self, connection: socket.socket) -> None:
        """A connection has begun."""
        self._sockets.add(connection)

    def dropped(self, connection: socket.socket) -> None:
        """A connection has ended."""
        self._sockets.discard(connection)

    def hang(self) -> None:
        """Say nothing until the server is closed."""
        self.hung.release()
        self._released.wait(_HANG)

    def _cut(self, connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._sockets.discard(connection)

    # --- the operations ---------------------------------------------------------------------------------------

    def answer(self, operation: str, word: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Do it. `word` is what stands in the path's braces."""
        world = self.world
        match operation:
            case "POST /v1/deployments":
                made = world.create(body["data"])
                return 201, replies.created(made, manifest=world.shape.hands_manifest)
            case "GET /v1/deployments":
                skip, limit = (
                    int(query.get(name, [usual])[0]) for name, usual in (("skip", "0"), ("limit", "1000"))
                )
                return 200, replies.listing(world, skip, limit)
            case "GET /v1/deployments/{dseq}":
                return 200, {"data": replies.deployment(world, world.get(word))}
            case "PUT /v1/deployments/{dseq}":
                return 200, {"data": replies.deployment(world, world.update(word, body["data"]["sdl"]))}
            case "DELETE /v1/deployments/{dseq}":
                world.close(word)
                return 200, {"data": {"success": True}}
            case "GET /v1/sdl-secrets-context":
                if not world.shape.seals_secrets:
                    raise Refused(404, "Not found", "not_found")
                return 200, sealing.context()
            case "GET /v2/deployment-settings/{dseq}":
                return 200, replies.settings(world, world.get(word))
            case "GET /v1/bids":
                dseq = query["dseq"][0]
                return 200, replies.bids(world.get(dseq), world.bids(dseq))
            case "POST /v1/leases":
                wanted = body["leases"][0]
                leased = world.lease(wanted["dseq"], wanted["provider"], body.get("manifest"))
                return 200, {"data": replies.deployment(world, leased)}
            case "GET /v1/balances":
                return 200, replies.balances(world)
            case "GET /v1/gpu-prices":
                return 200, replies.gpu_prices(world)
            case "GET /v1/providers/{address}":
                return 200, replies.provider(world.provider(word))
            case "POST /v1/bid-screening":
                asked = replies.screened(body)
                return 200, replies.screening([one for one in world.providers if one.could_serve(asked)])
            case "GET /akash/cert/v1/certificates/list":
                published = world.certificates.get(query["filter.owner"][0], [])
                rows = [
                    {"certificate": {"state": "valid", "cert": one, "pubkey": ""}, "serial": "1"}
                    for one in published
                ]
                return 200, {"certificates": rows, "pagination": {"next_key": None, "total": str(len(rows))}}
            case "POST /v1/create-jwt-token":
                if self.mint is None:
                    raise Refused(404, "Not found", "not_found")
                return 201, {"data": {"token": self.mint({**body["data"], "owner": OWNER})}}
        raise Refused(404, "Not found", "not_found")


_CHAIN = "GET /akash/cert/v1/certificates/list"
"""Not Console's: the chain's own REST interface, which a test finds at the same address."""

_PUBLIC = frozenset({"GET /v1/gpu-prices", "GET /v1/providers/{address}", "POST /v1/bid-screening", _CHAIN})
_BY_ITSELF = frozenset(
    {
        *("POST /v1/deployments", "GET /v1/deployments", "POST /v1/leases", "GET /v1/bids", "GET /v1/balances"),
        *("GET /v1/gpu-prices", "POST /v1/bid-screening", "POST /v1/create-jwt-token", _CHAIN),
        "GET /v1/sdl-secrets-context",
    }
)
_WITH_WORD = {
    "/v1/deployments/": ("/v1/deployments/{dseq}", frozenset({"GET", "PUT", "DELETE"})),
    "/v2/deployment-settings/": ("/v2/deployment-settings/{dseq}", frozenset({"GET"})),
    "/v1/providers/": ("/v1/providers/{address}", frozenset({"GET"})),
}


def _operation(method: str, path: str) -> tuple[str, str]:
    if f"{method} {path}" in _BY_ITSELF:
        return f"{method} {path}", ""
    for prefix, (template, methods) in _WITH_WORD.items():
        word = path.removeprefix(prefix)
        if path.startswith(prefix) and word and "/" not in word and method in methods:
            return f"{method} {template}", word
    return "", ""


class _Handler(BaseHTTPRequestHandler):
    market: ClassVar[MarketServer]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.market.holding(self.connection)

    def finish(self) -> None:
        self.market.dropped(self.connection)
        super().finish()

    def do_GET(self) -> None:
        """One of the reads."""
        self._serve()

    def do_POST(self) -> None:
        """A change."""
        self._serve()

    def do_PUT(self) -> None:
        """An update."""
        self._serve()

    def do_DELETE(self) -> None:
        """An end."""
        self._serve()

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        operation, word = _operation(self.command, parts.path)
        raw = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _MAX_BODY))
        self.market.asked.append(operation or f"{self.command} {parts.path}")
        self.market.heard.append(raw)
        fault = self.market.faults.next(operation)
        fault = None if fault and fault.kind == "ok" else fault
        if fault and fault.moment == "before" and self._fail(fault):
            return
        status, body = self._act(operation, word, parse_qs(parts.query), raw)
        if fault and fault.moment == "after" and self._fail(fault, body):
            return
        self._say(status, body)

    def _act(self, operation: str, word: str, query: dict[str, list[str]], raw: bytes) -> tuple[int, Any]:
        try:
            self._allow(operation)
            body = json.loads(raw) if raw else None
            optional = frozenset() if self.market.world.shape.wants_manifest else frozenset({"manifest"})
            if operation and (wrong := faults_of_request(operation, body, optional=optional)):
                return 400, _error("validation_error", "Validation error", data=wrong)
            status, reply = self.market.answer(operation, word, query, body)
            check_reply(operation, status, reply)
        except Refused as refused:
            return refused.status, _error(refused.code, str(refused))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            # A fault of the testing market itself: tests ask `broken`.
            self.market.broken.append(f"{operation}: {error!r}")
            return 500, _error("internal_server_error", "Internal server error")
        return status, reply

    def _allow(self, operation: str) -> None:
        key, bearer = self.headers.get("x-api-key"), self.headers.get("Authorization")
        if key and bearer:
            raise Refused(400, "Only one of Authorization and x-api-key may be sent")
        if operation in _PUBLIC and not key:
            return
        if not key:
            raise Refused(401, "Unauthorized", "unauthorized")
        if not secrets.compare_digest(key.encode(), self.market.key.encode()):
            raise Refused(401, "Invalid API key", "unauthorized")

    def _fail(self, fault: Fault, body: Any = None) -> bool:
        """Make it go wrong; whether that was the whole reply."""
        match fault.kind:
            case "hang":
                self.market.hang()
                self.close_connection = True
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.wfile = BytesIO()
                self.close_connection = True
            case "html":
                self._send(503, "text/html", PAGE.encode(), fault.retry_after)
            case "page":
                self._send(200, "text/html", PAGE.encode())
            case "empty":
                self._send(200, "application/json", b"")
            case "list":
                self._send(200, "application/json", b"[1, 2]")
            case "truncated":
                whole = json.dumps(body or {"data": {"dseq": "1" * 12}}).encode()
                self._send(200, "application/json", whole[: len(whole) // 2])
            case status:
                error, code, message = CODES[status]
                reply = {**_error(code, fault.message or message), "error": error}
                self._send(int(status), "application/json", json.dumps(reply).encode(), fault.retry_after)
        return True

    def _say(self, status: int, body: Any) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes, retry_after: str | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True


def _error(code: str, message: str, data: Any = None) -> dict[str, Any]:
    """Console's error body (its error handler)."""
    body = {"error": "HTTPException", "message": message, "code": code, "type": "client_error"}
    return body if data is None else {**body, "data": data}
