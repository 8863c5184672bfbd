"""Build contexts of the images: a Dockerfile, the start script and the locks, from one set of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from akashllm.assets import templates
from akashllm.errors import UsageError
from akashllm.plan import EngineName
from akashllm.planning.machine import PORT
from akashllm.render.bases import CUDA, DEBIAN, OLLAMA_IMAGE, VLLM_IMAGE
from akashllm.render.environment import render
from akashllm.render.stamp import stamp
from akashllm.version import __version__

UID = 10001

VARIANTS: tuple[tuple[EngineName, bool], ...] = (
    ("llamacpp", False),
    ("llamacpp", True),
    ("vllm", False),
    ("ollama", False),
    ("ollama", True),
)
"""(engine, cpu) of every image there is."""

_LOCKS: dict[EngineName, dict[str, str]] = {
    "llamacpp": {
        "requirements.lock": "llamacpp.txt",
        "llama-cpp-python.lock": "llama-cpp-python.txt",
        "build.lock": "build.txt",
        "whisper.lock": "whisper.txt",
    },
    "vllm": {"requirements.lock": "server.txt", "audio.lock": "audio.txt", "ray.lock": "ray.txt"},
    "ollama": {"requirements.lock": "server.txt"},
}
_ASK = (
    "import os, urllib.request as request; "
    "request.urlopen('http://127.0.0.1:' + os.environ['AKASHLLM_PORT'] + '/livez', timeout=4)"
)
HEALTH = ("/opt/akashllm/bin/python", "-c", _ASK)
"""What says in the container that the service lives."""


def directory(engine: EngineName, *, cpu: bool) -> str:
    """The name of an image's build context below `images/`."""
    return f"{engine}-cpu" if cpu else engine


def render_image(engine: EngineName, *, cpu: bool = False, overrides: Path | None = None) -> dict[str, str]:
    """Path -> text of a build context. The builder adds our own wheel in `ours/`, and may add others in
    `wheels/`.
    """
    if (engine, cpu) not in VARIANTS:
        raise UsageError(f"there is no {engine} image without a GPU", hint="use llamacpp or ollama")
    context: dict[str, Any] = {
        "engine": engine,
        "cpu": cpu,
        "uid": UID,
        "port": PORT,
        "version": __version__,
        "debian": DEBIAN.pinned,
        "vllm_image": VLLM_IMAGE.pinned,
        "ollama_image": OLLAMA_IMAGE.pinned,
        "cuda": {str(major): [base.pinned for base in pair] for major, pair in CUDA.items()},
        "title": f"akashllm {engine}{' (CPU)' if cpu else ''}",
        "description": f"A private LLM endpoint: Ollama's and OpenAI's API over {engine}",
        "health": list(HEALTH),
        "entrypoint": ["/usr/bin/tini", "--", "/bin/sh", "/opt/akashllm/bin/start"],
        "command": ["/opt/akashllm/bin/python", "-m", "akashllm.server"],
    }
    files = {
        "Dockerfile": render(f"image/{engine}.Dockerfile.j2", context, overrides=overrides),
        "start.sh": render("image/start.sh.j2", context, overrides=overrides),
        "wheels/README": "Wheels in here are used instead of downloads, if the locks know their hashes.\n",
        ".dockerignore": render("image/dockerignore.j2", context, overrides=overrides),
    }
    for name, lock in _LOCKS[engine].items():
        files[name] = (templates() / "locks" / lock).read_text(encoding="utf-8")
    return {name: stamp(body) for name, body in files.items()}
