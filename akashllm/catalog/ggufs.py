"""GGUF files that lie elsewhere: choosing one by its quantisation, reading its header by ranges."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from akashllm.catalog.web import Web
from akashllm.errors import BadModelFile, UnknownModel
from akashllm.gguf import Header, read_header

FIRST_PART = 1 << 20
MAX_HEADER = 64 << 20
"""akashllm.gguf refuses longer headers."""

_QUANT = re.compile(
    r"[-._/]((?:UD-)?(?:IQ\d_\w+|Q\d(?:_\w+)?|BF16|F16|FP16|F32|MXFP4))(?=[-.]|$)", re.IGNORECASE
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


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


def choose_file(files: Sequence[str], quant: str, name: str) -> str:
    """The GGUF file of `quant` (or of the usual one), its first part where it is split."""
    wanted = quant or "Q4_K_M"
    matching = [file for file in files if (quant_of(file) or "").lower() == wanted.lower()]
    if not matching and not quant and len({_stem(file) for file in files}) == 1:
        matching = list(files)
    if not matching:
        have = ", ".join(sorted({found for file in files if (found := quant_of(file))}))
        raise UnknownModel(
            f"{name} has no file in {wanted}",
            hint=f"it has {have}; name one as hf.co/{name}:QUANT" if have else "",
        )
    return min(matching)


def quant_of(file: str) -> str:
    """The quantisation in a file's name, as llama.cpp writes it; empty: none."""
    found = _QUANT.findall(file)
    return {"FP16": "F16"}.get(found[-1].upper(), found[-1].upper()) if found else ""


def _stem(file: str) -> str:
    return _PART.sub("", file)


def same_set(file: str, other: str) -> bool:
    """Both are parts of one split model, or the same file."""
    return _stem(file) == _stem(other)


def is_weights(file: str) -> bool:
    """A model's file, not an image projector or an importance matrix."""
    base = file.rsplit("/", 1)[-1].lower()
    return base.endswith(".gguf") and not base.startswith(("mmproj", "imatrix")) and "mmproj" not in base


def most_used(header: Header) -> str:
    """The type that most of the weights have: what to call a file whose name does not say."""
    bytes_of: dict[str, int] = {}
    for tensor in header.tensors:
        bytes_of[tensor.type] = bytes_of.get(tensor.type, 0) + tensor.size
    usual = max(bytes_of, key=lambda kind: bytes_of[kind], default="F16")
    return {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}.get(usual, usual)
