"""The options that say which model is wanted and on what: one list for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from akashllm.cli import options as opt
from akashllm.plan import DeployRequest

REQUIRED = inspect.Parameter.empty
"""A command that does nothing without a model."""

Command = Callable[..., None]


def _request(
    *,
    model: opt.Model,
    engine: opt.Engine = "llamacpp",
    name: opt.DeploymentName = None,
    context: opt.Context = None,
    concurrency: opt.Concurrency = None,
    quant: opt.Quant = None,
    gpu: opt.Gpu = None,
    gpu_count: opt.GpuCount = None,
    cpu: opt.Cpu = False,
    region: opt.Region = None,
    max_price: opt.MaxPrice = None,
    replicas: opt.Replicas = 1,
    nodes: opt.Nodes = 1,
    image: opt.Image = None,
    manage: opt.Manage = False,
    no_volume: opt.NoVolume = False,
    any_provider: opt.AnyProvider = False,
    parameters: opt.Parameters = None,
    layers: opt.Layers = None,
    hidden: opt.Hidden = None,
    heads: opt.Heads = None,
    kv_heads: opt.KvHeads = None,
    head_size: opt.HeadSize = None,
    vocab: opt.Vocab = None,
) -> DeployRequest:
    return DeployRequest(
        model=model,
        engine=opt.engine_named(engine),
        name=name,
        context=context,
        concurrency=concurrency,
        quant=quant,
        gpu=tuple(gpu or ()),
        gpu_count=gpu_count,
        cpu_only=cpu,
        region=region,
        max_price=max_price,
        replicas=replicas,
        nodes=nodes,
        image=image,
        manage=manage,
        persistent=not no_volume,
        audited=not any_provider,
        parameters=parameters,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocab=vocab,
    )


def takes_request(*, model: Any = REQUIRED, option: Any = opt.Model) -> Callable[[Command], Command]:
    """Give a command the options of a request in place of its parameter `request`, a `DeployRequest`.

    model    what is wanted if nobody says; None: then `request` is None
    option   how `--model` is described
    """

    def decorate(command: Command) -> Command:
        shared = _parameters(_request)
        shared["model"] = shared["model"].replace(default=model, annotation=option)
        own = {name: one for name, one in _parameters(command).items() if name != "request"}

        def called(**given: Any) -> None:
            wanted = {name: given.pop(name) for name in shared}
            command(request=None if wanted["model"] is None else _request(**wanted), **given)

        merged = shared | own
        described: Any = called
        described.__name__, described.__module__ = command.__name__, command.__module__
        described.__doc__ = command.__doc__
        described.__signature__ = inspect.Signature(list(merged.values()))
        described.__annotations__ = {name: one.annotation for name, one in merged.items()}
        return called

    return decorate


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Its parameters, with annotations that need no module to be understood."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    return {name: one.replace(annotation=hints[name]) for name, one in signature.parameters.items()}
