"""What the names of GGUF files say: their quantisation, their parts, and which of them a model is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from akashllm.errors import UnknownModel

USUAL = "Q4_K_M"
"""The quantisation that is taken where nobody names one, as Ollama and llama.cpp do."""

_QUANT = re.compile(
    r"[-._/]((?:UD-)?(?:IQ\d_\w+|Q\d(?:_\w+)?|BF16|F16|FP16|F32|MXFP4))(?=[-.]|$)", re.IGNORECASE
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.ASCII)


def quant_of(file: str) -> str:
    """The quantisation in a file's name, as llama.cpp writes it; empty: none."""
    found = _QUANT.findall(file)
    return {"FP16": "F16"}.get(found[-1].upper(), found[-1].upper()) if found else ""


def stem(file: str) -> str:
    """The name that all parts of one split model have in common."""
    return _PART.sub("", file)


def same_set(file: str, other: str) -> bool:
    """Both are parts of one split model, or the same file."""
    return stem(file) == stem(other)


def parts_of(file: str) -> tuple[str, ...]:
    """Every part of the split model that `file` belongs to, in order; the file itself where it is not split."""
    found = _PART.search(file)
    if found is None:
        return (file,)
    count = int(found[2])
    return tuple(f"{stem(file)}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))


def is_weights(file: str) -> bool:
    """A model's file, not an image projector or an importance matrix."""
    base = file.rsplit("/", 1)[-1].lower()
    return base.endswith(".gguf") and not base.startswith("imatrix") and "mmproj" not in base


def choose_file(files: Sequence[str], quant: str, name: str) -> str:
    """The GGUF file of `quant` (or of the usual one), its first part where it is split.

    Raises `UnknownModel` with the quantisations there are.
    """
    wanted = quant or USUAL
    matching = [file for file in files if quant_of(file).lower() == wanted.lower()]
    if not matching and not quant and len({stem(file) for file in files}) == 1:
        matching = list(files)
    if not matching:
        have = ", ".join(sorted({found for file in files if (found := quant_of(file))}))
        raise UnknownModel(
            f"{name} has no file in {wanted}",
            hint=f"it has {have}; name one as hf.co/{name}:QUANT" if have else "",
        )
    return min(matching)


def choose_projector(files: Iterable[str]) -> str:
    """The image projector among a repository's files, half precision first; empty: it has none."""
    order = ("F16", "BF16", "Q8_0", "F32")
    found = [file for file in files if file.endswith(".gguf") and "mmproj" in file.rsplit("/", 1)[-1].lower()]
    return min(
        found,
        key=lambda file: (order.index(q) if (q := quant_of(file)) in order else len(order), file),
        default="",
    )
