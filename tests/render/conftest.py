"""The official validator, as the SDL tests have it."""

from __future__ import annotations

from tests.sdl.conftest import official

__all__ = ["official"]
