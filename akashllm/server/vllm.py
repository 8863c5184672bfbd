"""The vLLM engine as the settings describe it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from akashllm.errors import UsageError
from akashllm.names import ModelName
from akashllm.server.engines.vllm import cluster
from akashllm.server.engines.vllm.engine import VllmEngine, VllmTranscriber
from akashllm.server.engines.vllm.options import Chats, Options, Task
from akashllm.server.engines.vllm.worker import WorkerNode
from akashllm.server.settings import PREFIX, Settings

_CHATS: dict[str, Chats] = {"auto": "auto", "own": "own", "vllm": "vllm"}
_TASKS: dict[str, Task] = {"auto": "auto", "generate": "generate", "embed": "embed", "transcribe": "transcribe"}


def build(settings: Settings, folder: Path) -> VllmEngine | VllmTranscriber | WorkerNode:
    """The engine for the model in `folder`, not loaded yet; or this node's part in a head's.

    Raises `UsageError` if there is no such interpreter.
    """
    python = settings.child_python or sys.executable
    if shutil.which(python) is None:
        raise UsageError(
            f"there is no interpreter at {python}",
            hint=f"set {PREFIX}CHILD_PYTHON to the Python that has vLLM",
        )
    if settings.head:
        return WorkerNode(
            settings.head,
            name=settings.served_name,
            gpus=settings.gpus,
            python=python,
            path=settings.child_path,
            key=settings.api_key,
        )
    if settings.task == "transcribe":
        return VllmTranscriber(
            folder,
            name=settings.served_name,
            slots=settings.concurrency,
            options=options(settings),
            python=python,
            path=settings.child_path,
        )
    return VllmEngine(
        folder,
        name=settings.served_name,
        context=settings.context,
        slots=settings.concurrency,
        options=options(settings),
        python=python,
        path=settings.child_path,
        environment=cluster.environment(settings.api_key) if settings.nodes > 1 else None,
    )


def build_local(settings: Settings) -> VllmEngine | VllmTranscriber | WorkerNode:
    """As `build`, for a model whose files are here. Raises `UsageError` if they are not."""
    folder = settings.model_file
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"there is no model in the folder {folder}",
            hint=f"set {PREFIX}MODEL to a folder with config.json and safetensors",
        )
    return build(settings, folder)


def options(settings: Settings) -> Options:
    """What the child is told beside the model."""
    return Options(
        gpus=settings.gpus,
        nodes=settings.nodes,
        memory=settings.gpu_memory,
        dtype=settings.dtype,
        task=_TASKS[settings.task],
        chats=_CHATS[settings.chats],
        tool_parser=settings.tool_parser,
        reasoning_parser=settings.reasoning_parser,
        adapters={str(ModelName.parse(name)): folder for name, folder in settings.lora},
        extra=json.loads(settings.vllm_options) if settings.vllm_options else {},
    )
