"""Jinja, fenced in: a sandbox, no undefined names, plain data only, and no value that is not escaped.

Every expression in a template must end in one of the filters below. Each returns `Safe` text for one place
(a YAML value, a Dockerfile word, a comment); the environment refuses to print anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from akashllm.assets import templates
from akashllm.errors import BadName, UsageError
from akashllm.sdl.secrets import quote

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_DOCKER_VALUE = re.compile(r"[\x20-\x7e]*")
_MAX_DEPTH = 20


class Safe(str):
    """Text that a filter has made fit for its place."""

    __slots__ = ()


def yaml_value(value: Any) -> Safe:
    """A YAML scalar that reads back as exactly this value."""
    if value is None:
        return Safe("null")
    if isinstance(value, bool):
        return Safe("true" if value else "false")
    if isinstance(value, (int, float)):
        return Safe(json.dumps(value, allow_nan=False))
    return Safe(quote(_text(value, "YAML")))


def compose_value(value: Any) -> Safe:
    """A YAML scalar for a Compose file, where `$` starts a variable unless it is doubled."""
    return yaml_value(value.replace("$", "$$") if isinstance(value, str) else value)


def docker_value(value: Any) -> Safe:
    """One double-quoted Dockerfile word: no newline can start another instruction, no `$` names a variable."""
    text = _one_line(value, "a Dockerfile")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return Safe(f'"{escaped}"')


def docker_list(value: Any) -> Safe:
    """The JSON form of CMD and ENTRYPOINT."""
    return Safe(json.dumps([_one_line(item, "a Dockerfile") for item in value]))


def word(value: Any) -> Safe:
    """A name or version that stands bare: letters, digits, dot, dash, underscore."""
    text = str(value)
    if not _WORD.fullmatch(text):
        raise BadName("a name in a generated file holds a character that is no letter, digit, dot or dash")
    return Safe(text)


def reference(value: Any) -> Safe:
    """An image reference that stands bare."""
    text = str(value)
    if not _REFERENCE.fullmatch(text):
        raise BadName(
            "an image reference holds a character that none can", hint="write it as name:tag@sha256:..."
        )
    return Safe(text)


def comment(value: Any) -> Safe:
    """The rest of a `#` line: whatever could end the line or look like a control code becomes a space."""
    return Safe("".join(character if character.isprintable() else " " for character in str(value))[:400])


FILTERS: Mapping[str, Callable[[Any], Safe]] = {
    "yaml": yaml_value,
    "compose": compose_value,
    "docker": docker_value,
    "docker_list": docker_list,
    "word": word,
    "reference": reference,
    "comment": comment,
}


def check_plain(value: Any, where: str = "context", depth: int = 0) -> None:
    """Refuse anything but str, int, float, bool, None, list and dict: a rich object defeats the sandbox."""
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where} is nested deeper than {_MAX_DEPTH} levels")
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise UsageError(f"{where} has a key that is not text")
            check_plain(item, f"{where}.{key}", depth + 1)
    elif type(value) is list:
        for item in value:
            check_plain(item, where, depth + 1)
    elif value is not None and type(value) not in {str, int, float, bool}:
        raise UsageError(f"{where} is a {type(value).__name__}: templates see plain data only")


def render(name: str, context: dict[str, Any], *, overrides: Path | None = None) -> str:
    """The text of one template. `overrides` is a directory whose templates come before ours."""
    check_plain(context)
    environment = _environment(overrides)
    try:
        return environment.get_template(name).render(context)
    except TemplateNotFound as error:
        raise UsageError(f"there is no template {error.name}") from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f"{name}:{line}" if line else name
        hint = f"mend it in {overrides}, or take it away: ours then stands in its place" if overrides else ""
        raise UsageError(f"template {place}: {error.message}", hint=hint) from None


def _environment(overrides: Path | None) -> ImmutableSandboxedEnvironment:
    roots = [templates()]
    if overrides is not None:
        _check_overrides(overrides)
        roots.insert(0, overrides)
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(roots, followlinks=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=_finalize,
    )
    environment.filters = dict(FILTERS)
    environment.globals.clear()
    return environment


def _finalize(value: Any) -> Any:
    if not isinstance(value, Safe) and not isinstance(value, StrictUndefined):
        raise UsageError(
            "a template prints a value that no filter has escaped", hint="end it in | yaml or | docker"
        )
    return value


def _check_overrides(directory: Path) -> None:
    """Refuse a template directory that leads out of itself."""
    if not directory.is_dir():
        raise UsageError(
            "the template directory does not exist or is not a directory",
            hint="name one that holds templates of yours, such as sdl.yaml.j2",
        )
    root = directory.resolve()
    for path in directory.rglob("*"):
        if not path.resolve().is_relative_to(root):
            raise UsageError(
                f"the template {path.relative_to(directory)} is a link that leaves the template directory",
                hint="copy the file instead of linking it",
            )


def _text(value: Any, what: str) -> str:
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadName(f"a value for {what} is not Unicode text")
    return text


def _one_line(value: Any, what: str) -> str:
    text = str(value)
    if not _DOCKER_VALUE.fullmatch(text):
        raise BadName(f"a value for {what} holds a newline or a character outside ASCII")
    return text
