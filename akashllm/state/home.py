"""The directory that holds the record: found, made private, and refused when others could read it."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from akashllm.errors import BadName, StateError

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,62}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Home:
    """`AKASHLLM_HOME`, else `$XDG_STATE_HOME/akashllm`, else `~/.local/state/akashllm`."""

    root: Path

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None) -> Home:
        """The directory this user means; nothing is made or read yet."""
        environ = os.environ if environ is None else environ
        if environ.get("AKASHLLM_HOME"):
            return cls(Path(environ["AKASHLLM_HOME"]).expanduser().absolute())
        # The XDG base directory specification ignores a relative path.
        state = Path(environ.get("XDG_STATE_HOME") or "")
        if not state.is_absolute():
            try:
                state = Path.home() / ".local" / "state"
            except RuntimeError:
                raise StateError(
                    "this user has no home directory", hint="set AKASHLLM_HOME to a directory of yours"
                ) from None
        return cls(state / "akashllm")

    @property
    def database(self) -> Path:
        """The record of deployments."""
        return self.root / "state.db"

    @property
    def crashes(self) -> Path:
        """Tracebacks of akashllm's own failures."""
        return self.root / "crashes"

    @property
    def local(self) -> Path:
        """What the market `local` remembers by itself, as a market elsewhere would."""
        return self.root / "local"

    @property
    def containers(self) -> Path:
        """The same for the market `docker`."""
        return self.root / "docker"

    def directory(self, name: str, number: int) -> Path:
        """The directory of one deployment: its SDL, its manifest, its key.

        It keeps the name that it was made with, whatever the deployment is called since: its number is its own.
        """
        root = self.root / "deployments"
        path = root / f"{safe_name(name)}-{number}"
        return path if path.exists() else next(iter(root.glob(f"*-{number}")), path)

    def prepare(self) -> Home:
        """Make the directory if there is none; raise `StateError` if it is not this user's alone."""
        private_directory(self.root)
        return self

    @contextmanager
    def lock(
        self, name: str, *, wait: bool = True, waiting: Callable[[], None] | None = None
    ) -> Iterator[bool]:
        """Hold the name for the length of a block; yields whether it is held.

        wait      False: do not wait for another process that holds it
        waiting   called once before this process starts to wait
        """
        directory = self.prepare().root / "locks"
        private_directory(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory / f"{safe_name(name)}.lock", flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                if waiting:
                    waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield True
        finally:
            os.close(descriptor)


def safe_name(name: str) -> str:
    """The name, once it is certain that it can be a file's name. Raises `BadName`."""
    if not _NAME.fullmatch(name):
        raise BadName(
            "a deployment's name has small letters, digits and hyphens, and begins with a letter",
            hint="give another one with --name",
        )
    return name


def private_directory(path: Path) -> None:
    """Make `path` with mode 0700, or check that it is a directory of this user that nobody else can enter."""
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
        check_private(path, directory=True)
    except OSError as error:
        raise StateError(
            f"{path} cannot be used: {error.strerror or error}",
            hint="set AKASHLLM_HOME to a directory that you can write",
        ) from error


def check_private(path: Path, *, directory: bool = False) -> None:
    """Raise `StateError` unless `path` itself, not a link, is this user's and closed to everybody else."""
    status = path.lstat()
    right = stat.S_ISDIR(status.st_mode) if directory else stat.S_ISREG(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        raise StateError(
            f"{path} is a symbolic link, and what it leads to may be another's",
            hint="set AKASHLLM_HOME to the real directory, or remove the link",
        )
    if not right:
        kind = "directory" if directory else "plain file"
        raise StateError(f"{path} is no {kind}", hint="move it away, or set AKASHLLM_HOME to another directory")
    if status.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to another user", hint="set AKASHLLM_HOME to a directory of your own")
    if status.st_mode & 0o077:
        mode = "700" if directory else "600"
        raise StateError(
            f"{path} can be read by other users of this machine, and keys are kept there",
            hint=f"run: chmod {mode} {path}",
        )
