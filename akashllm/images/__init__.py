"""Images: built through a Docker engine, pushed, and pinned by the digest that the registry answers."""

from __future__ import annotations

from akashllm.images.basis import base_arguments
from akashllm.images.build import (
    Built,
    build,
    check_arguments,
    check_platform,
    default_tag,
    local_name,
    remote_name,
)
from akashllm.images.context import Context, make_context
from akashllm.images.engine import DockerEngine, Image, Layer
from akashllm.images.events import Event, OnEvent
from akashllm.images.pins import Pin, pinned, pins, remember
from akashllm.images.push import Pushed, push
from akashllm.images.reference import ImageReference
from akashllm.images.registry import Remote, look, resolve
from akashllm.images.settle import Pullable, pullable, settle

__all__ = [
    "Built",
    "Context",
    "DockerEngine",
    "Event",
    "Image",
    "ImageReference",
    "Layer",
    "OnEvent",
    "Pin",
    "Pullable",
    "Pushed",
    "Remote",
    "base_arguments",
    "build",
    "check_arguments",
    "check_platform",
    "default_tag",
    "local_name",
    "look",
    "make_context",
    "pinned",
    "pins",
    "pullable",
    "push",
    "remember",
    "remote_name",
    "resolve",
    "settle",
]
