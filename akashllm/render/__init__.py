"""A plan as files: SDL, Compose file, image build contexts. Pure text; `files` writes them."""

from __future__ import annotations

from akashllm.render.deployment import PLACEMENT, SERVICE, render_compose, render_sdl

__all__ = ["PLACEMENT", "SERVICE", "render_compose", "render_sdl"]
