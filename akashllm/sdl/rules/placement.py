"""Rules for placements: attributes, auditors and prices."""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation

from akashllm.sdl.quantities import BLOCKS_AN_HOUR, MILLIONTH
from akashllm.sdl.rules.place import Place, show

MAX_PRICE = 10_000_000
HIGH_PRICE_HOUR = 600.0
"""Dollars: what 1,000,000 uact a block come to, which most published templates carry."""

_ATTRIBUTE = re.compile(r"[a-zA-Z][\w/.\-]{1,126}[\w*]?", re.ASCII)
_ADDRESS = re.compile(r"akash1[02-9ac-hj-np-z]{38}")
_AMOUNT = re.compile(r"[0-9]{1,30}(\.[0-9]{1,18})?")


def check_placement(profiles: Place) -> None:
    """Every placement by itself."""
    placement = profiles.get("placement")
    if placement is None or not placement.mapping():
        return
    denoms: dict[str, str] = {}
    for name, entry in placement.children():
        if not name:
            entry.add("attribute", "a placement has an empty name", "name it")
        if not entry.mapping(("attributes", "signedBy", "pricing"), ("pricing",), nullable=("attributes",)):
            continue
        if "attributes" in entry.value:
            _check_attributes(entry.child("attributes"))
        _check_signers(entry)
        pricing = entry.child("pricing")
        if pricing.mapping():
            for profile, price in pricing.children():
                _check_price(price, profile, denoms)


def _check_attributes(attributes: Place) -> None:
    if attributes.value is None:
        attributes.add("attribute", f"{attributes} is empty", "remove the line, or put attributes under it")
        return
    if not attributes.mapping():
        return
    for key, value in attributes.children():
        if not _ATTRIBUTE.fullmatch(key):
            value.add(
                "attribute", f"{show(key)} is no attribute name", "start with a letter; use a-z, 0-9, / . -"
            )
        if value.value is None or isinstance(value.value, (dict, list)):
            value.add("attribute", f"{value} is not text", "write a value, in quotes")


def _check_signers(placement: Place) -> None:
    signed = placement.get("signedBy")
    addresses = 0
    if signed is not None and signed.mapping(("anyOf", "allOf"), nullable=("anyOf", "allOf")):
        for key in ("anyOf", "allOf"):
            if key not in signed.value:
                continue
            place = signed.child(key)
            if not isinstance(place.value, list):
                place.add("signed-by", f"{place} is no list", "write a list of addresses, or remove it")
                continue
            for address in place.texts():
                addresses += 1
                if not _ADDRESS.fullmatch(address.value):
                    address.add(
                        "signed-by-address", f"{show(address.value)} is no akash address", "copy it again"
                    )
    if not addresses:
        placement.add(
            "signed-by-none",
            f"{placement} takes bids of providers that nobody has audited",
            "add signedBy: {anyOf: [akash1365yvmc4s7awdyj3n2sav7xfx76adc6dnmlx63]}",
        )


def _check_price(price: Place, profile: str, denoms: dict[str, str]) -> None:
    if not price.mapping(("denom", "amount"), ("denom", "amount")):
        return
    denom = price.child("denom")
    if denom.value != "uact":
        known = denom.value == "uakt" or str(denom.value).startswith("ibc/")
        what = "is no longer taken for new deployments" if known else "is no unit that the chain takes"
        denom.add("denom", f"{show(denom.value)} {what}", "write denom: uact (a million are one dollar)")
    if denoms and str(denom.value) not in denoms:
        denom.add("denom", "one file has one denomination", f"write {next(iter(denoms))} everywhere")
    denoms.setdefault(str(denom.value), profile)
    amount = price.child("amount")
    value = _amount(amount)
    if value is None:
        return
    if value <= 0 or value > MAX_PRICE:
        amount.add(
            "price", f"the price {show(amount.value)} is not taken", f"use more than 0, at most {MAX_PRICE}"
        )
        return
    dollars = float(value) * BLOCKS_AN_HOUR / MILLIONTH
    if denom.value == "uact" and dollars >= HIGH_PRICE_HOUR:
        amount.add(
            "price-high",
            f"this pays up to {dollars:,.0f} dollars an hour for each replica of {show(profile)}",
            "set what you would really pay: dollars an hour * 1,000,000 / 600",
        )


def _amount(amount: Place) -> Decimal | None:
    value = amount.value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        amount.wrong("a number")
        return None
    if isinstance(value, float) and not math.isfinite(value):
        amount.add("price", f"the price {show(value)} is not taken", f"use more than 0, at most {MAX_PRICE}")
        return None
    text = format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)
    if not _AMOUNT.fullmatch(text.removeprefix("-")):
        amount.add("price", f"the price {show(value)} is no number", "write digits, with a point if needed")
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # pragma: no cover - the pattern above admits only decimals
        return None
