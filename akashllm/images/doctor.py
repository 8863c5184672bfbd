"""What this machine has and lacks for akashllm: each finding with a verdict and what to do about it.

Nothing is changed and no secret is shown: of a key only whether it is there, and whether it can be one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests

from akashllm.assets import templates
from akashllm.errors import AkashllmError, Unreachable
from akashllm.images.engine import DockerEngine, Image
from akashllm.images.pins import pins
from akashllm.state.home import Home, check_private
from akashllm.version import __version__

Verdict = Literal["ok", "warn", "fail"]

GIB = 1 << 30
OLDEST_PYTHON = (3, 11)
OLDEST_API = (1, 40)
"""Docker 19.03: the first whose builder takes every instruction of our Dockerfiles."""

LOW_DISK = 5 * GIB
"""Below this, not even the image without a GPU can be built and pushed in comfort."""

LOW_MEMORY = 4 * GIB
KEYS = {
    "AKASHLLM_API_KEY": "without it, deploy makes a key for each deployment",
    "HF_TOKEN": "needed for gated models only; make one at huggingface.co/settings/tokens",
}
REACH_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` is empty where there is nothing to do."""

    what: str
    verdict: Verdict
    detail: str
    advice: str = ""


def examine(
    home: Home, *, environ: Mapping[str, str] | None = None, reach: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Every finding, as soon as it is known.

    reach   addresses that this machine should be able to reach, such as a registry's
    """
    environ = os.environ if environ is None else environ
    yield _python()
    yield _version()
    yield _engine()
    yield _memory()
    yield _disk("disk", _existing(home.root))
    yield _state(home)
    yield _images(home)
    for name, advice in KEYS.items():
        yield _key(name, advice, environ)
    yield _console(home, environ)
    yield _wallet(environ)
    yield from _docker(environ)
    for url in reach:
        yield _reach(url)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", "fail", text, "install Python 3.11 or newer")
    return Finding("python", "ok", text)


def _version() -> Finding:
    try:
        installed = importlib.metadata.version("akashllm")
    except importlib.metadata.PackageNotFoundError:
        return Finding("akashllm", "warn", f"{__version__}, not installed", "run: pip install -e .")
    if not (templates() / "sdl.yaml.j2").is_file():
        return Finding("akashllm", "fail", f"{__version__} without its templates", "install akashllm again")
    if installed != __version__:
        return Finding(
            "akashllm", "warn", f"{__version__}, installed as {installed}", "run pip install -e . again"
        )
    return Finding("akashllm", "ok", __version__)


def _engine() -> Finding:
    if importlib.util.find_spec("llama_cpp") is None:
        return Finding(
            "llama.cpp",
            "warn",
            "not installed",
            "needed to serve on this machine: pip install akashllm[llamacpp]",
        )
    return Finding("llama.cpp", "ok", f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}")


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return Finding("memory", "warn", "unknown: this system does not tell")
    text = f"{size / GIB:.1f} GiB, {os.cpu_count()} processors"
    if size < LOW_MEMORY:
        return Finding("memory", "warn", text, "serve small models only on this machine")
    return Finding("memory", "ok", text)


def _disk(what: str, path: Path) -> Finding:
    free = shutil.disk_usage(path).free
    text = f"{free / GIB:.1f} GiB free at {path}"
    if free < LOW_DISK:
        return Finding(what, "warn", text, "make room: docker system prune, or delete what you no longer need")
    return Finding(what, "ok", text)


def _state(home: Home) -> Finding:
    if not os.path.lexists(home.root):
        return Finding("state", "ok", f"{home.root} will be made by the first deployment")
    try:
        check_private(home.root, directory=True)
        for path in (home.database, home.root / "images.json"):
            if os.path.lexists(path):
                check_private(path)
        if not os.access(home.root, os.W_OK | os.X_OK):
            return Finding("state", "fail", f"{home.root} cannot be written", "check its owner and mode")
    except AkashllmError as error:
        return Finding("state", "fail", error.message, error.hint)
    return Finding("state", "ok", f"{home.root}, closed to other users")


def _images(home: Home) -> Finding:
    try:
        count = len(pins(home))
    except AkashllmError as error:
        return Finding("images", "fail", error.message, error.hint)
    if not count:
        return Finding("images", "ok", "none pushed yet", "akashllm build --push --repository R pins its image")
    return Finding("images", "ok", f"{count} pushed and pinned by digest")


def _key(name: str, advice: str, environ: Mapping[str, str]) -> Finding:
    value = environ.get(name, "")
    if not value:
        return Finding(name, "ok", "not set", advice)
    if value != value.strip() or not value.isascii() or not value.isprintable() or " " in value:
        return Finding(
            name,
            "fail",
            "set, but with blanks or characters that no key has",
            "copy it again, without a line end",
        )
    return Finding(name, "ok", "set")


def _console(home: Home, environ: Mapping[str, str]) -> Finding:
    """Whether there is a key for Console; it is not tried, and not shown."""
    from akashllm.market.console_key import find_key

    try:
        there = find_key(home, environ) is not None
    except AkashllmError as error:
        return Finding("console", "fail", error.message, error.hint)
    if not there:
        return Finding(
            "console",
            "ok",
            "no API key",
            "needed for --market console only: akashllm login keeps and tries one",
        )
    return Finding("console", "ok", "there is an API key; `akashllm login` tries one")


def _wallet(environ: Mapping[str, str]) -> Finding:
    """Which of Akash's own commands is here, and whether it is young enough."""
    from akashllm.market.wallet_cli import NAMES, VARIABLE, WHERE

    named = environ.get(VARIABLE)
    paths = [shutil.which(name, path=environ.get("PATH")) for name in ([named] if named else NAMES)]
    found = next((path for path in paths if path), None)
    if found is None:
        words = f"{named} is not there" if named else "neither provider-services nor akt is installed"
        return Finding(
            "akash cli", "warn" if named else "ok", words, f"needed for --market wallet only: {WHERE}"
        )
    return Finding("akash cli", "ok", found)


def _docker(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        with DockerEngine.connect(environ) as engine:
            version, info = engine.version(), engine.info()
            address, ours = engine.address, engine.images()
    except Unreachable as error:
        yield Finding(
            "docker", "warn", error.message, f"needed by `akashllm build` and --container only: {error.hint}"
        )
        return
    except AkashllmError as error:
        yield Finding("docker", "fail", error.message, error.hint)
        return
    arch = version.get("Arch", "?")
    text = f"{version.get('Version')} at {address}, {version.get('Os')}/{arch}, {info.get('Driver')}"
    numbers = str(version.get("ApiVersion", "0.0")).split(".")
    if tuple(int(number) for number in numbers if number.isdigit()) < OLDEST_API:
        yield Finding("docker", "fail", text, "install Docker 19.03 or newer")
    elif arch != "amd64":
        yield Finding("docker", "warn", text, "providers run amd64: build with --platform linux/amd64")
    elif info.get("Driver") == "vfs":
        yield Finding("docker", "warn", text, "every layer is copied whole: use overlay2 to save disk and time")
    else:
        yield Finding("docker", "ok", text)
    root = Path(str(info.get("DockerRootDir", "")))
    if address.startswith("unix:") and root.is_dir():
        yield _disk("docker disk", root)
    yield _built(ours)
    if "nvidia" in (info.get("Runtimes") or {}):
        yield Finding("gpu", "ok", "Docker can hand NVIDIA GPUs to containers")
    else:
        yield Finding(
            "gpu",
            "ok",
            "Docker has no NVIDIA runtime",
            "only the compose files for GPUs need it; Akash does not",
        )


def _built(ours: Sequence[Image]) -> Finding:
    """Our images at the engine: what `--container` runs and `build --push` pushes."""
    if not ours:
        return Finding(
            "docker images", "ok", "none of ours", "akashllm build --engine llamacpp --cpu makes one"
        )
    size = sum(image.size for image in ours) / GIB
    return Finding("docker images", "ok", f"{len(ours)} of ours, {size:.1f} GiB unpacked, layers counted twice")


def _reach(url: str) -> Finding:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        return Finding(
            "reach", "fail", "an address to reach is no http or https URL", "write https://HOST[/PATH]"
        )
    shown = f"{parts.scheme}://{parts.netloc}"
    with requests.Session() as session:
        # An authentication that adds nothing keeps requests from looking into ~/.netrc.
        session.auth = lambda request: request
        try:
            with session.get(
                parts.geturl(), timeout=REACH_TIMEOUT, stream=True, allow_redirects=False
            ) as answer:
                return Finding("reach", "ok", f"{shown} answers ({answer.status_code})")
        except requests.exceptions.SSLError:
            advice = "its certificate cannot be verified: name your authority in REQUESTS_CA_BUNDLE"
            return Finding("reach", "fail", f"{shown} is not trusted", advice)
        except requests.RequestException as error:
            kind = "does not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
            advice = "check the name, the network, and HTTPS_PROXY if there is a proxy"
            return Finding("reach", "fail", f"{shown} {kind}", advice)


def _existing(path: Path) -> Path:
    """The nearest directory above that is there: what a new file would be charged to."""
    return next(parent for parent in (path, *path.parents) if parent.is_dir())
