"""A build context in memory: the rendered files, our own wheel, and the wheels a person already has."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from akashllm.errors import UsageError
from akashllm.images.wheel import pack
from akashllm.plan import EngineName
from akashllm.render.image import render_image

MAX_WHEEL = 2 << 30
"""Bytes of one wheel; the largest that exist hold CUDA libraries and stay below."""

_IN_MEMORY = 64 << 20
_REQUIREMENT = re.compile(r"(?m)^([A-Za-z0-9][A-Za-z0-9._-]*)==([^ \\;]+)")


@dataclass(frozen=True, slots=True)
class Context:
    """Path -> content, or the file that holds it. `wheels` are the names taken from the wheelhouse."""

    files: Mapping[str, bytes | Path]
    wheels: tuple[str, ...] = ()

    def tar(self) -> IO[bytes]:
        """The context as an archive, the same bytes for the same content; the caller closes it."""
        archive = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed to the caller
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name in sorted(self.files):
                content = self.files[name]
                entry = tarfile.TarInfo(name)
                entry.mode = 0o644
                if isinstance(content, bytes):
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                else:
                    entry.size = content.stat().st_size
                    with content.open("rb") as file:
                        tar.addfile(entry, file)
        archive.seek(0)
        return archive


def make_context(
    engine: EngineName, *, cpu: bool = False, wheelhouse: Path | None = None, overrides: Path | None = None
) -> Context:
    """What `docker build` is given for an image of ours.

    wheelhouse   a directory of wheels: those the image's locks name are used instead of downloads
    overrides    a directory of templates that stand before ours
    Raises `UsageError` for an image that does not exist and for a wheelhouse without a wheel of use.
    """
    rendered = render_image(engine, cpu=cpu, overrides=overrides)
    files: dict[str, bytes | Path] = {name: text.encode() for name, text in rendered.items()}
    own = pack()
    files[f"ours/{own.name}"] = own.data
    found = _wheels(wheelhouse, rendered) if wheelhouse else {}
    files |= {f"wheels/{name}": path for name, path in found.items()}
    return Context(files, tuple(sorted(found)))


def _wheels(folder: Path, rendered: Mapping[str, str]) -> dict[str, Path]:
    """The wheels of `folder` that a lock asks for, by project and version."""
    if not folder.is_dir():
        raise UsageError(
            "the wheelhouse is no directory", hint="make one with: pip download -r requirements.lock -d DIR"
        )
    wanted = {
        (_project(match[1]), match[2])
        for name, text in rendered.items()
        if name.endswith(".lock")
        for match in _REQUIREMENT.finditer(text)
    }
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.whl")):
        parts = path.name.split("-")
        if len(parts) < 5 or (_project(parts[0]), parts[1]) not in wanted:
            continue
        if not path.is_file() or path.stat().st_size > MAX_WHEEL:
            raise UsageError(f"{path.name} in the wheelhouse is no wheel that can be used")
        found[path.name] = path
    if not found:
        raise UsageError(
            "the wheelhouse has no wheel that the image's locks name",
            hint="the locks are the *.lock files of the image: akashllm render writes them to images/",
        )
    return found


def _project(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
