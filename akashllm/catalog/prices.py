"""What a GPU costs an hour: from the market's own listing, or from the dated table that comes with us."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from akashllm.catalog.reading import table
from akashllm.errors import UsageError

HOURS_A_MONTH = 730.5
"""365.25 days of 24 hours, over 12."""

ABSURD_GPU_HOUR = 100.0
"""US dollars: no single GPU costs as much an hour, so a larger figure is in another unit."""


@dataclass(frozen=True, slots=True)
class GpuPrice:
    """US dollars an hour for one GPU: the usual price and the highest that was seen."""

    usual: float
    highest: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by `(model, ram in GiB)`, with the sentence that says where they come from."""

    gpus: tuple[tuple[tuple[str, int], GpuPrice], ...]
    source: str
    live: bool = False

    @classmethod
    def table(cls) -> Prices:
        """The table in the data, with its date."""
        return _table()

    @classmethod
    def from_console(cls, data: Mapping[str, Any], *, source: str = "Console gpu-prices") -> Prices:
        """Console's `GET /v1/gpu-prices`: `models[].{vendor,model,ram,interface,price|null}`, US dollars.

        Several interfaces of one GPU are one row here, since an SDL that names none takes them all.
        Rows that cannot be a price of one GPU an hour are an error, not a cap.
        """
        rows = data.get("models")
        if not isinstance(rows, list):
            raise UsageError("these market prices have no list `models`: give what /v1/gpu-prices answers")
        found: dict[tuple[str, int], GpuPrice] = {}
        for row in rows:
            read = _console_row(row)
            if read is None:
                continue
            key, price = read
            before = found.get(key)
            if before is not None:
                price = GpuPrice(min(before.usual, price.usual), max(before.highest, price.highest))
            found[key] = price
        return cls(tuple(sorted(found.items())), source, live=True)

    def of(self, model: str, ram_gib: int) -> GpuPrice | None:
        """The price of that GPU, or None where nobody has named one."""
        return dict(self.gpus).get((model, ram_gib))


def _console_row(row: Any) -> tuple[tuple[str, int], GpuPrice] | None:
    if not isinstance(row, Mapping) or not isinstance(row.get("price"), Mapping):
        return None
    model, ram, price = row.get("model"), str(row.get("ram", "")), row["price"]
    if row.get("vendor", "nvidia") != "nvidia" or not isinstance(model, str) or not ram.endswith("Gi"):
        return None
    if price.get("currency", "USD") != "USD":
        raise UsageError(f"the market's price for {model} is in {price['currency']!r}, not in US dollars")
    usual = _usd(price.get("weightedAverage") or price.get("med") or price.get("avg"), model)
    highest = _usd(price.get("max"), model)
    if usual is None or not ram[:-2].isdigit():
        return None
    return (model.lower(), int(ram[:-2])), GpuPrice(usual, highest if highest is not None else usual)


def _usd(value: Any, model: str) -> float | None:
    if value is None:
        return None
    try:
        usd = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"the market's price for {model} is {value!r}, which is no number") from None
    if not math.isfinite(usd) or usd <= 0 or usd > ABSURD_GPU_HOUR:
        raise UsageError(
            f"the market's price for {model} is {value!r}, which no GPU costs an hour",
            hint="prices are expected in US dollars an hour for one GPU",
        )
    return usd


@dataclass(frozen=True, slots=True)
class MonthlyPrices:
    """What providers ask by default for everything but GPUs, in US dollars a month."""

    cpu: float
    memory_gb: float
    ephemeral_gb: float
    beta1_gb: float
    beta2_gb: float
    beta3_gb: float
    endpoint: float
    source: str

    def storage_gb(self, storage_class: str) -> float:
        """A GB of persistent storage of that class."""
        return {"beta1": self.beta1_gb, "beta2": self.beta2_gb, "beta3": self.beta3_gb}[storage_class]


@cache
def monthly() -> MonthlyPrices:
    """The defaults of the provider's pricing script."""
    return MonthlyPrices(**table("prices.toml")["month"])


@cache
def _table() -> Prices:
    data = table("prices.toml")
    named = {label: row["usd"] for label, row in data["elsewhere"].items()} | data["usd"]
    rows = {}
    for label, usd in named.items():
        model, ram = label.split(" ")
        rows[model, int(ram.removesuffix("Gi"))] = GpuPrice(float(usd), float(usd))
    return Prices(
        tuple(sorted(rows.items())),
        f"table of {data['read']}: {data['source']}; other markets for GPUs it does not list",
    )
