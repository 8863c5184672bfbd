"""The vLLM engine as the service sees it. The service never imports vLLM: its child does."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from akashllm.errors import AkashllmError
from akashllm.server.domain import Event, ModelInfo
from akashllm.server.engines.feeds import TextFeed
from akashllm.server.engines.framed import FramedEngine
from akashllm.server.engines.frames import Load
from akashllm.server.engines.listening import ListeningEngine
from akashllm.server.engines.vllm.options import Options
from akashllm.server.models.folder import describe

CHILD = "akashllm.server.engines.vllm.child"

WATCHDOG = 120.0
"""Seconds without anything from vLLM, while something is asked of it, after which it is taken for dead."""


class VllmEngine(FramedEngine):
    """A folder of Hugging Face files served by vLLM in a child process.

    context   tokens one request may use; 0: what the model was trained for
    slots     answers the service asks for at once; vLLM itself batches what there is
    python    the interpreter that has vLLM; empty: this one
    path      what the child finds this package under, where its interpreter has it not
    environment  further variables of the child
    """

    def __init__(
        self,
        model: Path | str,
        *,
        name: str,
        context: int = 0,
        slots: int = 8,
        options: Options | None = None,
        python: str = "",
        path: str = "",
        environment: Mapping[str, str] | None = None,
        watchdog: float = WATCHDOG,
        child: str = CHILD,
    ) -> None:
        order = Load(
            model=str(model),
            name=name,
            context=context,
            slots=slots,
            options=(options or Options()).pack(),
        )
        super().__init__(
            "vllm",
            child,
            order,
            _from_files(Path(model), name, slots),
            watchdog=watchdog,
            python=python or sys.executable,
            environment={**(environment or {}), **({"PYTHONPATH": path} if path else {})},
        )

    def _read(self, feed: TextFeed, event: Event) -> Iterable[Event]:
        """The child has read the answer already: it has the parsers."""
        del feed
        return (event,)


class VllmTranscriber(ListeningEngine):
    """A Whisper in a folder of Hugging Face files, served by vLLM: a `Transcriber`, `slots` recordings at once.

    The child finds what reads recordings under this interpreter, so vLLM's own need not have it.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        name: str,
        slots: int = 8,
        options: Options | None = None,
        python: str = "",
        path: str = "",
        watchdog: float = WATCHDOG,
    ) -> None:
        told = msgspec.structs.replace(options or Options(), task="transcribe", decoder=sys.executable)
        info = msgspec.structs.replace(
            _from_files(Path(model), name, slots), family="whisper", capabilities=("transcription",)
        )
        super().__init__(
            "vllm",
            CHILD,
            Load(model=str(model), name=name, slots=slots, options=told.pack()),
            info,
            watchdog=watchdog,
            python=python or sys.executable,
            environment={"PYTHONPATH": path} if path else {},
        )


def _from_files(folder: Path, name: str, slots: int) -> ModelInfo:
    """What the files tell; if they cannot be read, loading them will say why."""
    try:
        info = describe(folder, name)
    except (AkashllmError, OSError):
        info = ModelInfo(name=name, format="safetensors")
    return msgspec.structs.replace(info, slots=slots)
