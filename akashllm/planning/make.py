"""The one way from a request to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from akashllm.catalog import Catalog, Gpu, Model, Prices
from akashllm.catalog.gpus import with_article
from akashllm.catalog.reference import Reference
from akashllm.errors import DoesNotFit, UsageError
from akashllm.names import deployment_name
from akashllm.plan import DeployRequest, EngineName, Plan
from akashllm.planning import asked, machine, price
from akashllm.planning.quantisation import quant_for
from akashllm.planning.wanted import Lookup, as_named, find_model, source_for
from akashllm.sizing import COUNTS, Fit, Need, Quant, counts_for, estimate, fits, rank, unfit, usable_gib
from akashllm.version import __version__

ASKED = "asked for"
"""The source of a price that a person has named."""

USUAL_CONTEXT = 8192
USUAL_CONCURRENCY: dict[EngineName, int] = {"llamacpp": 4, "ollama": 4, "vllm": 8}

MAX_CHOICES = 10
"""More kinds of GPU than that add noise to an SDL, not bids."""

LONELY = 1.5
"""A single kind of GPU gets few bids: it has to be this much cheaper than a team of several kinds."""

SOME = 3
WORTH_SOME = 4.0
WORTH = 2.5
CHEAP = 0.50
"""GPUs that cost at most 4 times the best one are named until there are three, then those at most 2.5 times as
dear, and always those below half a dollar an hour."""


@dataclass(frozen=True, slots=True)
class _Sized:
    need: Need
    quant: Quant
    choices: tuple[Fit, ...]
    warnings: tuple[str, ...] = ()


def make_plan(
    request: DeployRequest,
    *,
    catalog: Catalog | None = None,
    prices: Mapping[str, Any] | Prices | None = None,
    lookup: Lookup | None = None,
    version: str = __version__,
) -> Plan:
    """The plan for a request: deterministic, and pure unless `lookup` reads a model from outside.

    prices      what Console's /v1/gpu-prices answers; None: the dated table that comes with akashllm
    lookup      reads models outside the catalogue, e.g. `akashllm.catalog.remote.Hub().describe`
    Raises `UsageError` for what cannot be, `UnknownModel`, and `DoesNotFit` where no GPU holds it.
    """
    catalog = catalog or Catalog.load()
    asked.check(request, catalog)
    market = prices if isinstance(prices, Prices) else Prices.from_console(prices) if prices else Prices.table()
    request = as_named(request, catalog)
    model, reference = find_model(request, catalog, lookup)
    _check_speech(request, model)
    context, concurrency = _context(request, model), request.concurrency or _concurrency(request, model)
    on_gpu = _on_gpu(request, model)
    sized = _size(
        request, model, reference, context, concurrency, on_gpu=on_gpu, catalog=catalog, prices=market
    )
    count = sized.choices[0].count if sized.choices else 0
    source = source_for(model, reference, request.engine, sized.quant.name)
    host = machine.machine_for(sized.need, request, source, gpus=count, speech=model.task == "transcription")
    cap, where = _cap(request, sized.choices, market, host)
    warnings = [*sized.warnings, *_warnings(request, model, source.kind, sized.choices, market)]
    return Plan(
        name=request.name or deployment_name(model.alias.removesuffix(".gguf").rsplit("/", 1)[-1]),
        engine=request.engine,
        model=source,
        image=machine.image_for(request, version, gpu=bool(count)),
        port=machine.PORT,
        env=machine.environment(
            model, source, request, context=context, concurrency=concurrency, quant=sized.quant.name, gpus=count
        ),
        secrets=machine.secrets(source, manage=request.manage),
        context=context,
        concurrency=concurrency,
        quant=sized.quant.name,
        memory=sized.need.lines,
        cpu_units=host.cpu_units,
        ram_gib=host.ram_gib,
        disk_gib=host.disk_gib,
        volume_gib=host.volume_gib,
        volume_class=host.volume_class,
        shm_gib=host.shm_gib,
        gpus=tuple(fit.choice() for fit in sized.choices),
        replicas=request.replicas,
        nodes=request.nodes,
        region=request.region,
        audited=request.audited,
        max_price_hour=None if cap is None else round(cap * request.replicas * request.nodes, 2),
        max_uact_block=None if cap is None else price.uact_block(cap),
        price_source=where,
        warnings=tuple(warnings),
    )


def _check_speech(request: DeployRequest, model: Model) -> None:
    """A Whisper hears 30 s at a time, and faster-whisper one recording on one GPU."""
    if model.task != "transcription":
        return
    if request.context not in {None, model.context}:
        raise UsageError(f"{model.alias} transcribes: it has no context to choose", hint="leave --context out")
    if request.engine == "llamacpp" and (request.gpu_count or 1) > 1:
        raise UsageError(
            "faster-whisper, which transcribes in the llamacpp image, uses one GPU",
            hint="leave --gpu-count out, and use --engine vllm for many recordings at once",
        )
    if request.engine == "llamacpp" and (request.concurrency or 1) > 1:
        raise UsageError(
            "faster-whisper, which transcribes in the llamacpp image, takes one recording at a time",
            hint="take --concurrency 1, or use --engine vllm for many at once",
        )
    if request.nodes > 1:
        raise UsageError(f"{model.alias} fits one machine", hint="leave --nodes out; --replicas adds copies")
    if request.manage:
        raise UsageError(f"{model.alias} is served alone", hint="leave --manage out")


def _context(request: DeployRequest, model: Model) -> int:
    if request.context is None:
        return min(model.context, USUAL_CONTEXT)
    if request.context > model.context:
        raise UsageError(
            f"{model.alias} was made for {model.context} tokens of context, not {request.context}",
            hint=f"use --context {model.context} or less",
        )
    return request.context


def _concurrency(request: DeployRequest, model: Model) -> int:
    if model.task == "transcription" and request.engine == "llamacpp":
        return 1
    if request.cpu_only and not model.cpu:
        return 2
    return USUAL_CONCURRENCY[request.engine]


def _on_gpu(request: DeployRequest, model: Model) -> bool:
    if request.local:
        return False
    wanted = bool(request.gpu or request.gpu_count)
    able = machine.cpu_engine(request.engine)
    if request.cpu_only and not able:
        raise UsageError("the vllm image runs on GPUs only", hint="use --engine llamacpp for a CPU")
    return not (request.cpu_only or (model.cpu and able and not wanted))


def _size(
    request: DeployRequest,
    model: Model,
    reference: Reference | None,
    context: int,
    concurrency: int,
    *,
    on_gpu: bool,
    catalog: Catalog,
    prices: Prices,
) -> _Sized:
    engine = request.engine
    tag = reference.tag if reference and reference.where == "hub" else ""
    quant = quant_for(model, engine, request.quant, tag)
    need = estimate(model, quant, engine=engine, context=context, concurrency=concurrency, gpu=on_gpu)
    if not on_gpu:
        return _Sized(need, quant, ())
    gpus = [gpu for gpu in catalog.gpus if not request.gpu or gpu.model in request.gpu]
    nodes = request.nodes
    found = _choose(fits(model, need, quant, engine=engine, gpus=gpus, prices=prices, nodes=nodes), request)
    if found:
        return _Sized(need, quant, found)
    if engine == "vllm" and request.quant is None and model.sources.repository_for("fp8"):
        smaller = quant_for(model, engine, "fp8")
        need8 = estimate(model, smaller, engine=engine, context=context, concurrency=concurrency)
        found = _choose(
            fits(model, need8, smaller, engine=engine, gpus=gpus, prices=prices, nodes=nodes), request
        )
        if found:
            why = (
                f"{quant.name} needs {need.total_gib:.1f} GiB, more than these GPUs have: fp8 weights are used"
            )
            return _Sized(need8, smaller, found, (why,))
    raise _no_fit(request, model, need, quant, gpus, prices)


def _choose(found: tuple[Fit, ...], request: DeployRequest) -> tuple[Fit, ...]:
    """The best fit and those a provider may offer instead: the same count, each GPU once, not far dearer.

    One SDL profile has one count for all its GPU models, and a model named twice loses its first memory size.
    """
    if request.gpu_count:
        found = tuple(fit for fit in found if fit.count == request.gpu_count)
    if request.max_price is not None:
        each = request.max_price / request.replicas / request.nodes
        priced = any(fit.usd_hour is not None for fit in found)
        found = tuple(fit for fit in found if fit.usd_hour is None or fit.usd_hour <= each)
        if priced and all(fit.usd_hour is None for fit in found):
            return ()
    teams = [_team([fit for fit in found if fit.count == count], request) for count in COUNTS]
    return min((team for team in teams if team), key=_preference, default=())


def _preference(team: tuple[Fit, ...]) -> tuple[float, int]:
    """A single kind of GPU gets few bids: it has to be clearly cheaper."""
    return rank(team[0])[0] * (LONELY if len(team) == 1 else 1.0), team[0].count


def _team(found: list[Fit], request: DeployRequest) -> tuple[Fit, ...]:
    """The best of `found`, which have one count, and those that a provider may offer in its place."""
    if not found:
        return ()
    best = found[0]
    chosen: dict[str, Fit] = {}
    for fit in found:
        if fit.gpu.model in request.gpu or _worth(fit, best, len(chosen)):
            chosen.setdefault(fit.gpu.model, fit)
    return tuple(list(chosen.values())[:MAX_CHOICES])


def _worth(fit: Fit, best: Fit, others: int) -> bool:
    if fit.usd_hour is None or best.usd_hour is None:
        # Without a price, memory says whether it is the same class of GPU.
        return fit.gpu.ram_gib <= 2 * best.gpu.ram_gib
    return fit.usd_hour <= max(CHEAP, best.usd_hour * (WORTH_SOME if others < SOME else WORTH))


def _no_fit(
    request: DeployRequest, model: Model, need: Need, quant: Quant, gpus: list[Gpu], prices: Prices
) -> UsageError:
    engine = request.engine
    reasons = [unfit(gpu, quant, engine) for gpu in gpus]
    if all(reasons):
        return DoesNotFit(f"{reasons[0]}", hint="name other GPUs, or none so that all that fit are taken")
    able = [gpu for gpu, reason in zip(gpus, reasons, strict=True) if not reason]
    able_fits = fits(model, need, quant, engine=engine, gpus=gpus, prices=prices, nodes=request.nodes)
    if request.max_price is not None and able_fits:
        cheapest = able_fits[0]
        return DoesNotFit(
            f"nothing that holds {model.alias} costs ${request.max_price:.2f} an hour or less",
            hint=f"{cheapest.count} x {cheapest.gpu.label} costs about ${cheapest.usd_hour or 0:.2f} an hour",
        )
    possible = counts_for(model, quant, engine)
    if request.gpu_count and request.gpu_count not in possible:
        shape = model.shape
        why = f"{shape.heads} attention heads" if engine == "vllm" else f"{shape.layers} layers"
        if engine == "vllm" and shape.heads % request.gpu_count == 0:
            why = f"experts of {shape.expert_ffn} rows in {quant.name}"
        return DoesNotFit(
            f"{model.alias} cannot be split over {request.gpu_count} GPUs: it has {why}",
            hint=f"use --gpu-count {' or '.join(map(str, possible))}, or --replicas for more copies",
        )
    largest = max(able, key=lambda gpu: gpu.memory_gib)
    counts = [n for n in possible if not request.gpu_count or n == request.gpu_count] or [1]
    most = max(counts)
    each = need.per_gpu_gib(most, model.shape.kv_heads, engine, request.nodes)
    has = usable_gib(largest, engine)
    where = f"each of {most} x {largest.model}" if most > 1 else with_article(largest.model)
    where = f"{where} of {request.nodes} nodes" if request.nodes > 1 else where
    return DoesNotFit(
        f"{model.alias} in {quant.name} needs {need.total_gib:.1f} GiB ({each:.1f} GiB on {where}, "
        f"of which {engine} may use {has:.1f})",
        hint="take less --context or --concurrency, a smaller --quant, or larger GPUs"
        + (", or more --nodes" if engine == "vllm" else ""),
    )


def _cap(
    request: DeployRequest, choices: tuple[Fit, ...], prices: Prices, host: machine.Machine
) -> tuple[float | None, str]:
    """US dollars an hour for one replica, and where that comes from."""
    if request.local:
        return None, "free: this machine"
    if request.max_price is not None:
        return request.max_price / request.replicas / request.nodes, ASKED
    rest = price.host_hour(
        host.cpu_units, host.ram_gib + host.shm_gib, host.disk_gib, host.volume_gib, host.volume_class
    )
    gpu = price.gpu_cap(choices, prices)
    if choices and not gpu:
        names = ", ".join(dict.fromkeys(fit.gpu.label for fit in choices))
        raise UsageError(f"no price of {names} is known", hint="give --max-price in US dollars an hour")
    cap = price.round_up(gpu + rest * price.HOST_MARGIN)
    if cap > asked.MAX_HOUR:
        raise UsageError(
            f"this would cost up to ${cap:.2f} an hour, beyond the ${asked.MAX_HOUR:.0f} that is ever bid",
            hint="take a smaller model or name cheaper GPUs with --gpu",
        )
    return cap, prices.source if choices else "the default prices of providers for threads, memory and storage"


def _warnings(
    request: DeployRequest,
    model: Model,
    kind: str,
    choices: tuple[Fit, ...],
    prices: Prices,
) -> list[str]:
    found = []
    if kind == "file" and not request.local:
        found.append("the GGUF file is on this machine: it has to be built into the image to run elsewhere")
    pins = (model.sources.hf_revision, model.sources.gguf_revision, model.sources.ct2_revision)
    if kind in {"gguf", "hf", "ct2"} and not any(pins):
        found.append("the weights are not pinned to a revision")
    if choices and not prices.live and not request.local and request.max_price is None:
        found.append("the market's prices were not read, those of a dated table are used")
    return found
