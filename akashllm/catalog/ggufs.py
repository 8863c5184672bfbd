"""GGUF files that lie elsewhere: reading their headers by ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from akashllm.catalog.web import Web
from akashllm.errors import BadModelFile
from akashllm.gguf import Header, read_header

FIRST_PART = 1 << 20
MAX_HEADER = 64 << 20
"""akashllm.gguf refuses longer headers."""


@contextmanager
def ranged_header(web: Web, url: str, what: str) -> Iterator[Header]:
    """The header of a GGUF file behind a URL: ever longer beginnings are fetched until it is complete.

    They are written into a sparse file of the real size, since what a header says is checked against that.
    """
    with tempfile.TemporaryDirectory(prefix="akashllm-") as folder:
        path = Path(folder) / "header.gguf"
        yield _grow(web, url, what, path)


def _grow(web: Web, url: str, what: str, path: Path) -> Header:
    have, want = 0, FIRST_PART
    with path.open("wb") as file:
        while True:
            part, total = web.part(url, have, want, what=what)
            if not have and part[:4] != b"GGUF":
                raise BadModelFile(f"{what} is no GGUF file")
            file.seek(have)
            file.write(part)
            file.truncate(total)
            file.flush()
            have += len(part)
            last = have >= total or not part or want >= MAX_HEADER
            try:
                header = read_header(path)
            except BadModelFile as fault:
                if last:
                    raise BadModelFile(f"{what}: {fault.message}", hint=fault.hint) from None
            else:
                # Beyond what was fetched the sparse file is zeros: only a header that ends before them counts.
                if last or header.data_offset <= have:
                    return header
            want = min(want * 4, MAX_HEADER)


def most_used(header: Header) -> str:
    """The type that most of the weights have: what to call a file whose name does not say."""
    bytes_of: dict[str, int] = {}
    for tensor in header.tensors:
        bytes_of[tensor.type] = bytes_of.get(tensor.type, 0) + tensor.size
    usual = max(bytes_of, key=lambda kind: bytes_of[kind], default="F16")
    return {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}.get(usual, usual)
