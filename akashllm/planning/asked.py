"""What a person may ask for: every field of a request checked, each complaint one sentence with a way out."""

from __future__ import annotations

import difflib
import math
import re

from akashllm.catalog import Catalog
from akashllm.errors import BadName, UsageError
from akashllm.plan import DeployRequest
from akashllm.planning.price import uact_block

MAX_HOUR = 100.0
"""US dollars an hour for one replica. Eight B200 cost about 40: more is another unit, or a mistake."""

MAX_REPLICAS = 20
MAX_NODES = 8
"""Pipelines of more stages wait for each other more than they compute."""

MAX_CONCURRENCY = 1024
MIN_CONTEXT = 128
MAX_CONTEXT = 10_485_760
"""Llama 4 Scout's ten million tokens; nothing claims more."""

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,30}[a-z0-9])?")
_MODEL = re.compile(r"[A-Za-z0-9./][A-Za-z0-9._:/@+-]{0,254}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_IMAGE = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def check(request: DeployRequest, catalog: Catalog) -> None:
    """Raise `UsageError` for the first thing in the request that cannot be."""
    check_model_name(request.model)
    if request.engine not in {"ollama", "vllm", "llamacpp"}:
        raise UsageError(f"no engine is named {shown(request.engine)}", hint="use llamacpp, ollama or vllm")
    if request.name is not None and not _NAME.fullmatch(request.name):
        raise BadName(
            f"{shown(request.name)} cannot name a deployment",
            hint="use up to 32 small letters, digits and hyphens, beginning with a letter",
        )
    if request.quant is not None and not _QUANT.fullmatch(request.quant):
        raise UsageError(
            f"{shown(request.quant)} is no quantisation", hint="use one such as Q4_K_M, Q8_0, fp8 or awq"
        )
    if request.region is not None and not _REGION.fullmatch(request.region):
        raise UsageError(f"{shown(request.region)} is no region", hint="use one such as us-west or eu-central")
    if request.image is not None and (len(request.image) > 255 or not _IMAGE.fullmatch(request.image)):
        raise UsageError(
            f"{shown(request.image)} is no image name", hint="use repository:tag or repository@sha256:..."
        )
    _whole("--context", request.context, MIN_CONTEXT, MAX_CONTEXT, "tokens")
    _whole("--concurrency", request.concurrency, 1, MAX_CONCURRENCY, "requests at once")
    _whole("--replicas", request.replicas, 1, MAX_REPLICAS, "replicas")
    _whole("--nodes", request.nodes, 1, MAX_NODES, "nodes")
    _nodes(request)
    if request.manage and request.engine != "llamacpp":
        raise UsageError(
            f"{request.engine} serves the model that was deployed, and no others",
            hint="leave --manage out, or use --engine llamacpp",
        )
    _whole("--parameters", request.parameters, 10_000, 10**13, "parameters")
    _whole("--layers", request.layers, 1, 1024, "layers")
    _whole("--kv-heads", request.kv_heads, 1, 1024, "KV heads")
    _whole("--heads", request.heads, 1, 1024, "heads")
    _whole("--head-size", request.head_size, 1, 4096, "values")
    _whole("--hidden", request.hidden, 1, 1_000_000, "values")
    _whole("--vocab", request.vocab, 1, 10_000_000, "tokens")
    if request.gpu_count is not None and request.gpu_count not in {1, 2, 4, 8}:
        raise UsageError(
            f"--gpu-count {request.gpu_count} cannot be had",
            hint="one machine gives 1, 2, 4 or 8 GPUs to a lease",
        )
    _price(request)
    _gpus(request, catalog)


def check_model_name(name: str) -> None:
    """A model is named by letters, digits and `._:/@+-`; no path may climb, nothing else may pass."""
    if not name:
        raise BadName("no model is named", hint="name one, such as llama3; `akashllm models` lists them")
    if not _MODEL.fullmatch(name) or ".." in name or "//" in name:
        raise BadName(
            f"{shown(name)} cannot name a model",
            hint="use a name such as llama3:70b, hf.co/org/repo:Q4_K_M, org/repo or the path of a .gguf file",
        )


def shown(value: object) -> str:
    """A value as it may stand in a message: quoted, on one line, short."""
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def _whole(flag: str, value: object, low: int, high: int, unit: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{flag} {shown(value)} is not possible", hint=f"use {low} to {high} {unit}")


def _price(request: DeployRequest) -> None:
    price = request.max_price
    if price is None:
        return
    if not math.isfinite(price) or price <= 0:
        raise UsageError(
            f"--max-price {shown(price)} is no price", hint="give US dollars an hour, such as 1.50"
        )
    if not uact_block(price / request.replicas / request.nodes):
        raise UsageError(
            f"--max-price {shown(price)} is less than the smallest price a bid can have",
            hint="give US dollars an hour for everything, such as 1.50",
        )
    if price > MAX_HOUR * request.replicas * request.nodes:
        raise UsageError(
            f"--max-price {shown(price)} is more than ${MAX_HOUR:.0f} an hour for each container",
            hint="the unit is US dollars an hour for everything, not uact a block and not a month",
        )


def _nodes(request: DeployRequest) -> None:
    if request.nodes == 1:
        return
    if request.engine != "vllm":
        raise UsageError(
            f"{request.engine} runs a model on one machine", hint="use --engine vllm for several nodes"
        )
    if request.replicas > 1:
        raise UsageError(
            "--nodes and --replicas exclude each other: nodes share one copy of the model",
            hint="deploy twice, under two names, for two copies",
        )
    if request.cpu_only:
        raise UsageError("several nodes need GPUs", hint="leave --cpu out, or use one node")


def _gpus(request: DeployRequest, catalog: Catalog) -> None:
    known = catalog.gpu_names()
    for name in request.gpu:
        if name not in known:
            near = difflib.get_close_matches(str(name).lower().replace(" ", ""), known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"no GPU on the market is named {shown(name)}", hint=hint)
    if request.cpu_only and (request.gpu or request.gpu_count):
        raise UsageError("a GPU was named and --cpu too", hint="leave one of them out")
