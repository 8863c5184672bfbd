"""Making a model smaller: llama.cpp's quantisation, in a process that may die of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from akashllm.errors import EngineFailed, ServiceError
from akashllm.gguf import Header
from akashllm.server.models.details import FILE_TYPES, quantization_level
from akashllm.server.models.steps import Step

TYPES: Final = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
"""What a model can be quantised to, as in Ollama."""
SOURCES: Final = ("F32", "F16", "BF16")

CHILD: Final = "akashllm.server.engines.llamacpp.quantize"
_DIGEST: Final = "0000000000000000000"
"""What Ollama puts where a file has no digest yet."""
_LAST_WORDS: Final = 20_000


def checked(kind: str) -> str:
    """The type in capitals. Raises `ServiceError` in Ollama's words for others."""
    found = kind.upper()
    if found not in TYPES:
        raise ServiceError(
            f"unsupported quantization type {found[:32]} - supported types are {', '.join(TYPES)}"
        )
    return found


def refuse_quantised(header: Header) -> None:
    """Raise `ServiceError` in Ollama's words for a model that has been quantised already."""
    if quantization_level(header) not in SOURCES:
        raise ServiceError("quantization is only supported for F16, BF16 and F32 models")


async def quantized(header: Header, target: Path, kind: str) -> AsyncGenerator[Step]:
    """Write the model of `header` to `target` as `kind`, and say how far it is.

    Whoever closes the generator ends the process. Raises `EngineFailed` with llama.cpp's last words.
    """
    size = header.file_size
    step = Step(f"quantizing {quantization_level(header)} model to {kind}", _DIGEST, size)
    yield step
    number = next(number for number, name in FILE_TYPES.items() if name == kind)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", CHILD, str(header.path), str(target), str(number), str(os.getpid())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    words = asyncio.ensure_future(_last_words(process.stderr))
    try:
        async for line in process.stdout:
            done, _, total = line.decode().partition(" ")
            yield Step(step.status, _DIGEST, size, size * int(done) // max(int(total), 1))
        status = await process.wait()
        if status:
            said = (await words).strip().splitlines()[-1:]
            raise EngineFailed(f"the model could not be quantised: {said[0][:300] if said else status}")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        await words


async def _last_words(stream: asyncio.StreamReader) -> str:
    words = b""
    while chunk := await stream.read(1 << 16):
        words = (words + chunk)[-_LAST_WORDS:]
    return words.decode("utf-8", "replace")
