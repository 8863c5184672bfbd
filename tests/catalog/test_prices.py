"""Prices: the market's listing, and the dated table."""

from __future__ import annotations

from typing import Any

import pytest

from akashllm.catalog import Catalog, Prices
from akashllm.catalog.prices import GpuPrice, monthly
from akashllm.errors import UsageError


def row(model: str = "h100", ram: str = "80Gi", **price: Any) -> dict[str, Any]:
    """One row of /v1/gpu-prices."""
    return {
        "vendor": "nvidia",
        "model": model,
        "ram": ram,
        "interface": "SXM5",
        "price": {"currency": "USD", **price},
    }


def test_console_rows_become_prices() -> None:
    """The weighted average is the usual price, the maximum the highest; interfaces of one GPU are one row."""
    data = {"models": [row(weightedAverage=2.5, max=3.0, min=2.0), row(weightedAverage=2.2, max=4.0)]}
    assert Prices.from_console(data).of("h100", 80) == GpuPrice(2.2, 4.0)


def test_rows_without_a_price_are_no_price() -> None:
    """A GPU that nobody offers has none, and other vendors are left out."""
    rows = [{**row(), "price": None}, {**row(med=1.0), "vendor": "amd"}, row(ram="?", med=1.0), "junk"]
    assert Prices.from_console({"models": rows}).gpus == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 0.0, 10_000, "cheap", 1e18])
def test_a_figure_that_is_no_price_is_refused(value: object) -> None:
    """Not finite, negative, or in another unit: an error, never a cap."""
    with pytest.raises(UsageError, match="h100"):
        Prices.from_console({"models": [row(med=1.0, max=value)]})


def test_another_currency_is_refused() -> None:
    """Prices are never compared across units."""
    with pytest.raises(UsageError, match="not in US dollars"):
        Prices.from_console({"models": [{**row(), "price": {"currency": "uakt", "med": 1}}]})


def test_the_table_is_dated_and_about_gpus_we_know() -> None:
    """The table says its day and source; most GPUs of the catalogue have a price in it."""
    table = Prices.table()
    assert "2026-09-20" in table.source
    priced = [gpu for gpu in Catalog.load().gpus if table.of(gpu.model, gpu.ram_gib)]
    assert len(priced) >= 20
    assert not table.live


def test_host_prices_are_the_provider_defaults() -> None:
    """Threads, memory and storage have the defaults of the provider's pricing script."""
    assert (monthly().cpu, monthly().memory_gb, monthly().storage_gb("beta3")) == (1.60, 0.80, 0.04)
