"""Placeholders for secrets: an SDL names them, the market fills them in, and nothing is ever written to disk.

A placeholder is a whole value spelled `${NAME}`: `AKASHLLM_API_KEY=${AKASHLLM_API_KEY}` in an `env` list, or a
password under `credentials`. Kubernetes expands `$(NAME)` but not `${NAME}`, so an SDL that somebody deploys
unfilled hands the text itself to the service, which refuses to start on it. Docker Compose fills the same
spelling from the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from akashllm.errors import UsageError
from akashllm.sdl.document import Document, Path, parse

_PLACEHOLDER = re.compile(r"\$\{([A-Z][A-Z0-9_]{0,127})\}")
_UNSAFE = re.compile("[\\x7f-\\x9f\\xad\\u2028\\u2029\\ufeff\\ufffe\\uffff]")

SEALED = "ac-secret://"
"""The Console's own form of a secret that only the provider's side can open (`sealedSecrets`)."""


def placeholder(name: str) -> str:
    """How the SDL spells a secret of that name."""
    return f"${{{name}}}"


def sealed(name: str) -> str:
    """What the Console expects in the place of a sealed secret of that name."""
    return SEALED + name


def is_placeholder(value: str) -> bool:
    """Whether a value is a placeholder that nobody filled."""
    return _PLACEHOLDER.fullmatch(value) is not None


def placeholders(text: str) -> tuple[str, ...]:
    """The names of all secrets the SDL wants, sorted."""
    return tuple(sorted({name for _, _, name in _find(parse(text))}))


def fill(text: str, values: Mapping[str, str]) -> str:
    """The SDL with each placeholder replaced; everything else keeps its bytes.

    A secret may hold any text a container's environment can: it is quoted for YAML here. `UsageError` names
    the placeholders that `values` does not answer; a value never appears in an error.
    """
    document = parse(text)
    found = _find(document)
    missing = sorted({name for _, _, name in found} - values.keys())
    if missing:
        raise UsageError(
            f"the SDL wants {', '.join(missing)} and no value was given",
            hint=f"set {missing[0]} in the environment",
        )
    result = document.text
    places = {document.spans[path]: (prefix, name) for path, prefix, name in found}
    for (start, end), (prefix, name) in sorted(places.items(), reverse=True):
        value = values[name]
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise UsageError(f"the value of {name} holds a character that no environment variable can")
        result = result[:start] + quote(prefix + value) + result[end:]
    return result


def quote(value: str) -> str:
    """A YAML double-quoted scalar on one line that reads back as exactly `value`."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _find(document: Document) -> list[tuple[Path, str, str]]:
    """(path, text before the placeholder, name) of every placeholder that stands in the file itself."""
    found = []
    for path in document.spans:
        kind = path[2] if len(path) == 4 and path[0] == "services" else None
        if kind not in {"env", "credentials"}:
            continue
        value = document.data["services"][path[1]][path[2]][path[3]]
        if not isinstance(value, str):
            continue
        prefix, equals, secret = value.partition("=") if kind == "env" else ("", "", value)
        match = _PLACEHOLDER.fullmatch(secret)
        if match:
            found.append((path, prefix + equals, match[1]))
    return found
