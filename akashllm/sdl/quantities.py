"""CPU, memory and storage quantities as the chain's Go parser reads them (chain-sdk go/sdl/units.go); money."""

from __future__ import annotations

import math
import re
from typing import Any

BLOCKS_AN_HOUR = 600
"""A block takes about six seconds, and prices are by the block (console: utils/constants.ts)."""

MILLIONTH = 1_000_000
"""`uact` is a millionth of an ACT, and an ACT is a US dollar."""

KI, MI, GI, TI, PI, EI = (1 << 10 * power for power in range(1, 7))

_BINARY = {"Ki": KI, "Mi": MI, "Gi": GI, "Ti": TI, "Pi": PI, "Ei": EI}
_ALL = {**_BINARY, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)([A-Za-z]{0,2})")
_CPU = re.compile(r"([0-9]{1,12})m|([0-9]{1,12}(?:\.[0-9]{1,12})?)")


def parse_size(value: Any, *, decimal: bool = True) -> int | None:
    """Bytes of `16Gi`, `512Mi`, `1.5Gi` or a bare number; None if the chain would not read it.

    Without `decimal` only the binary suffixes count, which is how memory and GPU memory are read.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, (int, float)):
        return int(value) if math.isfinite(value) and value >= 0 else None
    match = _SIZE.fullmatch(value)
    if not match:
        return None
    number, suffix = match.groups()
    if not suffix:
        return int(float(number))
    scale = (_ALL if decimal else _BINARY).get(suffix)
    return None if scale is None else int(float(number) * scale)


def parse_cpu(value: Any) -> int | None:
    """Thousandths of a processor: `500m`, `2` or `"1.5"`; None if the chain would not read it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, (int, float)):
        return int(value * 1000) if math.isfinite(value) and value >= 0 else None
    match = _CPU.fullmatch(value)
    if not match:
        return None
    return int(match[1]) if match[1] else int(float(match[2]) * 1000)


def parse_gpu_units(value: Any) -> int | None:
    """A whole number of GPUs; None if the chain would not read it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    return None
