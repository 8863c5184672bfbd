"""The options that say which model is wanted and on what: one list for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_type_hints

from akashllm.cli import options as opt
from akashllm.plan import DeployRequest

REQUIRED = inspect.Parameter.empty
"""A command that does nothing without a model."""

_FIXED = ("name", "manage")
"""What a deployment keeps for as long as it lives."""

Command = Callable[..., None]


def request_of(
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
    """What the options ask for. Raises `UsageError` for an engine that is none."""
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
    shared = _parameters(request_of)
    shared["model"] = shared["model"].replace(default=model, annotation=option)

    def made(given: Mapping[str, Any]) -> DeployRequest | None:
        return None if given["model"] is None else request_of(**given)

    return lambda command: _joined(command, shared, "request", made)


def takes_changes(command: Command) -> Command:
    """Give a command the same options in place of its parameter `changes`: those that somebody named, by name.

    None has a default then. `request_of` takes them.
    """
    shared = {name: _optional(one) for name, one in _parameters(request_of).items() if name not in _FIXED}
    return _joined(
        command,
        shared,
        "changes",
        lambda given: {name: value for name, value in given.items() if value not in (None, [])},
    )


def _joined(
    command: Command,
    shared: Mapping[str, inspect.Parameter],
    instead_of: str,
    made: Callable[[Mapping[str, Any]], object],
) -> Command:
    """The command with `shared` as parameters; it gets what is made of them as the one parameter."""

    def called(**given: Any) -> None:
        wanted = {name: given.pop(name) for name in shared}
        command(**{instead_of: made(wanted)}, **given)

    own = {name: one for name, one in _parameters(command).items() if name != instead_of}
    merged = sorted({**shared, **own}.values(), key=lambda one: one.kind)
    described: Any = called
    described.__name__, described.__module__ = command.__name__, command.__module__
    described.__doc__ = command.__doc__
    described.__signature__ = inspect.Signature(merged)
    described.__annotations__ = {one.name: one.annotation for one in merged}
    return called


def _optional(parameter: inspect.Parameter) -> inspect.Parameter:
    """None where nobody names it."""
    kind, *described = get_args(parameter.annotation)
    return parameter.replace(default=None, annotation=Annotated[kind | None, *described])


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Its parameters, with annotations that need no module to be understood."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    return {name: one.replace(annotation=hints[name]) for name, one in signature.parameters.items()}
