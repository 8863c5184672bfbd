"""An endpoint that keeps every promise, and breaks the one it is told to: the smoke test's sparring partner."""

from __future__ import annotations

import hashlib
import io
import json
import random
import socket
import ssl
import threading
import time
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

FAULTS = {
    "catch-all": "answers anything with 200 and `ok`",
    "html-404": "answers everything with a 404 page",
    "echo": "answers with the prompt",
    "no-auth": "asks for no key",
    "any-key": "accepts any key, but wants one",
    "only-ollama": "speaks Ollama's dialect alone",
    "only-openai": "speaks OpenAI's dialect alone",
    "no-models": "lists no models",
    "million-models": "lists far too many models",
    "lump": "buffers streams and sends them at once",
    "unfinished": "ends streams without their end mark",
    "no-json": "answers in words when JSON was asked",
    "no-schema": "answers with other JSON than the schema asks",
    "tool-words": "answers in words when a tool must be called",
    "tool-junk": "calls a tool with arguments that are no object",
    "tool-other": "calls a tool it was not given",
    "embed-drift": "gives another vector each time",
    "embed-dims": "gives vectors of different lengths",
    "embed-same": "gives the same vector for everything",
    "no-embed": "has no embeddings",
    "no-ears": "does not transcribe",
    "half-deaf": "hears the first half of a recording",
    "dice": "ignores the seed",
    "no-usage": "counts no tokens",
    "bad-sum": "counts tokens that do not add up",
    "cuts": "cuts an overlong prompt silently",
    "413": "refuses bodies over 1 MiB",
    "reset": "drops the connection on bodies over 1 MiB",
    "silence": "is cut when nothing was sent for a second",
    "redirect": "sends everyone elsewhere",
    "escapes": "puts terminal escapes into its answers",
    "endless": "never ends a reply",
    "drip": "sends a byte now and then, for ever",
    "wrong-answer": "does not know the capital of France",
    "not-an-object": "answers with JSON that is a list",
}
"""What can be broken, and how it looks from outside."""

CONTEXT = 512
KEY = "sk-of-the-scripted-endpoint"


class ScriptedEndpoint:
    """A server on loopback, in a thread. A context manager; `url` is its address.

    Args:
        faults: names from `FAULTS`.
        certificate: a PEM file with key and certificate for https.
    """

    def __init__(self, *faults: str, certificate: Path | None = None) -> None:
        unknown = set(faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"no such fault: {unknown}")
        self.faults = frozenset(faults)
        self.authorizations: list[str | None] = []
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"endpoint": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: ClassVar[ScriptedEndpoint]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""

    def has(self, fault: str) -> bool:
        return fault in self.endpoint.faults

    def reply(self, status: int, value: object, kind: str = "application/json") -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        if self.path.startswith("/v1"):
            self.reply(
                status,
                {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}},
            )
        else:
            self.reply(status, {"error": message})

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > 2**20 and self.has("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
            return
        data = self.rfile.read(length)
        if length > 2**20 and self.has("413"):
            self.reply(413, b"<html>Request Entity Too Large</html>", "text/html")
            return
        form = self.headers.get("Content-Type", "").startswith("multipart/")
        self.answer({"form": data} if form else json.loads(data))

    def answer(self, request: dict[str, Any]) -> None:
        self.endpoint.authorizations.append(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if self.has("catch-all"):
            self.reply(200, b"ok", "text/plain")
        elif self.has("html-404"):
            self.reply(404, b"<html>not here</html>", "text/html")
        elif self.has("redirect"):
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.has("endless") and path != "/":
            self.endless(b" " * 65_536, 0)
        elif self.has("drip") and path != "/":
            self.endless(b" ", 0.05)
        elif path == "/":
            self.reply(200, b"Ollama is running", "text/plain")
        elif not self.allowed():
            self.refuse(401, "a key is needed")
        elif (self.has("only-ollama") and path.startswith("/v1")) or (
            self.has("only-openai") and path.startswith("/api")
        ):
            self.reply(404, b"404 page not found", "text/plain")
        elif self.has("not-an-object") and self.command == "POST":
            self.reply(200, [1, 2, 3])
        else:
            self.route(path, request)

    def allowed(self) -> bool:
        key = self.headers.get("Authorization")
        return self.has("no-auth") or (bool(key) if self.has("any-key") else key == f"Bearer {KEY}")

    def endless(self, data: bytes, pause: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.endpoint.closing.wait(pause):
                self.wfile.write(data)
        except OSError:
            return

    def route(self, path: str, request: dict[str, Any]) -> None:
        names = [] if self.has("no-models") else ["tiny:latest"]
        if self.has("million-models"):
            names = [f"m{i}" for i in range(400_000)]
        if path == "/v1/models":
            data = [
                {"id": n, "object": "model", "created": 1, "owned_by": "library", "max_model_len": CONTEXT}
                for n in names
            ]
            self.reply(200, {"object": "list", "data": data})
        elif path == "/api/tags":
            self.reply(200, {"models": [{"name": n, "model": n} for n in names]})
        elif path == "/api/ps":
            self.reply(200, {"models": [{"name": n, "model": n, "context_length": CONTEXT} for n in names]})
        elif path == "/probe":
            self.probe()
        elif path in {"/v1/embeddings", "/api/embed"}:
            self.embed(request)
        elif path == "/v1/audio/transcriptions" and not self.has("no-ears"):
            self.hear(request["form"])
        elif path in {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"}:
            self.chat(path, request)
        else:
            self.reply(404, b"404 page not found", "text/plain")

    def hear(self, form: bytes) -> None:
        with wave.open(io.BytesIO(form[form.index(b"RIFF") :])) as sound:
            seconds = sound.getnframes() / sound.getframerate()
        if self.has("half-deaf"):
            seconds /= 2
        self.reply(200, {"task": "transcribe", "text": "A tone.", "duration": seconds, "language": "english"})

    def probe(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.has("silence"):
            return
        for _ in range(3):
            self.wfile.write(b" ")
            self.endpoint.closing.wait(0.01)
        self.wfile.write(b'{"silence": 3}')

    def embed(self, request: dict[str, Any]) -> None:
        if self.has("no-embed"):
            self.refuse(400, '"tiny" does not support embeddings')
            return
        vectors = []
        for index, text in enumerate(request["input"]):
            salt = str(random.random()) if self.has("embed-drift") else ""  # noqa: S311 - not a secret
            seed = "same" if self.has("embed-same") else text + salt
            size = 8 + index if self.has("embed-dims") else 8
            vectors.append([b / 255 - 0.5 for b in hashlib.sha256(seed.encode()).digest()[:size]])
        if self.path.startswith("/v1"):
            data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
            self.reply(
                200,
                {
                    "object": "list",
                    "data": data,
                    "model": "tiny",
                    "usage": {"prompt_tokens": 3, "total_tokens": 3},
                },
            )
        else:
            self.reply(200, {"model": "tiny", "embeddings": vectors})

    def chat(self, path: str, request: dict[str, Any]) -> None:
        prompt = request.get("prompt") or request["messages"][-1]["content"]
        limit = request.get("max_tokens") or request.get("options", {}).get("num_predict", 64)
        words = len(prompt.split())
        if words > CONTEXT and not self.has("cuts"):
            self.refuse(400, f"the prompt has {words} tokens and the context window is {CONTEXT} tokens")
            return
        call = None
        if request.get("tools") and not self.has("tool-words"):
            call = (
                "other" if self.has("tool-other") else "get_weather",
                "Paris" if self.has("tool-junk") else {"city": "Paris"},
            )
        pieces = [] if call else self.words(prompt, request)[:limit]
        finish = "length" if len(pieces) == limit else "stop"
        if path.startswith("/v1"):
            self.openai(path, request, pieces, finish, call, words)
        else:
            self.ollama(path, request, pieces, finish, call, words)

    def words(self, prompt: str, request: dict[str, Any]) -> list[str]:
        shape = request.get("format") or request.get("response_format", {}).get("type")
        options = request.get("options", request)
        if self.has("echo"):
            text = prompt
        elif shape and not self.has("no-json"):
            value = {"nom": "Li Hua"} if self.has("no-schema") else {"name": "Li Hua", "age": 33}
            text = json.dumps(value)
        elif self.has("escapes"):
            text = "\x1b]0;owned\x07 [red]Paris[/red] \u202e\x1b[2J"
        elif "Count" in prompt:
            text = " ".join(str(i) for i in range(1, 21))
        elif "story" in prompt:
            dice = random.random() if self.has("dice") else options.get("seed")  # noqa: S311 - not a secret
            text = f"Once upon a time there were {dice} llamas."
        elif "capital" in prompt:
            text = "I do not know." if self.has("wrong-answer") else "The capital of France is Paris."
        else:
            text = "15"
        return [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]

    def stream(self, kind: str, chunks: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if self.has("unfinished"):
            chunks = chunks[:-1]
        if self.has("lump"):
            chunks = [b"".join(chunks)]
        for chunk in chunks:
            self.wfile.write(chunk)
            time.sleep(0.002)

    def openai(
        self, path: str, request: dict[str, Any], pieces: list[str], finish: str, call: Any, words: int
    ) -> None:
        total = words + len(pieces) + (7 if self.has("bad-sum") else 0)
        usage = {"prompt_tokens": words, "completion_tokens": len(pieces), "total_tokens": total}
        usage = {} if self.has("no-usage") else usage
        head: dict[str, Any] = {"id": "x", "created": 1, "model": "tiny"}
        if request.get("stream"):
            chunks: list[dict[str, Any]] = [
                {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
                for piece in pieces
            ]
            chunks += [
                {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
                {"choices": [], "usage": usage},
            ]
            frames = [b"data: " + json.dumps(head | chunk).encode() + b"\n\n" for chunk in chunks]
            self.stream("text/event-stream", [*frames, b"data: [DONE]\n\n"])
            return
        message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
        if call:
            function = {"name": call[0], "arguments": json.dumps(call[1])}
            message |= {
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            }
            finish = "tool_calls"
        part = {"text": "".join(pieces)} if path == "/v1/completions" else {"message": message}
        self.reply(200, head | {"choices": [{"index": 0, "finish_reason": finish} | part], "usage": usage})

    def ollama(
        self, path: str, request: dict[str, Any], pieces: list[str], finish: str, call: Any, words: int
    ) -> None:
        counts = {} if self.has("no-usage") else {"prompt_eval_count": words, "eval_count": len(pieces)}
        last: dict[str, Any] = {"model": "tiny", "done": True, "done_reason": finish} | counts
        if request.get("stream"):
            lines: list[dict[str, Any]] = [
                {"message": {"role": "assistant", "content": p}, "done": False} for p in pieces
            ]
            lines.append(last | {"message": {"role": "assistant", "content": ""}})
            self.stream("application/x-ndjson", [json.dumps(line).encode() + b"\n" for line in lines])
            return
        if path == "/api/generate":
            self.reply(200, last | {"response": "".join(pieces)})
            return
        message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
        if call:
            message["tool_calls"] = [{"function": {"name": call[0], "arguments": call[1]}}]
        self.reply(200, last | {"message": message})
