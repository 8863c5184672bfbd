"""Build an image through the engine's own builder, and say what came out."""

from __future__ import annotations

import re
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from akashllm.errors import ImageFailed, UsageError
from akashllm.images.context import Context
from akashllm.images.engine import DockerEngine, Image, explained
from akashllm.images.events import Event, OnEvent, ignore, read
from akashllm.images.reference import ImageReference
from akashllm.images.wheel import PACKAGE
from akashllm.plan import EngineName
from akashllm.version import __version__

LAST_LINES = 12
"""Lines of output that a failure repeats."""

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?", re.ASCII)
_DECLARED = re.compile(r"(?m)^ARG ([A-Za-z_][A-Za-z0-9_]*)")
_USERINFO = re.compile(r"://[^/\s]*@")
_SECRET = re.compile(r"(?i)(?:key|token|secret|password|passwd)")


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was built. `seconds` is the time it took, `cached` how many of its steps were spared."""

    reference: str
    image: Image
    seconds: float
    steps: int
    cached: int


def default_tag(*, cpu: bool) -> str:
    """The tag a plan asks for: the version, and whether it is the variant without a GPU."""
    return f"{__version__}-cpu" if cpu else __version__


def local_name(engine: EngineName, *, cpu: bool, tag: str | None = None) -> ImageReference:
    """What an image is called on this machine, and in a plan that names no image."""
    return ImageReference(f"akashllm/{engine}", default_tag(cpu=cpu) if tag is None else tag)


def remote_name(repository: str, engine: EngineName, *, cpu: bool, tag: str | None = None) -> ImageReference:
    """Where an image is pushed: the engine is in the tag, so one repository can hold all of them."""
    name = ImageReference.parse(repository)
    if name.tag or name.digest:
        raise UsageError("--repository names a repository only", hint="give the tag with --tag")
    return ImageReference(name.name, f"{engine}-{default_tag(cpu=cpu)}" if tag is None else tag)


def check_platform(platform: str) -> str:
    """The platform, if it can be one. Raises `UsageError`."""
    if not _PLATFORM.fullmatch(platform):
        raise UsageError("that is no platform", hint="write it as linux/amd64")
    return platform


def check_arguments(context: Context, arguments: Mapping[str, str]) -> dict[str, str]:
    """The build arguments, if the Dockerfile knows them all and none of them is a secret.

    An argument stays in the image's history, where everybody who can pull it reads it.
    """
    dockerfile = context.files["Dockerfile"]
    text = dockerfile.decode() if isinstance(dockerfile, bytes) else dockerfile.read_text(encoding="utf-8")
    declared = sorted(set(_DECLARED.findall(text)))
    for name, value in arguments.items():
        if name not in declared:
            raise UsageError(
                "the Dockerfile has no build argument of that name", hint=f"it has {', '.join(declared)}"
            )
        if _USERINFO.search(value) or _SECRET.search(name):
            raise UsageError(
                f"the build argument {name} holds a secret, and arguments stay in the image's history",
                hint="download what needs the secret first, and give it with --wheelhouse",
            )
    return dict(arguments)


def build(
    engine: DockerEngine,
    context: Context,
    reference: ImageReference,
    *,
    arguments: Mapping[str, str] | None = None,
    platform: str | None = None,
    network: str | None = None,
    pull: bool = False,
    fresh: bool = False,
    on_event: OnEvent = ignore,
) -> Built:
    """Build `context` and name the result `reference`.

    network   the network of the build's steps, such as `host`; None: the engine's default
    pull      look for newer base images
    fresh     take nothing from the cache
    Raises `ImageFailed` with the step and the last lines of its output.
    """
    given = check_arguments(context, arguments or {})
    if revision := git_revision():
        given.setdefault("REVISION", revision)
    started = time.monotonic()
    told = _Told()
    with explained("the build"), context.tar() as archive:
        stream = engine.api.build(
            fileobj=archive,
            custom_context=True,
            tag=str(reference),
            buildargs=given,
            platform=platform,
            network_mode=network,
            pull=pull,
            nocache=fresh,
            rm=True,
            forcerm=True,
            decode=True,
        )
        # Closing the stream is what makes the engine stop when this process is interrupted.
        with closing(stream):
            for event in read(stream):
                told.hear(event)
                on_event(event)
    image = engine.image(told.result())
    if platform and not f"{image.platform}/".startswith(f"{platform}/"):
        raise ImageFailed(
            f"the image is for {image.platform}, not for {platform}",
            hint="the base image on this engine is of another platform: use --pull",
        )
    return Built(str(reference), image, time.monotonic() - started, told.steps, told.cached)


def git_revision() -> str:
    """The commit of the checkout this code runs from, `-dirty` if files changed since; empty elsewhere."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return ""
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip()


class _Told:
    """What the stream has said so far."""

    def __init__(self) -> None:
        self.steps = 0
        self.cached = 0
        self._step = ""
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._id = ""

    def hear(self, event: Event) -> None:
        match event.kind:
            case "step":
                self.steps = event.total
                self._step = f"step {event.number} of {event.total} ({event.text[:120]})"
                self._last.clear()
            case "cached":
                self.cached += 1
            case "line":
                self._last.append(event.text)
            case "aux" if event.data:
                self._id = str(event.data.get("ID") or self._id)
            case "error":
                where = f"the build stopped at {self._step}" if self._step else "the build did not start"
                said = "".join(f"\n  {line}" for line in self._last if line != event.text)
                raise ImageFailed(f"{where}: {event.text}{said}", hint=_advice(event.text))
            case _:
                pass

    def result(self) -> str:
        """The image's id. A stream that ends without one was cut."""
        if not self._id:
            raise ImageFailed("the engine stopped without a word in the middle of the build", hint="try again")
        return self._id


def _advice(text: str) -> str:
    lowered = text.lower()
    if "no space left" in lowered:
        return "make room: docker system prune, or a larger disk for Docker"
    if any(word in lowered for word in ("no such host", "i/o timeout", "connection refused", "dial tcp")):
        return "the engine cannot reach the base image's registry: look at its network or proxy"
    if "manifest unknown" in lowered or "not found" in lowered:
        return "the base image is not there; another one can be given with --build-arg"
    return "the lines above are the step's own words; try again with --network host if it could not download"
