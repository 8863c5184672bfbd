"""What a model is to be made of, read from a Modelfile or from the fields of a request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akashllm.digests import Sha256
from akashllm.errors import BadName, BadRequest
from akashllm.names import ModelName
from akashllm.server.models.modelfile import Modelfile
from akashllm.server.models.store import ModelStore

_BLOB = re.compile(r"(?:^|[/\\])sha256[:-](?P<hex>[0-9a-f]{64})$")
_ENDINGS = (".gguf", ".bin", ".safetensors", ".pt", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model to be made, in the words of `POST /api/create`.

    base        the model whose layers it inherits;  files, adapters: or the files it is made of, by their names
    template, system, messages   replace what is inherited; None leaves it
    parameters  typed, merged over what is inherited;  licenses: added to it
    info        what the configuration says instead of what the files say
    quantize    a type to quantise to;  old: whether progress is told in the words of Ollama before 0.5.5
    """

    name: ModelName
    base: ModelName | None = None
    files: Mapping[str, Sha256 | Path] = field(default_factory=dict)
    adapters: Mapping[str, Sha256 | Path] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    quantize: str = ""
    old: bool = False


def from_modelfile(store: ModelStore, name: ModelName, modelfile: Modelfile, *, quantize: str = "") -> Recipe:
    """The recipe a Modelfile is. Raises `BadRequest` for what it names that cannot be used."""
    if modelfile.all("draft"):
        raise BadRequest("DRAFT models are not supported: leave the line out", param="modelfile")
    found = [locate(store, text, "FROM") for text in modelfile.all("from")]
    files = {f"{number}.gguf": one for number, one in enumerate(found) if not isinstance(one, ModelName)}
    bases = [one for one in found if isinstance(one, ModelName)]
    if len(bases) > 1 or (bases and files):
        raise BadRequest("a Modelfile builds on one model, or on files: it has several FROM lines")
    adapters = [locate(store, text, "ADAPTER") for text in modelfile.all("adapter")]
    if any(isinstance(one, ModelName) for one in adapters):
        raise _nothing_there("ADAPTER")
    return Recipe(
        name=name,
        base=bases[0] if bases else None,
        files=files,
        adapters={f"{n}.gguf": one for n, one in enumerate(adapters) if not isinstance(one, ModelName)},
        template=modelfile.last("template"),
        system=modelfile.last("system"),
        licenses=tuple(modelfile.all("license")),
        parameters=modelfile.parameters,
        messages=modelfile.messages or None,
        renderer=modelfile.last("renderer") or "",
        parser=modelfile.last("parser") or "",
        requires=(modelfile.last("requires") or "").removeprefix("v"),
        quantize=quantize,
        old=True,
    )


def locate(store: ModelStore, text: str, command: str) -> Sha256 | Path | ModelName:
    """What FROM or ADAPTER means: a file of the store by its digest, one in the store's folder, a model's name.

    A path whose last part is a blob's name means that blob, wherever the path says it is: in the user's
    document it is a path of the machine the document was written on. Raises `BadRequest` for paths out of the
    store, in the same words whether something is there or not.
    """
    plain = text.strip().removeprefix("@")
    blob = _BLOB.search(plain)
    if blob is not None:
        return Sha256(blob["hex"])
    if plain.startswith(("/", "~", ".")) or "\\" in plain or plain.lower().endswith(_ENDINGS):
        return within(store, plain, command)
    try:
        return ModelName.parse(plain)
    except BadName as error:
        raise BadRequest(error.message, hint=error.hint, param="modelfile") from error


def within(store: ModelStore, text: str, what: str) -> Path:
    """A file in the store's folder. Raises `BadRequest` for any other path."""
    root = store.layout.root
    try:
        path = Path(os.path.realpath(root / text))
        if path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError) as error:
        raise _nothing_there(what) from error
    raise _nothing_there(what)


def _nothing_there(what: str) -> BadRequest:
    return BadRequest(
        f"{what} names no file of the model store: upload it to /api/blobs/sha256:DIGEST first, "
        "and name it by that digest",
        param="modelfile",
    )
