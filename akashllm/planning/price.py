"""The price cap: high enough that the GPUs of the plan can bid, far from a blank cheque."""

from __future__ import annotations

import math

from akashllm.catalog.prices import HOURS_A_MONTH, Prices, monthly
from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH
from akashllm.sizing import Fit

TABLE_MARGIN = 1.5
"""The table holds "starting at" prices and is of another day."""

LIVE_MARGIN = 1.2
LIVE_CEILING = 2.0
"""A single provider's fancy price shall not set the cap: at most this many times the usual one."""

HOST_MARGIN = 1.5


def gpu_cap(choices: tuple[Fit, ...], prices: Prices) -> float:
    """US dollars an hour under which each of the priced GPU choices can be bid."""
    caps = []
    for fit in choices:
        if fit.usd_hour is None or fit.highest_usd_hour is None:
            continue
        if prices.live:
            caps.append(min(fit.highest_usd_hour, fit.usd_hour * LIVE_CEILING) * LIVE_MARGIN)
        else:
            caps.append(fit.usd_hour * TABLE_MARGIN)
    return max(caps, default=0.0)


def host_hour(cpu: float, ram_gib: int, disk_gib: int, volume_gib: int, volume_class: str | None) -> float:
    """US dollars an hour that providers ask by default for everything but GPUs."""
    price = monthly()
    month = cpu * price.cpu + ram_gib * price.memory_gb + disk_gib * price.ephemeral_gb + price.endpoint
    if volume_class and volume_gib:
        month += volume_gib * price.storage_gb(volume_class)
    return month / HOURS_A_MONTH


def round_up(usd: float) -> float:
    """To the next cent."""
    return math.ceil(round(usd * 100, 6)) / 100


def uact_block(usd_hour: float) -> float:
    """A price an hour as uact a block: one ACT is one US dollar, and a block a six-hundredth of an hour."""
    return math.floor(usd_hour * MILLIONTH / BLOCKS_AN_HOUR * 100 + 1e-6) / 100
