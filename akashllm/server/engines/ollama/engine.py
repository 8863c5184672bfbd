"""Ollama itself as an engine: its `serve` as a supervised child, its model pulled at the start.

Tested with stand-ins for the program: this service over llama.cpp, which speaks the same API, and a scripted
server with Ollama's documented ways (tool calls in the last line, errors in the middle of a stream, answers
without a last line, errors as plain strings). Ollama's own program was not at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import Any

import msgspec

from akashllm.errors import EngineDied, EngineFailed, ServiceError
from akashllm.server.engines.ollama.process import OllamaProcess
from akashllm.server.engines.supervisor import BACK_OFF, START_UP
from akashllm.server.engines.upstream.engine import UpstreamEngine
from akashllm.server.engines.upstream.link import Unreachable, objects
from akashllm.server.engines.upstream.presence import GivenUp

_PULLS = 3
"""Times a pull is tried: Ollama goes on where it stopped."""

_HOPELESS = ("does not exist", "not found", "invalid model name", "no space left", "newer version", "denied")
"""Words of a failed pull that say another one would fail as well."""


class OllamaEngine(UpstreamEngine):
    """Implements `akashllm.server.engine.Engine` with Ollama behind it.

    model    a name of Ollama's library (`llama3.2:1b`) or of a repository (`hf.co/user/repo:Q4_K_M`)
    binary   the program;  models: the folder of its models, empty for its own default
    context  tokens of the model's context; 0: Ollama decides
    """

    def __init__(
        self,
        model: str,
        *,
        name: str,
        binary: str = "ollama",
        models: str = "",
        context: int = 0,
        slots: int = 8,
        interval: float = 10.0,
    ) -> None:
        super().__init__(
            "http://127.0.0.1:0",
            name=name,
            model=model,
            dialect="ollama",
            context=context,
            slots=slots,
            interval=interval,
        )
        self._model = model
        self._process = OllamaProcess(
            binary, models=models, context=context, slots=slots, ended=self._process_ended
        )
        self._percent = 0.0

    @property
    def name(self) -> str:
        """Which engine this is."""
        return "ollama"

    @property
    def log_lines(self) -> tuple[str, ...]:
        """The last lines Ollama wrote."""
        return tuple(self._process.lines)

    @property
    def pid(self) -> int | None:
        """Of the process that runs Ollama, while there is one."""
        return self._process.pid

    async def load(self) -> None:
        """Start Ollama, pull the model if it is not there, see a token. Raises `EngineFailed`."""
        if self.state in {"failed", "unloaded"} and not self._process.running:
            self._process.quick = 0
        await super().load()

    async def close(self) -> None:
        """End Ollama and everything it started."""
        await super().close()
        await self._process.stop()

    def _process_ended(self, words: str) -> None:
        if self.state == "ready":
            self._fall(f"Ollama stopped: {words}")

    async def _prepare(self) -> None:
        while not await self._answers():
            quick = self._process.quick
            if quick > len(BACK_OFF):
                raise GivenUp(f"Ollama stopped {quick} times in a row; its last words: {self._last_words()}")
            if quick:
                await asyncio.sleep(BACK_OFF[quick - 1])
            if self.state != "failed":
                self._set("starting", "starting Ollama")
            await self._process.start()
            self._link.url = f"http://127.0.0.1:{self._process.port}"
        await self._have()

    async def _answers(self) -> bool:
        """Wait until it answers; whether it does, for it may have ended or never been started."""
        began = monotonic()
        while self._process.running:
            try:
                await self._link.ask("GET", "/api/version", within=5.0)
            except ServiceError as error:
                if monotonic() - began > START_UP:
                    raise EngineFailed(f"Ollama did not answer within {START_UP:g} seconds") from error
            else:
                return True
            await asyncio.sleep(0.05)
        return False

    def _last_words(self) -> str:
        return self._process.lines[-1] if self._process.lines else "none"

    # --- the model -----------------------------------------------------------------------------------------

    async def _have(self) -> None:
        """See to it that the model is on the disk. Raises `GivenUp` with the reason if it cannot be had."""
        tags = await self._link.ask("GET", "/api/tags", within=30.0)
        if self._listed(tags):
            return
        self._percent = 0.0
        words = fault = ""
        for attempt in range(_PULLS):
            try:
                words = await self._pull()
            except Unreachable:
                raise
            except EngineDied as error:
                words = error.message
            if not words:
                return
            if any(hint in words for hint in _HOPELESS):
                fault = "order"
                break
            await asyncio.sleep(BACK_OFF[min(attempt + 1, len(BACK_OFF) - 1)])
        raise GivenUp(
            f"the model {self._model} could not be pulled: {words}",
            hint="see whether the name is right and the registry can be reached",
            fault=fault,
        )

    def _listed(self, tags: Any) -> bool:
        found = tags.get("models") if isinstance(tags, dict) else None
        names = [
            str(entry.get("model") or entry.get("name")) for entry in found or () if isinstance(entry, dict)
        ]
        wanted = self._model.removesuffix(":latest").lower()
        return any(name.removesuffix(":latest").lower() == wanted for name in names)

    async def _pull(self) -> str:
        """Pull once; what went wrong, or nothing."""
        self._set("loading", f"pulling {self._model}", self._percent)
        sizes: dict[str, tuple[int, int]] = {}
        body = {"model": self._model, "stream": True}
        async with (
            contextlib.aclosing(self._link.lines("/api/pull", body)) as lines,
            contextlib.aclosing(objects(lines)) as parts,
        ):
            async for part in parts:
                said = _read(part)
                if said.get("error"):
                    return " ".join(str(said["error"]).split())[:400]
                if said.get("status") == "success":
                    return ""
                self._progress(said, sizes)
        return "the pull ended before it was complete"

    def _progress(self, said: dict[str, Any], sizes: dict[str, tuple[int, int]]) -> None:
        """Percent of all that is known of by now; it never goes back."""
        total, completed = said.get("total"), said.get("completed", 0)
        if isinstance(total, int) and isinstance(completed, int) and total > 0:
            sizes[str(said.get("digest"))] = (min(completed, total), total)
            done = sum(part for part, _ in sizes.values()) / sum(whole for _, whole in sizes.values())
            self._percent = max(self._percent, round(100 * done, 1))
        self._set("loading", f"pulling {self._model}: {str(said.get('status', ''))[:100]}", self._percent)


def _read(part: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(part)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
