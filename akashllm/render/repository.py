"""What the repository itself keeps of our output: every image's build context, and SDLs worth starting from."""

from __future__ import annotations

from pathlib import Path

from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.render.deployment import render_compose, render_sdl
from akashllm.render.image import VARIANTS, directory, render_image

EXAMPLES: tuple[DeployRequest, ...] = (
    DeployRequest(model="llama3", engine="llamacpp", name="llamacpp-llama3"),
    DeployRequest(model="llama3", engine="vllm", name="vllm-llama3"),
    DeployRequest(model="llama3", engine="ollama", name="ollama-llama3"),
    DeployRequest(model="llama3:70b", engine="vllm", name="vllm-llama3-70b", gpu_count=2),
    DeployRequest(model="deepseek-r1:671b", engine="vllm", name="vllm-deepseek-r1-2-nodes", nodes=2),
    DeployRequest(model="nomic-embed-text", engine="llamacpp", name="llamacpp-nomic-embed-text"),
    DeployRequest(model="whisper", engine="llamacpp", name="llamacpp-whisper"),
    DeployRequest(model="llama3", engine="llamacpp", name="llamacpp-llama3-cpu", cpu_only=True),
    DeployRequest(model="llama3", engine="ollama", name="ollama-llama3-cpu", cpu_only=True),
)
"""Each engine with llama3, one 70B on several GPUs, one on two nodes, one that embeds, one that transcribes,
and two without a GPU."""


def repository_files(*, overrides: Path | None = None) -> dict[str, str]:
    """Relative path -> text of everything below `images/` and `sdl/`."""
    files: dict[str, str] = {}
    for engine, cpu in VARIANTS:
        folder = f"images/{directory(engine, cpu=cpu)}"
        files |= {
            f"{folder}/{name}": text
            for name, text in render_image(engine, cpu=cpu, overrides=overrides).items()
        }
        plan = make_plan(DeployRequest(model="llama3", engine=engine, cpu_only=cpu))
        files[f"{folder}/compose.yaml"] = render_compose(plan, overrides=overrides)
    for request in EXAMPLES:
        files[f"sdl/{request.name}.yaml"] = render_sdl(make_plan(request), overrides=overrides)
    return files
