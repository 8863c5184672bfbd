"""The client: what is sent again, what never is, where the key goes, and how loosely answers are read."""

from __future__ import annotations

import os
import pickle
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.errors import AkashllmError, KeyRefused, MarketError, MarketUnavailable, StateError, UsageError
from akashllm.market.console_http import ConsoleHttp, checked_base
from akashllm.market.console_key import ApiKey, find_key, forget_key, keep_key
from akashllm.market.console_read import address_of, bids_of, deployment_of, manifest_of, reason_of
from akashllm.state import Home
from akashllm.testing.certificates import self_signed
from tests.market.scripted import Ticking

from .conftest import CANARY


class Scripted(BaseHTTPRequestHandler):
    """Answers from a list, the last one for ever; remembers what it got."""

    replies: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    got: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        """The next reply."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        Scripted.got.append((f"{self.command} {self.path}", dict(self.headers)))
        status, headers, body = Scripted.replies.pop(0) if len(Scripted.replies) > 1 else Scripted.replies[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the library's names

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def base() -> Iterator[str]:
    """The server's address."""
    Scripted.got.clear()
    with HTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def clock() -> Ticking:
    """Time that passes when somebody sleeps."""
    return Ticking()


@pytest.fixture
def http(base: str, clock: Ticking) -> Iterator[ConsoleHttp]:
    """A client of it."""
    client = ConsoleHttp(ApiKey(CANARY), base=base, clock=clock, patience=(5, 5), chance=lambda: 0.5)
    yield client
    client.close()


Reply = tuple[int, dict[str, str], bytes]

GOOD: Reply = (200, {}, b'{"data": 1}')
BUSY: Reply = (503, {}, b'{"message": "busy"}')


@pytest.mark.parametrize("method", ["get", "put", "delete", "ask"])
def test_what_is_idempotent_is_sent_again(http: ConsoleHttp, clock: Ticking, method: str) -> None:
    """Three faults that pass, and the fourth answer counts; the waits double."""
    Scripted.replies = [BUSY, (429, {}, b""), (200, {}, b"{"), GOOD]
    arguments: tuple[Any, ...] = ({},) if method in {"put", "ask"} else ()

    assert getattr(http, method)("/v1/x", *arguments) == {"data": 1}
    assert (len(Scripted.got), clock.now) == (4, 1 + 2 + 4)


def test_a_change_is_sent_once(http: ConsoleHttp, clock: Ticking) -> None:
    """POST is never repeated, whatever comes of it."""
    Scripted.replies = [BUSY]
    with pytest.raises(MarketUnavailable) as caught:
        http.post("/v1/x", {})

    assert (len(Scripted.got), clock.now, caught.value.acted) == (1, 0, None)
    assert type(caught.value) is MarketUnavailable


@pytest.mark.parametrize("status", [408, 425])
def test_a_request_that_was_given_up_may_pass(http: ConsoleHttp, status: int) -> None:
    """A proxy that lost patience says nothing of what became of a change; a read is sent again."""
    Scripted.replies = [(status, {}, b""), GOOD]
    assert http.get("/v1/x") == {"data": 1}

    Scripted.replies = [(status, {}, b"")]
    with pytest.raises(MarketUnavailable) as caught:
        http.post("/v1/x", {})
    assert caught.value.acted is None


@pytest.mark.parametrize(("trusted", "days"), [(True, 365), (False, 365), (False, -1)])
def test_only_a_certificate_that_is_not_valid_proves_that_nothing_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, days: int
) -> None:
    """A record that breaks after the request was read leaves open what became of it; dates mean the clock."""
    made = self_signed("console", address="127.0.0.1", days=days)
    files = [tmp_path / "certificate.pem", tmp_path / "key.pem"]
    files[0].write_bytes(made.pem)
    files[1].write_bytes(made.key)
    if trusted or days < 0:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[0], files[1])
    asked: list[bytes] = []

    def answer(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with suppress(ssl.SSLError), context.wrap_socket(plain, server_side=True) as secure:
            asked.append(secure.recv(1 << 16))
            # A record of application data that no key has made.
            os.write(secure.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        client = ConsoleHttp(ApiKey(CANARY), base=f"https://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(MarketError) as caught:
            client.post("/v1/deployments", {})
        client.close()
        thread.join()

    assert bool(asked) is trusted
    if trusted:
        assert isinstance(caught.value, MarketUnavailable)
        assert caught.value.acted is None
    else:
        assert "certificate is not valid" in caught.value.message
        assert ("set its clock" in caught.value.hint) is (days < 0)
        assert not isinstance(caught.value, MarketUnavailable)


@pytest.mark.parametrize(("header", "waited"), [("7", 7), ("9999", 30), ("soon", 1)])
def test_retry_after_is_honoured_up_to_a_bound(
    http: ConsoleHttp, clock: Ticking, header: str, waited: float
) -> None:
    """The market's own wait goes before ours; nobody waits for ever."""
    Scripted.replies = [(429, {"Retry-After": header}, b""), GOOD]
    http.get("/v1/x")

    assert clock.now == waited


def test_a_redirect_does_not_get_the_key(http: ConsoleHttp, base: str) -> None:
    """Console's key goes to Console's address only."""
    Scripted.replies = [(302, {"Location": f"{base}/elsewhere"}, b"")]
    with pytest.raises(MarketError, match="the key was not sent there"):
        http.get("/v1/x")

    assert [call for call, _ in Scripted.got] == ["GET /v1/x"]


def test_the_key_goes_alone(http: ConsoleHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc of the user's adds no second credential, which Console refuses; public calls carry no key."""
    netrc = tmp_path / "netrc"
    netrc.touch(0o600)
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    Scripted.replies = [GOOD]
    http.get("/v1/x")
    http.get("/v1/y", key=False)

    (_, first), (_, second) = Scripted.got
    assert first["x-api-key"] == CANARY
    assert "Authorization" not in first
    assert "x-api-key" not in second
    assert "Authorization" not in second


def test_a_reply_without_end_is_not_read_for_ever(http: ConsoleHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than any answer has is nonsense."""
    monkeypatch.setattr("akashllm.market.console_http.MAX_BYTES", 1000)
    Scripted.replies = [(200, {}, b" " * 200_000 + b"{}")]
    with pytest.raises(MarketUnavailable, match="cannot be read"):
        http.post("/v1/x", {})


@pytest.mark.parametrize(
    "url", ["http://console.example", "https://me:secret@console.example", "ftp://x", "https://x/?k=1", ""]
)
def test_a_key_is_not_sent_to_just_any_address(url: str) -> None:
    """Plain http is for loopback, and an address holds no credentials."""
    with pytest.raises(UsageError) as caught:
        checked_base(url)

    assert "secret" not in str(caught.value)


def test_without_a_key_nothing_is_sent(base: str) -> None:
    """A call that needs a key is refused here, with the way to get one."""
    client = ConsoleHttp(None, base=base)
    with pytest.raises(KeyRefused, match="no API key") as caught:
        client.get("/v1/balances")

    assert "akashllm login" in caught.value.hint
    assert Scripted.got == []


@pytest.mark.parametrize("text", ["", " ", "two words", "two\nlines", "x" * 600, "kéy"])
def test_what_is_no_key_is_refused_unseen(text: str) -> None:
    """The message does not repeat it."""
    with pytest.raises(KeyRefused) as caught:
        ApiKey(text)

    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_key_shows_itself_to_nobody() -> None:
    """Not by repr, str, format or pickle."""
    key = ApiKey(CANARY)

    assert CANARY not in f"{key} {key!r} {key!s} {[key]}"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_where_a_key_comes_from(tmp_path: Path) -> None:
    """The environment first, then a file that it names, then what login kept; never a file others can read."""
    home = Home(tmp_path / "home")
    assert find_key(home, {}) is None
    path = keep_key(home, ApiKey("kept-key-00"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = tmp_path / "file"
    file.touch(0o600)
    file.write_text("file-key-00\n")

    def found(**environ: str) -> str:
        key = find_key(home, environ)
        return key.secret() if key else ""

    assert found() == "kept-key-00"
    assert found(AKASH_CONSOLE_API_KEY_FILE=str(file)) == "file-key-00"
    assert found(AKASH_CONSOLE_API_KEY="env-key-00", AKASH_CONSOLE_API_KEY_FILE=str(file)) == "env-key-00"
    file.chmod(0o644)
    with pytest.raises(StateError, match="other users"):
        found(AKASH_CONSOLE_API_KEY_FILE=str(file))
    assert (forget_key(home), forget_key(home), find_key(home, {})) == (True, False, None)


def lease(**status: Any) -> dict[str, Any]:
    """A lease with a status."""
    return {"id": {"provider": "akash1a"}, "state": "active", "status": status}


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("abc.ingress.example", "https://abc.ingress.example"),
        ("https://abc.example/", "https://abc.example"),
        ("abc.example:8443", "https://abc.example:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://abc.example", None),
        ("https://user:pw@abc.example", None),
        ("abc.example/path", None),
        ("javascript:alert(1)", None),
        ("abc\x1b[31m.example", None),
        ("", None),
    ],
)
def test_a_providers_address_is_taken_with_care(uri: str, url: str | None) -> None:
    """A bare host speaks https; anything with more in it than a host and a port is no address."""
    services = {"llm": {"uris": [uri], "available": 1}}
    read = deployment_of(
        {"deployment": {"id": {"dseq": 5}, "state": "active"}, "leases": [lease(services=services)]}, ""
    )

    assert read.lease is not None
    assert address_of(read.lease) == url


def test_a_forwarded_port_is_an_address_too() -> None:
    """Where a port is no ingress, the provider's host and a random port."""
    ports = {"llm": [{"port": 8000, "externalPort": 31234, "host": "provider.example"}]}
    read = deployment_of(
        {
            "deployment": {"id": {"dseq": "5"}, "state": "active"},
            "leases": [lease(services={}, forwarded_ports=ports)],
        },
        "",
    )

    assert read.lease is not None
    assert address_of(read.lease) == "http://provider.example:31234"


@pytest.mark.parametrize(
    ("amount", "read"),
    [
        ("1.500000000000000000", "1.5"),
        (2, "2"),
        ("1e18", "1E+18"),
        ("NaN", None),
        ("1e999999", None),
        (None, None),
        (True, None),
    ],
)
def test_a_price_is_text_or_a_number(amount: Any, read: str | None) -> None:
    """Exact, however it is spelt; a bid without a price is left out."""
    bid = {"id": {"provider": "akash1a"}, "state": "open", "price": {"denom": "uact", "amount": amount}}

    assert [str(one.amount) for one in bids_of([{"bid": bid}])] == ([] if read is None else [read])


def test_why_a_lease_ended_is_told_in_words() -> None:
    """Known reasons in our words, new ones in the market's."""
    for reason, words in (
        ("lease_closed_reason_unstable", "gave up"),
        ("lease_closed_reason_insufficient_funds", "used up"),
        ("lease_closed_reason_new_thing", "new thing"),
        ("", "is closed"),
    ):
        closed = {"id": {"provider": "akash1a"}, "state": "closed", "reason": reason}
        read = deployment_of({"deployment": {"id": {"dseq": "5"}, "state": "active"}, "leases": [closed]}, "")
        assert read.lease is not None
        assert words in reason_of(read.lease)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "deployment",
                    "id",
                    "dseq",
                    "state",
                    "leases",
                    "price",
                    "amount",
                    "status",
                    "services",
                    "uris",
                    "bid",
                    "provider",
                    "escrow_account",
                    "funds",
                    "denom",
                    "name",
                    "hash",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_answer_is_read_or_refused(value: Any) -> None:
    """No shape of JSON makes the readers fail in any other way than by saying so."""
    list(bids_of(value))
    manifest_of(value)
    try:
        read = deployment_of(value, "GET")
    except AkashllmError as error:
        assert error.hint  # noqa: PT017 - either outcome is right
        return
    assert read.dseq.isdigit()
    if read.lease is not None:
        address_of(read.lease)
        reason_of(read.lease)
    assert all(isinstance(amount, Decimal) for amount in read.funds.values())
    assert read.hours is None or isinstance(read.hours, float)
