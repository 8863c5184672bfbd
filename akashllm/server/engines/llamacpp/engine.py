"""The llama.cpp engine as the service sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from akashllm.errors import AkashllmError
from akashllm.server.domain import ModelInfo
from akashllm.server.engines.framed import FramedEngine
from akashllm.server.engines.frames import Load
from akashllm.server.models.details import capabilities_with, describe

_TOOL_TEMPLATE = "tokenizer.chat_template.tool_use"

CHILD = "akashllm.server.engines.llamacpp.child"


class LlamaCppEngine(FramedEngine):
    """A GGUF file served by llama.cpp in a child process.

    context     tokens one request may use; 0: what the model was trained for, up to 8,192
    slots       sequences decoded at the same time
    cache       tokens the key-value cache holds in all; 0: a context for every slot, less if memory is short
    threads     0: what this process may use;  gpu_layers: -1 for all
    template    a Modelfile's TEMPLATE, in Go's syntax, instead of the file's own: it is what the model can do
                that `info.capabilities` tells then
    adapters    LoRA files;  projector: a file that turns images into tokens
    watchdog    seconds of silence after which the child is taken for dead
    """

    def __init__(
        self,
        model_path: Path | str,
        *,
        name: str,
        context: int = 0,
        slots: int = 8,
        cache: int = 0,
        threads: int = 0,
        gpu_layers: int = -1,
        batch: int = 2048,
        micro_batch: int = 512,
        template: str | None = None,
        adapters: Sequence[Path] = (),
        projector: Path | None = None,
        watchdog: float = 60.0,
    ) -> None:
        order = Load(
            model=str(model_path),
            name=name,
            context=context,
            slots=slots,
            cache=cache,
            threads=threads,
            gpu_layers=gpu_layers,
            batch=batch,
            micro_batch=micro_batch,
            template=template or "",
            adapters=tuple(str(path) for path in adapters),
            projector=str(projector or ""),
        )
        self._template = template or ""
        info = self._with_template(_from_file(Path(model_path), name))
        self._described = bool(info.family)
        if projector is not None and "vision" not in info.capabilities:
            info = msgspec.structs.replace(info, capabilities=(*info.capabilities, "vision"))
        super().__init__("llamacpp", CHILD, order, info, watchdog=watchdog)

    def _loaded(self, info: ModelInfo) -> ModelInfo:
        """What the file says, which keeps its types, with what only the child knows."""
        if not self._described:
            return self._with_template(info)
        return msgspec.structs.replace(
            self.info, context=info.context, slots=info.slots, memory=info.memory, vram=info.vram
        )

    def _with_template(self, info: ModelInfo) -> ModelInfo:
        """What the model is with the template that replaces its own."""
        if not self._template:
            return info
        return msgspec.structs.replace(
            info,
            chat_template=self._template,
            capabilities=capabilities_with(info.capabilities, self._template),
            metadata={key: value for key, value in info.metadata.items() if key != _TOOL_TEMPLATE},
        )


def _from_file(path: Path, name: str) -> ModelInfo:
    """What the file tells; if it cannot be read, loading it will say why."""
    try:
        return describe(path, name)
    except (AkashllmError, OSError):
        return ModelInfo(name=name)
