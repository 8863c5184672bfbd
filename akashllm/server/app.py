"""The application: one factory that joins settings, engine, dialects and guards."""

from __future__ import annotations

from fastapi import FastAPI

from akashllm.server.engine import Engine
from akashllm.server.settings import Settings


def create_app(settings: Settings, engine: Engine) -> FastAPI:
    """The service over `engine`. `app.state` has `runtime`, `settings` and `health`."""
    raise NotImplementedError
