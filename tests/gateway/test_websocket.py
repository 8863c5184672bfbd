"""The connection under logs, events and shell."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from akashllm.errors import MarketError
from akashllm.market.base import Lease
from akashllm.market.gateway_shell import GatewaySession
from akashllm.market.websocket import websocket

from .conftest import PROVIDER, MakePlace


def test_connections_of_a_crowd_all_open_and_end_as_told(make_place: MakePlace) -> None:
    """Reading and writing never meet inside TLS: no handshake breaks under load, no close code is lost."""
    place = make_place()
    client = place.client()

    def ask(_: int) -> str:
        with pytest.raises(MarketError) as told:
            list(client.logs(Lease(dseq="1", provider=PROVIDER)))
        return str(told.value)

    with ThreadPoolExecutor(8) as crowd:
        assert set(crowd.map(ask, range(120))) == {
            f"the provider does not know this lease (provider {PROVIDER})"
        }


def test_a_connection_that_has_ended_needs_no_watching(make_place: MakePlace) -> None:
    """A peer that is gone before the system was asked to watch it is told as one that went later."""
    place = make_place()
    client = place.client()
    uri = f"wss{place.gateway.host_uri.removeprefix('https')}/lease/1/1/1/logs"
    headers = {"Authorization": f"Bearer {client.token(['logs'])}"}
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    with websocket(uri, ssl=unchecked, additional_headers=headers, proxy=None) as connection:
        with pytest.raises(ConnectionClosedError):
            list(connection)
        GatewaySession(connection).watch()


def test_a_redirect_takes_the_token_nowhere() -> None:
    """It is an answer like any other that is no WebSocket: nobody else is asked."""
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever).start()
        try:
            with (
                pytest.raises(InvalidStatus, match="302"),
                websocket(f"ws://127.0.0.1:{server.server_port}/here", proxy=None),
            ):
                pass
        finally:
            server.shutdown()
    assert asked == ["/here"]
