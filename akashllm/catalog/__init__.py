"""What can be deployed and on what: models, GPUs and prices as data, and the search in them."""

from __future__ import annotations

from akashllm.catalog.gpus import Gpu
from akashllm.catalog.model import Model, Sources
from akashllm.catalog.prices import Prices
from akashllm.catalog.shape import Shape
from akashllm.catalog.store import Catalog

__all__ = ["Catalog", "Gpu", "Model", "Prices", "Shape", "Sources"]
