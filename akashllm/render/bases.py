"""The base images by digest: a tag can move, a digest cannot.

No registry was asked. Each digest is that of the tag's multi-platform index as several unrelated public
repositories pin it in their Dockerfiles and lock files; `read` is the day it was looked up there. Whoever pulls
one gets exactly these bytes or an error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Base:
    """`image` has a tag; `digest` is `sha256:` and 64 hexadecimal digits; `read` is a date."""

    image: str
    digest: str
    read: str

    @property
    def pinned(self) -> str:
        """What a FROM line says."""
        return f"{self.image}@{self.digest}"


VLLM = "0.31.0"
"""Newest whose image's digest is known; the floor is 0.22.0 (authentication bypass before, CVE-2026-48746)."""

OLLAMA = "0.33.3"
"""Newest whose image's digest is known; the floor is above 0.20.2 (path traversal before, CVE-2026-7020)."""

DEBIAN = Base(
    "debian:bookworm-slim",
    "sha256:7c7b2c966bc9ee8cedfeef67e0e279108992c77681fa595db4a9d65c06ccc587",
    "2026-11-21",
)
VLLM_IMAGE = Base(
    f"vllm/vllm-openai:v{VLLM}",
    "sha256:c1c9f6fd5c109ba7f0546a59f5b2f15fb87f64c77782e90a27b648b42a8e67c3",
    "2026-11-21",
)
OLLAMA_IMAGE = Base(
    f"ollama/ollama:{OLLAMA}",
    "sha256:32931b46719f673c05fdbaa81ccb26da18ea4a1c57590a754874ab28ba269eb2",
    "2026-11-21",
)

CUDA: dict[int, tuple[Base, Base]] = {
    12: (
        Base(
            "nvidia/cuda:12.8.1-devel-ubuntu24.04",
            "sha256:520292dbb4f755fd360766059e62956e9379485d9e073bbd2f6e3c20c270ed66",
            "2026-11-21",
        ),
        Base(
            "nvidia/cuda:12.8.1-runtime-ubuntu24.04",
            "sha256:ebef3c171eeef0298e4eb2e4be843105edf3b8b0ac45e0b43acee358e8046867",
            "2026-11-21",
        ),
    ),
    13: (
        Base(
            "nvidia/cuda:13.0.3-devel-ubuntu24.04",
            "sha256:b7ae301dea2c162444795462ce17a05f6a516e5a75944b57af5b88540a1a2266",
            "2026-11-21",
        ),
        Base(
            "nvidia/cuda:13.0.3-runtime-ubuntu24.04",
            "sha256:76f46f3e649824ebd3685d3d86c42b0ea62af04f59242f419f56cd5804a72efb",
            "2026-11-21",
        ),
    ),
}
"""CUDA's major version -> the image to build on, the image to run on."""
