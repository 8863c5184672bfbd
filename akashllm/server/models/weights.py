"""Weights that are not here yet: what brings them to the volume, and whether that is needed at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from akashllm.errors import BadName, DownloadFailed, UnknownModel
from akashllm.gguf_files import choose_file, choose_projector, is_weights, parts_of, same_set
from akashllm.server.models import whispers
from akashllm.server.models.download import download
from akashllm.server.models.hub import Hub, RemoteFile, Repository
from akashllm.server.models.origin import Origin, file_name
from akashllm.server.models.snapshot import Snapshots
from akashllm.server.models.source import Patience

Told = Callable[[str, int, int | None], None]
"""Called with the file that is coming, the bytes of all files that are there, and of how many (or None)."""

Choice = Literal["gguf", "vision", "folder", "whisper"]
"""What of a repository is needed: one GGUF model, that and its image projector, what vLLM reads, or a Whisper
in CTranslate2's format."""

_FOLDERS = frozenset({"folder", "whisper"})

_SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MAX_SIDE_FILE = 128 << 20
_MAGIC = b"GGUF"


class Weights(Protocol):
    """One model's files on their way. `shown` is what to call them in a sentence."""

    @property
    def shown(self) -> str:
        """A name for people."""
        ...

    def here(self) -> Path | None:
        """The model, if all of it is there: a GGUF file (its first part) or a folder. Asks no network."""
        ...

    async def fetch(self, told: Told) -> Path:
        """Bring what is missing. Raises `DownloadFailed`, `DigestMismatch` or `UnknownModel`, in words."""
        ...


class HubWeights:
    """Files of a repository of the hub, below `root`. What is there complete is used without asking the hub."""

    def __init__(self, hub: Hub, origin: Origin, root: Path, choice: Choice) -> None:
        self._hub = hub
        self._origin = origin
        self._choice: Choice = choice
        self._snapshots = Snapshots(root, origin.name)
        self._request = f"{origin.revision}\0{origin.file}\0{origin.quant}\0{choice}"

    @property
    def shown(self) -> str:
        """`hf.co/org/repo`."""
        return self._origin.shown

    def here(self) -> Path | None:
        """The model's file or folder, if it is complete."""
        found = self._snapshots.find(self._request)
        if found is None:
            return None
        return found.folder if self._choice in _FOLDERS else found.files[0]

    def projector(self) -> Path | None:
        """The image projector that came along, if there is one."""
        found = self._snapshots.find(self._request)
        files = () if found is None or self._choice != "vision" else found.files
        return next((file for file in files if not is_weights(file.name)), None)

    async def fetch(self, told: Told) -> Path:
        """List the repository, choose, fetch, and note that all is there."""
        found = await asyncio.to_thread(self.here)
        if found is not None:
            return found
        repository = await self._hub.repository(self._origin.name, self._origin.revision)
        files = chosen(repository, self._origin, self._choice)
        await asyncio.to_thread(self._snapshots.make_room, repository.commit, files, self.shown)
        folder, total, before = self._snapshots.folder(repository.commit), sum(file.size for file in files), 0
        for file in files:

            def tell(done: int, _: int | None, file: RemoteFile = file, before: int = before) -> None:
                told(file.path, before + done, total)

            tell(0, None)
            path = await self._hub.fetch(repository, file, folder / file.path, progress=tell)
            if file.path.endswith(".gguf"):
                await asyncio.to_thread(check_gguf, path)
            before += file.size
        await asyncio.to_thread(self._snapshots.complete, self._request, repository.commit, files)
        return folder if self._choice in _FOLDERS else folder / files[0].path


class UrlWeights:
    """A GGUF file behind an address, with its further parts where its name says that there are any."""

    def __init__(self, origin: Origin, root: Path, *, patience: Patience | None = None) -> None:
        self._origin = origin
        self._patience = patience
        key = origin.name.partition("?")[0] + (f"#{origin.digest}" if origin.digest else "")
        self._folder = root / "files" / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._names = parts_of(file_name(origin.name))
        if len(self._names) > 1 and origin.digest is not None:
            raise BadName("a model in several parts has no single digest", hint="leave #sha256= out")

    @property
    def shown(self) -> str:
        """Host and path, without what may be secret."""
        return self._origin.shown

    def here(self) -> Path | None:
        """The (first) file: a download has its name only once it is whole."""
        files = [self._folder / name for name in self._names]
        return files[0] if all(file.is_file() for file in files) else None

    async def fetch(self, told: Told) -> Path:
        """Every part, one after the other."""
        only, before = len(self._names) == 1, 0
        for name in self._names:

            def tell(done: int, total: int | None, name: str = name, before: int = before) -> None:
                told(name, before + done, total if only else None)

            address = self._origin.name if only else _sibling(self._origin.name, name)
            path = await download(
                address, self._folder / name, digest=self._origin.digest, progress=tell, patience=self._patience
            )
            await asyncio.to_thread(check_gguf, path)
            before += await asyncio.to_thread(_size, path)
        return self._folder / self._names[0]


def chosen(repository: Repository, origin: Origin, choice: Choice) -> tuple[RemoteFile, ...]:
    """The files of a repository that are needed, the model's first one at the front.

    Raises `UnknownModel` where it holds nothing of that kind, and says what it does hold.
    """
    files = {file.path: file for file in repository.files}
    if choice == "folder":
        return _folder_files(repository, files)
    if choice == "whisper":
        return _whisper_files(repository, files)
    models = sorted(path for path in files if is_weights(path))
    if origin.file:
        first = parts_of(origin.file)[0]
        if first not in files:
            raise UnknownModel(
                f"{repository.name} has no file {origin.file}", hint=_has(models, repository.name)
            )
    elif models:
        first = choose_file(models, origin.quant, repository.name)
    else:
        raise UnknownModel(
            f"{repository.name} has no GGUF files",
            hint="name a repository of GGUF files, or use the engine vllm for this one",
        )
    wanted = list(parts_of(first))
    missing = [path for path in wanted if path not in files]
    if missing:
        have = sum(same_set(first, path) for path in models)
        raise UnknownModel(f"{repository.name} has {have} of the {len(wanted)} parts of {first}")
    if choice == "vision" and (projector := choose_projector(files)):
        wanted.append(projector)
    return tuple(files[path] for path in wanted)


def _folder_files(repository: Repository, files: dict[str, RemoteFile]) -> tuple[RemoteFile, ...]:
    """Weights as safetensors, and the small files beside them; nothing that can run code (.bin, .pt, .py)."""
    top = sorted(path for path in files if path.endswith(".safetensors") and "/" not in path)
    # Mistral's repositories hold the same weights twice; vLLM reads the ones that transformers does.
    weights = [path for path in top if not path.startswith("consolidated")] or top
    if not weights or "config.json" not in files:
        also = "; it holds GGUF files: use the engine llamacpp" if any(map(is_weights, files)) else ""
        raise UnknownModel(
            f"{repository.name} has no safetensors files with a config.json",
            hint=f"weights in other formats can run code and are not loaded{also}",
        )
    small = sorted(
        path
        for path, file in files.items()
        if path.endswith(_SIDE_FILES) and path.count("/") <= 1 and file.size <= _MAX_SIDE_FILE
    )
    # The small ones first: what is wrong with them is known before the large ones are here.
    return tuple(files[path] for path in [*small, *weights])


def _whisper_files(repository: Repository, files: dict[str, RemoteFile]) -> tuple[RemoteFile, ...]:
    found = whispers.model_files(files)
    if not found:
        raise UnknownModel(
            f"{repository.name} has no Whisper in CTranslate2's format",
            hint="that is model.bin, config.json and tokenizer.json, as in Systran/faster-whisper-small",
        )
    return tuple(files[path] for path in found)


def check_gguf(path: Path) -> None:
    """Remove what is no GGUF file and say so: an address may answer with anything."""
    with path.open("rb") as file:
        good = file.read(len(_MAGIC)) == _MAGIC
    if not good:
        path.unlink()
        raise DownloadFailed(f"{path.name} is no GGUF file", hint="check the address", code="not_gguf")


def _size(path: Path) -> int:
    return path.stat().st_size


def _has(models: list[str], name: str) -> str:
    return f"it has {', '.join(models[:5])}" if models else f"look at hf.co/{name}"


def _sibling(address: str, name: str) -> str:
    parsed = urlsplit(address)
    return parsed._replace(path=parsed.path.rpartition("/")[0] + "/" + name).geturl()
