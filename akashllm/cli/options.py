"""Options that mean the same on every command, once."""

from __future__ import annotations

import os
import stat
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from akashllm.errors import AkashllmError, UsageError
from akashllm.plan import EngineName
from akashllm.state import Home, Store

ENGINES: dict[str, EngineName] = {
    "llamacpp": "llamacpp",
    "llama.cpp": "llamacpp",
    "llama-cpp": "llamacpp",
    "vllm": "vllm",
    "ollama": "ollama",
}
_MAX_KEY = 4096


def engine_named(text: str) -> EngineName:
    """The engine of any spelling. Raises `UsageError`."""
    engine = ENGINES.get(text.lower())
    if engine is None:
        raise UsageError("no engine has that name", hint="use llamacpp, vllm or ollama")
    return engine


def _dollars(text: str) -> float:
    """What `--max-price` says; another unit gets the same answer as a number that is no price."""
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--max-price {text[:40]!r} is no price", hint="give US dollars an hour, such as 1.50"
        ) from None


def _count(text: str) -> int:
    """What `--parameters` says: a number as it is, or as models are named, such as 7B."""
    units = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
    digits, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    try:
        return int(Decimal(digits) * unit)
    except (ArithmeticError, ValueError):
        raise UsageError(
            f"--parameters {text[:40]!r} is no number", hint="give all of them, such as 8030261248 or 7B"
        ) from None


def _names(incomplete: str) -> list[str]:
    """Names of open deployments, for the shell's completion."""
    try:
        home = Home.find()
        if not home.database.exists():
            return []
        with Store(home) as store:
            return [row.name for row in store.all() if row.name.startswith(incomplete)]
    except AkashllmError:
        return []


def _engines(incomplete: str) -> list[str]:
    return [name for name in ("llamacpp", "ollama", "vllm") if name.startswith(incomplete)]


def _models(incomplete: str) -> list[str]:
    from akashllm.catalog import Catalog

    return [model.alias for model in Catalog.load() if model.alias.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors included.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to every question.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name, number or unambiguous beginning of either.", autocompletion=_names
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Alias (`akashllm models`), repository of the Hugging Face hub, or path of a .gguf file.",
        autocompletion=_models,
    ),
]
Engine = Annotated[
    str,
    typer.Option("--engine", "-e", metavar="ENGINE", help="llamacpp, vllm or ollama.", autocompletion=_engines),
]
Context = Annotated[int | None, typer.Option("--context", metavar="TOKENS", help="Tokens one request may use.")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", help="Requests answered at once.")
]
Quant = Annotated[
    str | None, typer.Option("--quant", metavar="NAME", help="Quantisation, such as Q4_K_M, fp8 or awq.")
]
Gpu = Annotated[
    list[str] | None,
    typer.Option("--gpu", metavar="GPU", help="GPU that will do, such as h100; may be repeated."),
]
GpuCount = Annotated[
    int | None, typer.Option("--gpu-count", metavar="N", help="GPUs of one replica: 1, 2, 4 or 8.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="No GPU.")]
Region = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="Region of the provider, such as us-west.")
]
MaxPrice = Annotated[
    float | None,
    typer.Option("--max-price", metavar="DOLLARS", parser=_dollars, help="US dollars an hour for everything."),
]
Replicas = Annotated[int, typer.Option("--replicas", metavar="N", help="How many of it.")]
Nodes = Annotated[
    int, typer.Option("--nodes", metavar="N", help="Machines that share one copy of the model; vLLM only.")
]
Image = Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="Container image instead of ours.")]
Manage = Annotated[
    bool,
    typer.Option("--manage", help="With an admin key too, to pull, make and delete models; llama.cpp only."),
]
NoVolume = Annotated[
    bool,
    typer.Option("--no-volume", help="No persistent volume: each new container fetches its weights again."),
]
AnyProvider = Annotated[
    bool, typer.Option("--any-provider", help="Take bids of providers that nobody has audited, too.")
]
Parameters = Annotated[
    int | None,
    typer.Option(
        "--parameters",
        metavar="N",
        parser=_count,
        help="Parameters of a model whose files cannot be read, such as 7B; with it go the next six.",
    ),
]
Layers = Annotated[int | None, typer.Option("--layers", metavar="N", help="Its layers.")]
Hidden = Annotated[int | None, typer.Option("--hidden", metavar="N", help="Its hidden size.")]
Heads = Annotated[
    int | None,
    typer.Option("--heads", metavar="N", help="Its attention heads.  [default: hidden size / head size]"),
]
KvHeads = Annotated[
    int | None,
    typer.Option("--kv-heads", metavar="N", help="Its heads of keys and values."),
]
HeadSize = Annotated[int | None, typer.Option("--head-size", metavar="N", help="The size of one head.")]
Vocab = Annotated[
    int | None,
    typer.Option("--vocab", metavar="N", help="Tokens in its vocabulary.  [default: 262144]"),
]
LivePrices = Annotated[
    bool,
    typer.Option("--live-prices", help="Ask Akash's Console what GPUs cost today, and not the dated table."),
]
Templates = Annotated[
    Path | None,
    typer.Option("--templates", metavar="DIR", help="Templates that stand before ours."),
]
DeploymentName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the deployment.  [default: MODEL-ENGINE]")
]
KeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key."),
]
KeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", metavar="FILE", help="File that holds the API key; - is stdin.")
]


def read_key(variable: str | None, file: Path | None) -> str | None:
    """The key that an option points to; None if neither does. Messages never hold it."""
    if variable and file:
        raise UsageError("--api-key-env and --api-key-file contradict each other", hint="leave one of them out")
    if variable:
        key = os.environ.get(variable)
        if key is None:
            raise UsageError(
                f"the environment has no variable {variable[:64]!r}",
                hint="--api-key-env takes the name of a variable, not the key itself",
            )
    elif file:
        key = _key_of_file(file)
    else:
        return None
    key = key.strip()
    if not key or len(key) > _MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError("the API key is empty or is no key", hint="a key is one line of printable ASCII")
    return key


def _key_of_file(file: Path) -> str:
    if str(file) == "-":
        return sys.stdin.readline(_MAX_KEY + 2)
    try:
        with file.open(encoding="utf-8") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                print(f"warning: other users may read {file}: chmod 600 it", file=sys.stderr)
            return opened.read(_MAX_KEY + 2)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"the key file cannot be read: {reason}", hint="--api-key-file takes a path, not the key itself"
        ) from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises `UsageError` where nobody can answer, and `AkashllmError` for a no."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} Nobody is there to answer", hint="add --yes if you mean it")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise AkashllmError("left as it is", hint="answer y, or add --yes")
