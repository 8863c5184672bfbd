"""GPUs under the market's names, with the memory their driver really reports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from akashllm.catalog.reading import build, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    model        the market's word, as `akash.network` attributes spell it
    ram_gib      the market's memory word without its `Gi`
    memory_mib   what `nvidia-smi` shows as total: less than the word where ECC takes its share
    interfaces   pcie, sxm
    compute      CUDA compute capability, as a pair
    source       where memory and capability were read
    """

    model: str
    ram_gib: int
    memory_mib: int
    interfaces: tuple[str, ...]
    compute: str
    source: str

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability as numbers that compare."""
        major, minor = self.compute.split(".")
        return int(major), int(minor)

    @property
    def memory_gib(self) -> float:
        """Usable memory in GiB."""
        return self.memory_mib / 1024

    @property
    def label(self) -> str:
        """`a100 80Gi`: what tells it from its siblings."""
        return f"{self.model} {self.ram_gib}Gi"


def with_article(model: str) -> str:
    """A GPU's name with its article: an h100, a t4, an rtx4090."""
    return f"{'an' if model[0] in 'aefhilmnorsx' else 'a'} {model}"


@cache
def load_gpus() -> tuple[Gpu, ...]:
    """Every GPU in `gpus.toml`, in the order of the file."""
    rows = table("gpus.toml")["gpu"]
    return tuple(build(Gpu, row, f"gpus.toml: {row.get('model', '?')}") for row in rows)
