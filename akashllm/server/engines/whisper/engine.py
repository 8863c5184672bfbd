"""The Whisper engine as the service sees it."""

from __future__ import annotations

from akashllm.server.domain import ModelInfo
from akashllm.server.engines.frames import Load
from akashllm.server.engines.listening import ListeningEngine

CHILD = "akashllm.server.engines.whisper.child"


class WhisperEngine(ListeningEngine):
    """Whisper by faster-whisper: one recording after another.

    model       a folder in CTranslate2's format
    threads     0: what this process may use;  gpu_layers: 0 keeps it off a GPU
    """

    def __init__(
        self, model: str, *, name: str, threads: int = 0, gpu_layers: int = -1, watchdog: float = 60.0
    ) -> None:
        order = Load(model=model, name=name, slots=1, threads=threads, gpu_layers=gpu_layers)
        info = ModelInfo(name=name, format="ctranslate2", family="whisper", capabilities=("transcription",))
        # faster-whisper asks the hub for what a folder lacks.
        environment = {"HF_HUB_OFFLINE": "1"}
        super().__init__("whisper", CHILD, order, info, watchdog=watchdog, environment=environment)
