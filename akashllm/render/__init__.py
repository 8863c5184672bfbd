"""A plan as files: SDL, Compose file, image build contexts. Pure text; `files` writes them."""

from __future__ import annotations

from akashllm.render.deployment import PLACEMENT, SERVICE, WORKER, render_compose, render_sdl
from akashllm.render.files import check_files, drift, write_files
from akashllm.render.image import VARIANTS, directory, render_image
from akashllm.render.repository import repository_files

__all__ = [
    "PLACEMENT",
    "SERVICE",
    "VARIANTS",
    "WORKER",
    "check_files",
    "directory",
    "drift",
    "render_compose",
    "render_image",
    "render_sdl",
    "repository_files",
    "write_files",
]
