"""Running the service: the socket, the server, the signals, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from akashllm.errors import AkashllmError, MissingExtra, UsageError
from akashllm.server import logs, vllm
from akashllm.server.app import create_app
from akashllm.server.building import Files
from akashllm.server.connection import patient
from akashllm.server.domain import ModelInfo
from akashllm.server.engine import Engine, Transcriber
from akashllm.server.engines.fetched import FetchedEngine, FetchedTranscriber
from akashllm.server.fetching import fetched, weights_for, weights_of
from akashllm.server.fleet import configured_model, make_builder, read_settings
from akashllm.server.hearing import served_name
from akashllm.server.models.weights import Choice, HubWeights
from akashllm.server.models.whispers import WEIGHTS
from akashllm.server.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

_AUTO = "auto"
_BACKLOG = 512
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SECRETS = ("API_KEY", "ADMIN_KEY", "UPSTREAM_API_KEY", "REGISTRY_AUTH")


def main() -> int:
    """Serve as the environment says; 0 after a signal, 2 if the settings are not usable."""
    try:
        settings = read_settings(os.environ)
        for name in (*(PREFIX + name for name in _SECRETS), "HF_TOKEN"):
            os.environ.pop(name, None)
        serve(settings)
    except AkashllmError as error:
        sys.stderr.write(f"akashllm: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    return 0


def serve(settings: Settings, *, started: Callable[[str], None] | None = None) -> None:
    """Serve until a signal comes. `started` is called with the URL once the port answers.

    Raises `UsageError` if the model's file or the address cannot be had, `MissingExtra` if the engine cannot.
    """
    logs.configure(settings)
    engine = build_engine(settings)
    listener = listen(settings.host, settings.port)
    try:
        server = Server(settings, engine, transcriber=build_transcriber(settings))
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.until_stopped(listener, started))
    finally:
        listener.close()


def build_engine(settings: Settings) -> Engine:
    """The engine the settings name, not loaded yet."""
    if settings.engine in {"ollama", "upstream"}:
        return _build_remote(settings)
    if settings.engine == "whisper":
        return _build_whisper(settings, settings.weights or settings.model, settings.served_name)
    if settings.engine == "vllm":
        kind = FetchedTranscriber if settings.task == "transcribe" else FetchedEngine
        coming = fetched(settings, partial(vllm.build, settings), name="vllm", choice="folder", kind=kind)
        return coming or vllm.build_local(settings)
    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingExtra(
            "the llama.cpp engine is not installed", hint="install it: pip install 'akashllm[llamacpp]'"
        )
    described = configured_model(settings)
    if described is not None:
        return described.build()

    def build(path: Path) -> Engine:
        files = Files(weights=path, projector=_projector(settings))
        return make_builder(settings).engine(settings.served_name, files)

    engine = fetched(settings, build, name="llamacpp", choice=_llamacpp_choice(settings))
    if engine is None and not settings.model_file.is_file():
        raise UsageError(
            f"there is no model file at {settings.model_file}",
            hint=f"set {PREFIX}MODEL to the path of a GGUF file, or to tiny for the bundled model",
        )
    return engine or build(settings.model_file)


def _llamacpp_choice(settings: Settings) -> Choice:
    return "vision" if settings.projector == _AUTO else "gguf"


def _projector(settings: Settings) -> Path | None:
    """The file that turns images into tokens, if the model is to have one. Raises `UsageError` without it."""
    if settings.projector == _AUTO:
        weights = weights_for(settings, choice="vision")
        return weights.projector() if isinstance(weights, HubWeights) else None
    path = Path(settings.projector) if settings.projector else None
    if path is not None and not path.is_file():
        raise UsageError(
            f"there is no projector at {path}", hint=f"set {PREFIX}PROJECTOR to the path of a GGUF file"
        )
    return path


def build_transcriber(settings: Settings) -> Transcriber | None:
    """The engine for speech beside the other one, if the settings name a model for it."""
    if not settings.transcribe_model:
        return None
    return _build_whisper(settings, settings.transcribe_model, served_name(settings))


def _build_whisper(settings: Settings, model: str, name: str) -> Transcriber:
    if importlib.util.find_spec("faster_whisper") is None:
        raise MissingExtra(
            "the Whisper engine is not installed", hint="install it: pip install 'akashllm[whisper]'"
        )
    from akashllm.server.engines.whisper.engine import WhisperEngine

    def build(folder: Path) -> Transcriber:
        return WhisperEngine(str(folder), name=name, threads=settings.threads, gpu_layers=settings.gpu_layers)

    weights = weights_of(model, settings, choice="whisper")
    if weights is not None:
        info = ModelInfo(name=name, format="ctranslate2", family="whisper", capabilities=("transcription",))
        return FetchedTranscriber(weights, build, name="whisper", info=info)
    if not (Path(model) / WEIGHTS).is_file():
        raise UsageError(
            f"there is no Whisper in CTranslate2's format in the folder {model}",
            hint="name a folder with model.bin, a repository such as Systran/faster-whisper-small, or a size",
        )
    return build(Path(model))


def _build_remote(settings: Settings) -> Engine:
    """An engine that speaks HTTP with another server."""
    if importlib.util.find_spec("httpx") is None:
        raise MissingExtra(
            "the HTTP client is not installed", hint="install it: pip install 'akashllm[server]'"
        )
    from akashllm.server.engines.ollama.engine import OllamaEngine
    from akashllm.server.engines.upstream.engine import UpstreamEngine

    if settings.engine == "ollama":
        return OllamaEngine(
            settings.model,
            name=settings.served_name,
            binary=settings.ollama_binary,
            models=settings.ollama_models,
            context=settings.context,
            slots=settings.concurrency,
        )
    return UpstreamEngine(
        settings.upstream_url,
        name=settings.served_name,
        model=settings.upstream_model or ("" if settings.model == "tiny" else settings.model),
        key=settings.upstream_api_key,
        dialect=settings.upstream_dialect,
        context=settings.context,
        slots=settings.concurrency,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `UsageError` if the address is taken or not this machine's."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        # The protocol is named because asyncio sets TCP_NODELAY only where it is: without, a small answer
        # waits 40 ms for the client's acknowledgement.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            opened.bind(address)
            opened.listen(_BACKLOG)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint=f"another service may have the port; choose one with {PREFIX}PORT",
        ) from error
    return opened


class Server(uvicorn.Server):
    """uvicorn with our signals.

    uvicorn raises a caught SIGTERM again after it has served, which ends the process before an engine is
    closed; here a signal only asks for the end, and the end comes after the engine's.
    """

    def __init__(
        self, settings: Settings, engine: Engine, *, transcriber: Transcriber | None = None, pure: bool = False
    ) -> None:
        self.app: FastAPI = create_app(settings, engine, transcriber)
        self._url = ""
        self._announce: Callable[[str], None] | None = None
        super().__init__(
            uvicorn.Config(
                self.app,
                http=patient(settings.header_timeout, settings.max_header_bytes, pure=pure),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=math.ceil(settings.idle_timeout),
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
                h11_max_incomplete_event_size=settings.max_header_bytes * 2,
            )
        )

    async def until_stopped(
        self, listener: socket.socket, started: Callable[[str], None] | None = None
    ) -> None:
        """Serve on `listener` until a signal or `should_exit`, then close the engine whatever happened."""
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._url, self._announce = url, started
        try:
            await self.serve(sockets=[listener])
        finally:
            await self.app.state.runtime.close()
            logger.info("stopped")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and say so."""
        await super().startup(sockets)
        logger.info("listening on %s", self._url)
        if self._announce is not None:
            self._announce(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let requests finish for a while, end the rest with an error in their dialect."""
        self.app.state.stopping = True
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal asks for an orderly end, the second for one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _STOPPING:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in _STOPPING:
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if self.should_exit:
            logger.warning("%s again: stopping at once", number.name)
            self.force_exit = True
            return
        logger.info("%s: finishing the requests that run", number.name)
        self.should_exit = True
