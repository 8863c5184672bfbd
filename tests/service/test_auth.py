"""Closed by default: who gets in, and every way of asking that does not."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request

from akashllm.server.app import create_app, routes
from akashllm.server.guard.auth import MESSAGE, is_public
from akashllm.server.settings import Settings
from akashllm.testing.engine import ScriptedEngine
from tests.service.support import KEY, Answer, Service, ask, exchange, parse, post, serving

# The chat page is one file without a secret: what it calls needs the key like any other client.
PUBLIC = {"/", "/health", "/livez", "/chat"}

CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":false}'


def get(
    path: str, *lines: str, host: str = "Host: 127.0.0.1", version: str = "1.1", method: str = "GET"
) -> bytes:
    """A request without a body, as bytes."""
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *([host] if host else []), *lines])
    return f"{head}\r\n\r\n".encode("latin-1")


def unauthorised(answer: Answer) -> bool:
    """Whether it is the one answer to a missing key."""
    return answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_every_route_has_a_decision() -> None:
    """Only the four public paths are open; whatever else the application serves, on any day, is not."""
    app = create_app(Settings(api_key=KEY, docs=True), ScriptedEngine())
    found = dict(routes(app))
    assert {path for path, endpoint in found.items() if is_public(endpoint)} == PUBLIC
    assert {"/api/chat", "/v1/chat/completions", "/openai/v1/models", "/metrics", "/openapi.json"} <= set(found)


def test_every_route_refuses_without_a_key(guarded: Service) -> None:
    """Every path the server has answers 401 in its dialect to a request without a key, whatever the method."""
    checked = 0
    for path, endpoint in routes(guarded.server.app):
        if path in PUBLIC:
            continue
        assert endpoint is not None, f"{path} is no route the guard sees"
        concrete = path.replace("{name:path}", "x").replace("{name}", "x").replace("{digest}", "x")
        for method in ("GET", "POST", "DELETE", "HEAD"):
            answer = ask(guarded.port, get(concrete, "Connection: close", method=method))
            assert answer.status in {401, 405}, (method, path, answer)
            checked += answer.status == 401
    assert checked >= 20


async def test_a_new_route_is_closed() -> None:
    """A route that somebody adds and forgets to think about asks for the key."""
    async with serving(api_key=KEY) as service:
        app: FastAPI = service.server.app

        @app.get("/forgotten")
        async def forgotten(request: Request) -> str:
            return "secret"

        async with service.client() as client:
            assert (await client.get("/forgotten")).status_code == 401
            assert (
                await client.get("/forgotten", headers={"Authorization": f"Bearer {KEY}"})
            ).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization:",),
        ("Authorization: Bearer",),
        ("Authorization: Bearer ",),
        ("Authorization: Bearer wrong-key-of-some-length",),
        (f"Authorization: Bearer {KEY[:-1]}",),
        (f"Authorization: Bearer {KEY}x",),
        (f"Authorization: Bearer {KEY.upper()}",),
        (f"Authorization: Bearer  {KEY}",),
        (f"Authorization: Bearer\t{KEY}",),
        (f"Authorization: Bearer{KEY}",),
        (f"Authorization: {KEY}",),
        (f"Authorization: Basic {KEY}",),
        ("Authorization: Bearer schl\u00fcssel-schl\u00fcssel",),
        (f"Authorization: Bearer {'k' * 20_000}",),
        (f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"),
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer other"),
        (f"Authorization: Bearer {KEY}", f"X-Api-Key: {KEY}"),
        ("X-Api-Key: wrong",),
        (f"Proxy-Authorization: Bearer {KEY}",),
        (f"Cookie: key={KEY}",),
    ],
)
def test_wrong_credentials_all_read_the_same(guarded: Service, lines: tuple[str, ...]) -> None:
    """No key, a wrong one and a malformed one get one and the same answer."""
    answer = ask(guarded.port, get("/api/tags", *lines))
    assert unauthorised(answer), (lines, answer)
    assert answer.json() == {"error": MESSAGE}


def test_a_huge_key_is_refused_with_the_headers(guarded: Service) -> None:
    """A key of a mebibyte never reaches the comparison."""
    answer = ask(guarded.port, get("/api/tags", f"Authorization: Bearer {'k' * (1 << 20)}"))
    assert answer.status == 431


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {KEY}",
        f"authorization: bearer {KEY}",
        f"AUTHORIZATION: BEARER {KEY}",
        f"x-api-key: {KEY}",
    ],
)
def test_the_key_opens(guarded: Service, line: str) -> None:
    """The key is taken as a bearer token, its scheme in any case, and as X-Api-Key."""
    assert ask(guarded.port, get("/api/tags", line)).status == 200


def test_a_key_in_the_query_is_no_key(guarded: Service) -> None:
    """A key in the URL ends up in logs, so it opens nothing."""
    for name in ("key", "api_key", "token", "access_token"):
        assert unauthorised(ask(guarded.port, get(f"/api/tags?{name}={KEY}")))


def test_refusals_speak_the_dialect_of_the_path(guarded: Service) -> None:
    """Under /v1 and /openai/v1 a refusal is OpenAI's object."""
    for path in ("/v1/models", "/openai/v1/models"):
        answer = ask(guarded.port, get(path))
        assert unauthorised(answer)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/metrics", host="Host: x/health?"),
        get("/metrics", host="Host: x/docs?"),
        get("/metrics", host="Host: x#"),
        get("/metrics", host="Host: x\\health"),
        get("/metrics", host="Host: 127.0.0.1/health?a="),
        get("/metrics", host="Host:"),
        get("/metrics", host="", version="1.0"),
        get("/metrics", host="Host: 127.0.0.1\r\nHost: health"),
        get("/metrics", "X-Forwarded-Host: x/health?", "X-Forwarded-Prefix: /health"),
        get("/metrics", "X-Original-URL: /health", "X-Rewrite-URL: /health"),
        get("/metrics", "X-HTTP-Method-Override: OPTIONS"),
        get("http://127.0.0.1/metrics"),
        get("http://127.0.0.1/health/../metrics"),
        get("/health/../metrics"),
        get("/health/%2e%2e/metrics"),
        get("//metrics"),
        get("/metrics/"),
        get("/METRICS"),
        get("/metrics;/health"),
        get("/metrics%2f"),
        get("/%2e/metrics"),
        get("/metrics?/health"),
        get("/metrics#/health"),
        get("*", method="OPTIONS"),
        get("/metrics", method="TRACE"),
        get("/metrics", method="OPTIONS"),
        get("/metrics", method="BREW"),
        get(
            "/metrics",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: eA==",
        ),
        post("//v1/chat/completions", CHAT, Authorization=""),
        post("/V1/chat/completions", CHAT, Authorization=""),
        post("/v1/chat/completions/", CHAT, Authorization=""),
        post("/v1/%2e%2e/api/chat", CHAT, Authorization=""),
        post("/api/chat", CHAT, Authorization="", X_Forwarded_For="127.0.0.1"),
    ],
)
def test_no_disguise_passes_the_guard(guarded: Service, request_bytes: bytes) -> None:
    """Hosts, forwarded headers, odd paths and odd methods open nothing, under either parser."""
    before = len(guarded.engine.requests)
    raw = exchange(guarded.port, request_bytes)
    assert raw.startswith(b"HTTP/1.1 ")
    answer = parse(raw)
    assert answer.status in {400, 401, 403, 404, 405}, answer
    assert b"akashllm_http_requests" not in answer.body
    assert len(guarded.engine.requests) == before


@pytest.mark.parametrize("path", ["http://x/metrics", "/metrics"])
@pytest.mark.parametrize("host", ["Host: x/health?", "Host: x/livez#", "Host: /", "Host: 127.0.0.1:80/health"])
async def test_a_bad_host_does_not_open_a_public_service(host: str, path: str) -> None:
    """On a public address no host is refused, and still the Host header does not choose the path."""
    async with serving(host="0.0.0.0", api_key=KEY) as service:
        reader, writer = await service.open()
        writer.write(get(path, host, "Connection: close", host=""))
        answer = parse(await reader.read())
        writer.close()
        await writer.wait_closed()
        assert answer.status in {400, 401, 404}


@pytest.mark.parametrize(
    "path",
    [
        "/invocations",
        "/pause",
        "/resume",
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/score",
        "/rerank",
        "/classify",
        "/abort_requests",
        "/update_weights",
        "/collective_rpc",
        "/load_lora_adapter",
        "/slots",
        "/props",
        "/completion",
        "/infill",
        "/apply-template",
        "/lora-adapters",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/debug/pprof",
        "/v1/load_lora_adapter",
        "/v1/internal",
        "/server_info",
    ],
)
def test_engines_own_paths_are_not_served(guarded: Service, path: str) -> None:
    """What engines serve beside the two dialects does not exist here, also with a key."""
    for request in (get(path, f"Authorization: Bearer {KEY}"), post(path, b"{}")):
        assert ask(guarded.port, request).status == 404


async def test_an_open_service_refuses_strange_hosts_and_pages() -> None:
    """Without a key on loopback, another site's page can neither rebind a name nor post across origins."""
    async with serving() as service, service.client() as client:
        for host in ("evil.example", "evil.example:11434", "8.8.8.8", "localhost.evil.example"):
            refused = await client.get("/api/tags", headers={"Host": host})
            assert refused.status_code == 403
            assert "Host" in refused.json()["error"]
        for host in (
            "localhost",
            "127.0.0.1:1",
            "my.localhost",
            "ollama.internal",
            "printer.local",
            "[::1]:11434",
        ):
            assert (await client.get("/api/tags", headers={"Host": host})).status_code == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            refused = await client.post("/api/chat", content=CHAT, headers={"Origin": origin})
            assert refused.status_code == 403
            assert "AKASHLLM_CORS_ORIGINS" in refused.json()["error"]
        assert service.engine.requests == []
        same = await client.post("/api/chat", content=CHAT, headers={"Origin": service.url})
        assert same.status_code == 200


async def test_no_cross_origin_by_default() -> None:
    """Unless origins are configured, no answer carries a CORS header and a preflight is refused."""
    async with serving(api_key=KEY) as service, service.client() as client:
        ask_first = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        preflight = await client.options("/api/chat", headers=ask_first)
        assert preflight.status_code == 405
        for response in (preflight, await client.get("/", headers={"Origin": "https://evil.example"})):
            assert not [name for name in response.headers if name.startswith("access-control")]


async def test_configured_origins_may_call() -> None:
    """A configured origin passes its preflight, with the Authorization header; any other does not."""
    good = "https://chat.example.org"
    async with serving(api_key=KEY, cors_origins=(good,)) as service, service.client() as client:
        ask_first = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        passed = await client.options("/v1/chat/completions", headers={"Origin": good, **ask_first})
        assert passed.status_code == 200
        assert passed.headers["access-control-allow-origin"] == good
        assert "access-control-allow-credentials" not in passed.headers
        refused = await client.options("/v1/chat/completions", headers={"Origin": "https://evil", **ask_first})
        assert "access-control-allow-origin" not in refused.headers
        assert (await client.get("/api/tags", headers={"Origin": good})).status_code == 401


@pytest.mark.parametrize(
    "names",
    [
        (
            "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
            "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
            "x-stainless-runtime-version,x-stainless-timeout,openai-organization,openai-project"
        ),
        "accept,authorization,content-type,user-agent",
    ],
)
async def test_a_configured_page_may_use_the_official_clients(names: str) -> None:
    """The headers that the npm packages openai and ollama send from a browser pass; others do not."""
    good = "https://chat.example.org"
    async with serving(api_key=KEY, cors_origins=(good,)) as service, service.client() as client:
        asked = {"Origin": good, "Access-Control-Request-Method": "POST"}
        for sent, status in ((names, 200), (f"{names},x-strange", 400)):
            headers = {**asked, "Access-Control-Request-Headers": sent}
            assert (await client.options("/v1/chat/completions", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models/tiny", "DELETE, GET, HEAD"),
        (f"/api/blobs/sha256:{'0' * 64}", "HEAD, POST"),
        ("/api/delete", "DELETE"),
        ("/api/tags", "GET, HEAD"),
        ("/openai/v1/chat/completions", "POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(path: str, methods: str) -> None:
    """405 lists every method of the path, also of one that several routes share (RFC 9110, 15.5.6)."""
    async with serving() as service, service.client() as client:
        refused = await client.put(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, methods)


async def test_what_can_be_read_answers_head() -> None:
    """Every path that answers GET answers HEAD with the same status and no body, as HTTP asks of servers."""
    async with serving(docs=True) as service, service.client() as client:
        checked = 0
        for path, _ in routes(service.server.app):
            concrete = path.replace("{name:path}", "tiny") + ("?silence=0.01" if path == "/probe" else "")
            shown = await client.get(concrete)
            if shown.status_code == 405:
                continue
            checked += 1
            head = await client.head(concrete)
            assert (head.status_code, head.content) == (shown.status_code, b""), concrete
        assert checked >= 15


@pytest.mark.parametrize("given", ["a" * 129, "a b", "x;y", "<script>", "caf\u00e9", ""])
def test_a_request_id_is_echoed_only_if_harmless(guarded: Service, given: str) -> None:
    """A safe id comes back on every response, errors included; any other is replaced."""
    for path in ("/", "/nope", "/api/tags", "/v1/nope"):
        good = ask(guarded.port, get(path, "X-Request-ID: abc-1.2_Z"))
        assert good.headers["x-request-id"] == "abc-1.2_Z"
        bad = ask(guarded.port, get(path, f"X-Request-ID: {given}"))
        assert bad.headers["x-request-id"] not in {given, ""}


def test_responses_cannot_be_split(guarded: Service) -> None:
    """Line breaks in a header or a field make no header of their own."""
    raw = exchange(guarded.port, get("/", "X-Request-ID: a\rSet-Cookie: b", "Connection: close"))
    assert b"set-cookie" not in raw.lower().partition(b"\r\n\r\n")[0]
    body = b'{"model":"x\\r\\nSet-Cookie: a=b","prompt":"hi"}'
    raw = exchange(guarded.port, post("/api/generate", body))
    assert b"\r\nset-cookie" not in raw.lower()
