"""The connection under logs, events and shell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from websockets.exceptions import InvalidStatus

from akashllm.errors import MarketError
from akashllm.market.base import Lease
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
