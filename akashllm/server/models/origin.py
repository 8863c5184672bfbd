"""Where a model's weights come from, as one string says it: what AKASHLLM_MODEL may hold.

::

    tiny                                         the bundled model
    /models/m.gguf                               a file of this machine
    hf.co/org/repo[@REVISION][:QUANT]            a repository of the Hugging Face hub
    hf.co/org/repo[@REVISION]/path/file.gguf     one file of it
    https://host/path/m.gguf[#sha256=HEX]        a file behind an address
    llama3.2:1b                                  a name of Ollama's library

The hub's host may be written hf.co/, huggingface.co/ or hf://. `REVISION` is a branch, a tag or a commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from akashllm.digests import Sha256
from akashllm.errors import BadName
from akashllm.names import ModelName

Kind = Literal["local", "hub", "url", "library"]

_HUB = re.compile(
    r"(?:hf://|(?:https?://)?(?:hf\.co|huggingface\.co)/)(?P<repository>[^/:@#?]+/[^/:@#?]+)(?:@(?P<revision>[^/:@#?]+))?"
    r"(?:/(?P<file>[^:@#?]+)|:(?P<quant>[^/:@#?]+))?"
)
_ADDRESS = re.compile(
    r"(?P<repository>[^/:@#?]+/[^/:@#?]+)/(?:resolve|blob)/(?P<revision>[^/:@#?]+)/(?P<file>[^:@#?]+)"
)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}", re.ASCII)
_MAX = 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """What a string names. Only what its kind needs is filled in.

    name        hub: `org/repo`; url: the address without its fragment; library: the name; local: the path
    revision    hub: empty is the newest of the main branch
    file        hub: one file of the repository; empty: chosen by `quant`, or the whole repository for vLLM
    digest      url: what `#sha256=` promises
    """

    kind: Kind
    name: str
    revision: str = ""
    file: str = ""
    quant: str = ""
    digest: Sha256 | None = None

    @property
    def shown(self) -> str:
        """What to call it in a sentence; an address without what may be secret in it."""
        if self.kind == "url":
            address = urlsplit(self.name)
            return f"{address.hostname}{address.path}"
        return f"hf.co/{self.name}" if self.kind == "hub" else self.name


def parse_origin(text: str) -> Origin:
    """Read where weights come from. Raises `BadName` for what cannot be any of the forms."""
    if not text or len(text) > _MAX or not text.isprintable():
        raise BadName("the model is malformed", hint=_HINT)
    hub = _HUB.fullmatch(text)
    if hub:
        return _of_hub(text, hub)
    if text.startswith(("http://", "https://")):
        return _of_address(text)
    if text.startswith(("hf.co/", "huggingface.co/")) or "://" in text:
        raise BadName("the model is malformed", hint=_HINT)
    if text == "tiny" or text.endswith(".gguf") or text.startswith(("/", "./", "../", "~")):
        return Origin("local", text)
    try:
        ModelName.parse(text)
    except BadName:
        return Origin("local", text)
    return Origin("library", text)


_HINT = (
    "write a path, hf.co/org/repo:QUANT, hf.co/org/repo/file.gguf, https://host/file.gguf or a name of "
    "Ollama's library"
)


def _of_hub(text: str, found: re.Match[str]) -> Origin:
    repository, revision = found["repository"], found["revision"] or ""
    file, quant = found["file"] or "", found["quant"] or ""
    # The address of a file's page, copied from a browser.
    address = _ADDRESS.fullmatch(f"{repository}/{file}") if text.startswith("http") else None
    if address:
        revision, file = address["revision"], address["file"]
    words = [*repository.split("/"), *([revision] if revision else []), *([quant] if quant else [])]
    if not all(_WORD.fullmatch(word) and ".." not in word for word in words) or not safe_path(file or "f"):
        raise BadName("the model is malformed", hint=_HINT)
    return Origin("hub", repository, revision=revision, file=file, quant=quant)


def _of_address(text: str) -> Origin:
    address, _, fragment = text.partition("#")
    try:
        parsed = urlsplit(address)
        host = parsed.hostname
    except ValueError:
        host = None
        parsed = urlsplit("")
    if not host or not PurePosixPath(parsed.path).name:
        raise BadName("the address of the weights is malformed", hint=_HINT)
    if fragment and not fragment.startswith("sha256="):
        raise BadName(
            "the address of the weights ends in something unknown", hint="write #sha256=HEX, or nothing"
        )
    return Origin("url", address, digest=Sha256(fragment.removeprefix("sha256=")) if fragment else None)


def file_name(address: str) -> str:
    """The last part of an address, fit for a folder of ours."""
    name = unquote(PurePosixPath(urlsplit(address).path).name)
    return name if safe_path(name) and "/" not in name else "model.gguf"


def safe_path(path: str) -> bool:
    """Whether a path of a repository stays below the folder it is put into, and is no hidden file."""
    parts = path.split("/")
    return (
        path.isprintable()
        and "\\" not in path
        and len(path) <= _MAX
        and all(part and not part.startswith(".") and len(part.encode()) <= 200 for part in parts)
    )
