"""The key for Console's API: from the environment, a file, or what `akashllm login` kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from akashllm.errors import KeyRefused
from akashllm.state.home import Home, private_directory
from akashllm.state.private import read_private, write_private

VARIABLE = "AKASH_CONSOLE_API_KEY"
FILE_VARIABLE = "AKASH_CONSOLE_API_KEY_FILE"

WHERE = "console.akash.network, under API keys, makes one; then `akashllm login`"
_MAX = 512


class ApiKey:
    """A key that no `repr`, format or traceback shows; `secret()` gives it away on purpose."""

    __slots__ = ("_value",)

    def __init__(self, text: str) -> None:
        value = text.strip()
        if not value or len(value) > _MAX or not value.isascii() or not value.isprintable() or " " in value:
            raise KeyRefused("Console's API key is empty or is no key", hint=WHERE)
        self._value = value

    def secret(self) -> str:
        """The key itself."""
        return self._value

    @property
    def mark(self) -> str:
        """Tells it from another key, and nothing about it."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"ApiKey(...{self._value[-4:]})" if len(self._value) > 16 else "ApiKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled")


def kept(home: Home) -> Path:
    """Where `akashllm login` keeps the key."""
    return home.root / "console" / "account" / "api-key"


def find_key(home: Home, environ: Mapping[str, str] | None = None) -> ApiKey | None:
    """The key this user has, or None. Raises `KeyRefused` or `StateError` for one that cannot be used."""
    environ = os.environ if environ is None else environ
    if environ.get(VARIABLE, "").strip():
        return ApiKey(environ[VARIABLE])
    if named := environ.get(FILE_VARIABLE):
        return ApiKey(read_private(Path(named).expanduser()))
    path = kept(home)
    return ApiKey(read_private(path)) if path.exists() else None


def keep_key(home: Home, key: ApiKey) -> Path:
    """Keep the key in a file of mode 0600; its path."""
    path = kept(home)
    home.prepare()
    for directory in (path.parent.parent, path.parent):
        private_directory(directory)
    write_private(path, key.secret() + "\n")
    return path


def forget_key(home: Home) -> bool:
    """Remove the key that `login` kept; whether there was one."""
    path = kept(home)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there
