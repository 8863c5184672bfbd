"""Bodies: every shape of JSON a client may send, and every way of sending too much."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.errors import BadRequest
from akashllm.server.guard.body import decode, survey
from akashllm.server.guard.dialect import Dialect
from akashllm.server.settings import Settings
from tests.service.support import BEARER, KEY, Service, ask, exchange, parse, post, response

DEFAULTS = Settings()
CAP = 4 * 1024 * 1024


def refused(body: bytes, dialect: Dialect = "openai", limits: Settings = DEFAULTS) -> str:
    """What the refusal of `body` says."""
    with pytest.raises(BadRequest) as caught:
        decode(body, dialect, limits)
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "missing request body"),
        (b" \r\n", "missing request body"),
        (b'{"model":', "unexpected EOF"),
        (b'{"model":"x', "unexpected EOF"),
        (b"{bad}", "invalid character 'b' in the JSON body: object keys must be strings (byte 1)"),
        (b'{"a":\x1b[31m}', "invalid character '\\x1b' in the JSON body: invalid character (byte 5)"),
    ],
)
def test_ollama_says_what_go_says(body: bytes, words: str) -> None:
    """Clients of Ollama look for Go's words; control bytes are not echoed as they are."""
    assert refused(body, "ollama") == words


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\x00"}',
        b'{"a":01}',
        b'{"a":+1}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a" 1}',
        b"nul",
        b'{"a":' + b"9" * 1_000_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":"' + b"\\" * 99_999 + b'"',
    ],
)
@pytest.mark.parametrize("dialect", ["ollama", "openai"])
def test_malformed_json_is_a_bad_request(body: bytes, dialect: Dialect) -> None:
    """What is no JSON, or JSON of numbers and strings that nothing can hold, is refused in words."""
    words = refused(body, dialect)
    assert 0 < len(words) < 300
    assert words.isprintable()


@pytest.mark.parametrize("dialect", ["ollama", "openai"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\ud83d", "\ufffd"),
        ("\\uDC00x", "\ufffdx"),
        ("\\ud83d\\ud83d\\ude00\\ude00", "\ufffd\U0001f600\ufffd"),
        ("\\\\ud83d \\ud83d\\n", "\\ud83d \ufffd\n"),
        ("\\\\\\ud83d", "\\\ufffd"),
    ],
)
def test_half_a_surrogate_pair_is_mended(text: str, expected: str, dialect: Dialect) -> None:
    """JavaScript sends half an emoji where a text was cut: it is U+FFFD, as in Go, and the rest is kept."""
    assert decode(b'{"a":"%s"}' % text.encode(), dialect, DEFAULTS) == {"a": expected}


@pytest.mark.parametrize("dialect", ["ollama", "openai"])
def test_another_encoding_is_named(dialect: Dialect) -> None:
    """A terminal that sends Latin-1 is told so."""
    assert "UTF-8 (byte 9)" in refused('{"a":"caf\xe9"}'.encode("latin-1"), dialect)


def test_only_the_first_value_counts_for_ollama() -> None:
    """Go's decoder stops after one value; OpenAI's dialect wants nothing after it."""
    assert decode(b'{"a":1} trailing', "ollama", DEFAULTS) == {"a": 1}
    assert decode(b' {"a":1}{"b":2}', "ollama", DEFAULTS) == {"a": 1}
    assert "trailing" in refused(b'{"a":1} trailing')


def test_the_last_of_two_keys_wins() -> None:
    """Duplicate keys are JSON; the last one counts, as in Go and Python."""
    assert decode(b'{"a":1,"a":2}', "ollama", DEFAULTS) == {"a": 2}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a":' * 65 + b"1" + b"}" * 65, "MAX_DEPTH"),
        (b"[" * 65 + b"]" * 65, "MAX_DEPTH"),
        (b"{" + b",".join(b'"k%d":1' % i for i in range(100_001)) + b"}", "MAX_KEYS"),
        (b"[" + b'"s",' * 200_001 + b"1]", "MAX_KEYS"),
        (b"[" + b"1," * 1_000_000 + b"1]", "MAX_VALUES"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "MAX_VALUES"),
    ],
)
def test_proportions_have_named_limits(body: bytes, words: str) -> None:
    """Depth, keys and values are counted before anything is built; the error names the setting."""
    assert f"AKASHLLM_{words}" in refused(body)


def test_fractions_have_a_limit() -> None:
    """Numbers that are slow to read are counted too, however they are written."""
    for number in (b"1.5", b"1e-300", b"12345678901234567890E-5"):
        assert "fractions" in refused(b"[" + (number + b",") * 10_001 + b"1]")
    assert len(decode(b"[" + b"1.5," * 5000 + b"1]", "openai", DEFAULTS)) == 5001


def test_what_stands_in_strings_does_not_count() -> None:
    """A prompt may hold any number of brackets, quotes, colons and commas."""
    text = ('{[":,\\' * 200_000) + '\\\\\\"'
    body = json.dumps({"prompt": text}).encode()
    assert decode(body, "openai", DEFAULTS) == {"prompt": text}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0


@given(_JSON, st.booleans())
@settings(deadline=None)
def test_the_survey_counts_depth_exactly(value: object, ascii_only: bool) -> None:
    """Whatever the strings hold, the scan finds the depth there is: one less is refused, as much is taken."""
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    depth = _depth(value)
    tight = Settings(max_depth=depth, max_keys=100, max_values=100)
    survey(body, tight)
    if depth:
        with pytest.raises(BadRequest):
            survey(body, Settings(max_depth=depth - 1, max_keys=100, max_values=100))


# --- over the wire -----------------------------------------------------------------------------------------


def test_no_content_type_is_needed(guarded: Service) -> None:
    """`curl -d` sends a form's type, and some clients send none."""
    body = b'{"MODEL":"tiny","Prompt":"hi","stream":false} and more'
    for kind in ("", "application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"):
        answer = ask(guarded.port, post("/api/generate", body, Content_Type=kind))
        assert answer.status == 200, answer
        assert answer.json()["response"] == "echo: hi"


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b"5", b"true", b"1.5"])
def test_the_top_level_is_an_object(guarded: Service, body: bytes) -> None:
    """A body of another kind is a 400 in the dialect's words."""
    answer = ask(guarded.port, post("/api/generate", body))
    assert answer.status == 400
    assert "into Go value of type api.GenerateRequest" in answer.json()["error"]
    answer = ask(guarded.port, post("/v1/chat/completions", body))
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_null_is_empty_for_ollama(guarded: Service) -> None:
    """Go reads `null` as an empty object: the first complaint is the missing model."""
    assert "not found" in ask(guarded.port, post("/api/generate", b"null")).json()["error"]
    assert ask(guarded.port, post("/v1/completions", b"null")).status == 400


def test_a_multipart_body_is_a_bad_request(guarded: Service) -> None:
    """No route takes forms; nothing parses one."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../etc/passwd"\r\n\r\nabc\r\n--x--\r\n'
    )
    answer = ask(
        guarded.port, post("/v1/chat/completions", body, Content_Type="multipart/form-data; boundary=x")
    )
    assert answer.status == 400


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, gzip", "x"])
def test_compressed_bodies_are_refused(guarded: Service, encoding: str) -> None:
    """Nothing is decompressed, so nothing can explode."""
    assert ask(guarded.port, post("/api/generate", b"\x1f\x8b", Content_Encoding=encoding)).status == 415


def test_a_declared_giant_is_refused_unread(guarded: Service) -> None:
    """A Content-Length over the cap is answered before a byte of the body has come."""
    head = post("/api/generate", b"", Content_Length=str(CAP + 1))
    answer = ask(guarded.port, head)
    assert answer.status == 413
    assert "AKASHLLM_MAX_BODY_BYTES" in answer.json()["error"]


def test_an_undeclared_giant_is_cut_off(guarded: Service) -> None:
    """A chunked body is read up to the cap and no further."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        connection.settimeout(10)
        while sent <= CAP:
            connection.sendall(piece)
            sent += 65536
        received = connection.recv(65536)
    assert parse(received).status == 413


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: -1\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0x10\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Content-Length: 99999999999999999999999\r\n",
    ],
)
def test_contradicting_lengths_are_refused(guarded: Service, lines: str) -> None:
    """A request whose length can be read in two ways never reaches a route."""
    before = len(guarded.engine.requests)
    head = f"POST /api/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n{lines}\r\n"
    body = b'2\r\n{}\r\n0\r\n\r\n{"model":"tiny","prompt":"smuggled"}'
    raw = exchange(guarded.port, head.encode() + body)
    assert parse(raw).status in {400, 413, 501}
    assert len(guarded.engine.requests) == before


def test_a_body_shorter_than_declared_times_out(guarded: Service) -> None:
    """A client that promises more than it sends is told so, and its connection ends."""
    answer = ask(guarded.port, post("/api/generate", b'{"model"', Content_Length="500"))
    assert answer.status == 408


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n", 431),
        (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            + b"".join(b"a%d:b\r\n" % i for i in range(10_000))
            + b"\r\n",
            431,
        ),
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
        (b"A" * (1 << 20), 414),
        (b"GET / HTTP/1.1\nHost: 127.0.0.1\nX-Big: " + b"a" * (1 << 20) + b"\n\n", 431),
    ],
)
def test_heads_have_a_size(guarded: Service, data: bytes, status: int) -> None:
    """A request line or headers that are too large are refused before they are parsed."""
    raw = exchange(guarded.port, data)
    assert parse(raw).status in {status, 400}
    assert ask(guarded.port, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status == 200


def test_many_requests_on_one_connection_are_weighed_one_by_one(guarded: Service) -> None:
    """The weight of a head does not carry over to the next request of a connection."""
    request = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Pad: " + b"a" * 8000 + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as connection:
        for _ in range(12):
            connection.sendall(request)
            assert response(connection).startswith(b"HTTP/1.1 200")


def test_slow_clients_are_closed_and_others_served(guarded: Service) -> None:
    """Connections that say nothing, or a byte now and then, end by time-out; others are served meanwhile."""
    slow = [socket.create_connection(("127.0.0.1", guarded.port), timeout=10) for _ in range(100)]
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            for connection in slow[50:]:
                try:
                    connection.send(b"G")
                except OSError:
                    continue

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert ask(guarded.port, b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status == 200
        for connection in slow:
            try:
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
    finally:
        stop.set()
        thread.join()
        for connection in slow:
            connection.close()


def test_a_flood_of_keys_does_not_block_the_others(guarded: Service) -> None:
    """While hostile bodies are refused, the service goes on answering."""
    body = b"{" + b",".join(b'"k%d":1' % i for i in range(200_000)) + b"}"
    worst = 0.0
    with httpx.Client(base_url=guarded.url, headers=BEARER, trust_env=False, timeout=20) as client:
        threads = [
            threading.Thread(target=lambda: exchange(guarded.port, post("/v1/chat/completions", body)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in range(20):
            began = time.perf_counter()
            assert client.get("/livez").status_code == 200
            worst = max(worst, time.perf_counter() - began)
        for thread in threads:
            thread.join()
    assert worst < 5


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Range: bytes=0-1", 200),
        ("If-None-Match: *", 200),
        ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x", 200),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13",
            200,
        ),
        ("Connection: keep-alive, authorization, close", 200),
    ],
)
def test_http_tricks_get_plain_answers(guarded: Service, lines: str, status: int) -> None:
    """Ranges, conditions, upgrades and hop-by-hop tricks change nothing."""
    raw = exchange(guarded.port, f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
    answer = parse(raw)
    assert (answer.status, answer.body) == (status, b"Ollama is running")


def test_expect_is_answered(guarded: Service) -> None:
    """A client that waits for 100 Continue gets it, and then its answer."""
    body = b'{"model":"tiny","prompt":"hi","stream":false}'
    head = post("/api/generate", body, Expect="100-continue")[: -len(body)]
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(guarded: Service) -> None:
    """Requests sent without waiting come back one after the other."""
    request = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: id-%d\r\n%s\r\n"
    data = b"".join(request % (i, b"Connection: close\r\n" if i == 4 else b"") for i in range(5))
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert [received.find(b"x-request-id: id-%d" % i) for i in range(5)] == sorted(
        received.find(b"x-request-id: id-%d" % i) for i in range(5)
    )
    assert received.count(b"HTTP/1.1 200") == 5
