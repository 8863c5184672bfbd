"""A plan in plain sentences, line by line, as a person reads it before paying."""

from __future__ import annotations

from akashllm.catalog import Catalog
from akashllm.catalog.gpus import with_article
from akashllm.plan import GpuChoice, Plan


def explain(plan: Plan) -> list[str]:
    """Lines of plain text: model, engine, context, the memory sum, GPUs, machine, price, warnings."""
    source = plan.model
    where = source.repository or source.file
    lines = [
        f"{plan.name}: {source.alias} with {plan.engine}, {plan.quant}"
        + (f", from {where}" if where else "")
        + (f" at {source.revision[:12]}" if source.revision else ""),
        f"context {plan.context} tokens, {plan.concurrency} requests at once"
        + (f", {plan.replicas} replicas" if plan.replicas > 1 else "")
        + (f", one copy over {plan.nodes} nodes" if plan.nodes > 1 else ""),
    ]
    if source.licence:
        lines.append(f"licence {source.licence}" + (", gated: HF_TOKEN is needed" if source.gated else ""))
    lines.append("memory:")
    lines += [
        f"  {line.gib:8.2f} GiB  {line.what}" + (f" ({line.note})" if line.note else "") for line in plan.memory
    ]
    lines.append(f"  {plan.memory_gib:8.2f} GiB  in all")
    lines += _gpu_lines(plan)
    volume = f", a volume of {plan.volume_gib} GiB ({plan.volume_class})" if plan.volume_gib else ""
    shm = f", {plan.shm_gib} GiB of /dev/shm" if plan.shm_gib else ""
    machine = "each machine" if plan.nodes > 1 else "machine"
    lines.append(
        f"{machine}: {plan.cpu_units:g} threads, {plan.ram_gib} GiB of memory,"
        f" {plan.disk_gib} GiB of disk{volume}{shm}"
    )
    if plan.max_price_hour is None:
        lines.append(f"price: {plan.price_source}")
    else:
        lines.append(
            f"price: at most ${plan.max_price_hour:.2f} an hour"
            + (f" ({plan.max_uact_block:g} uact a block for each container)" if plan.max_uact_block else "")
            + f"; {plan.price_source}"
        )
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return lines


def _gpu_lines(plan: Plan) -> list[str]:
    if not plan.gpus:
        return ["no GPU"]
    first = plan.gpus[0]
    lines = [fit_sentence(plan.memory_gib, first, plan.nodes)]
    each = "each node any of: " if plan.nodes > 1 else "any of: "
    lines.append(each + ", ".join(_named(choice) for choice in plan.gpus))
    return lines


def fit_sentence(needs_gib: float, choice: GpuChoice, nodes: int = 1) -> str:
    """`Needs 19.4 GiB, an rtx4090 has 24.0.`"""
    gpu = next(
        gpu for gpu in Catalog.load().gpus if gpu.model == choice.model and gpu.ram_gib == choice.ram_gib
    )
    count = choice.count * nodes
    has = gpu.memory_gib * count
    owner = f"{with_article(choice.model)} has" if count == 1 else f"{count} x {choice.model} have"
    return f"Needs {needs_gib:.1f} GiB, {owner} {has:.1f}."


def _named(choice: GpuChoice) -> str:
    count = f"{choice.count} x " if choice.count > 1 else ""
    return f"{count}{choice.model} {choice.ram_gib}Gi"
