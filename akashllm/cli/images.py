"""Images: build and push them, tell their sizes, and see whether this machine is up to it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.out import Out, WithDocument
from akashllm.cli.text import columns, safe
from akashllm.errors import CheckFailed, UsageError
from akashllm.state import Home

if TYPE_CHECKING:
    # Docker's SDK is slow to import, and most commands do without it.
    from akashllm.images import Built, Event, Image, OnEvent, Pin

MIB = 1 << 20
START_USER = "START_USER"
ROOT = "0:0"
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)

Push = Annotated[
    bool, typer.Option("--push", help="Push the image, and remember its digest for render and deploy.")
]
Repository = Annotated[
    str | None,
    typer.Option("--repository", metavar="REPOSITORY", help="Where to push, such as ghcr.io/me/akashllm."),
]
Tag = Annotated[
    str | None, typer.Option("--tag", metavar="TAG", help="The image's tag, if not after the version.")
]
Platform = Annotated[
    str | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Platform to build for; providers run linux/amd64."),
]
Wheelhouse = Annotated[
    Path | None,
    typer.Option("--wheelhouse", metavar="DIR", help="Wheels to use instead of downloads and compiling."),
]
BuildArgs = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", help="An ARG of the Dockerfile; may be repeated."),
]
Cuda = Annotated[
    int | None,
    typer.Option(
        "--cuda",
        metavar="12|13",
        help="CUDA's major version in the llama.cpp image; 13 needs drivers from 580 on.",
    ),
]
OwnVolume = Annotated[
    bool,
    typer.Option(
        "--own-volume",
        help="Start as root, take the volume over, then drop root: for persistent volumes on Akash.",
    ),
]
Network = Annotated[
    str | None, typer.Option("--network", metavar="NAME", help="Network of the build's steps, such as host.")
]
Pull = Annotated[bool, typer.Option("--pull", help="Look for newer base images.")]
Fresh = Annotated[bool, typer.Option("--no-cache", help="Build every step again.")]
Sizes = Annotated[bool, typer.Option("--sizes", help="List the layers with their sizes.")]
ImageName = Annotated[str | None, typer.Argument(metavar="IMAGE", help="One image, with its layers.")]
Download = Annotated[
    bool, typer.Option("--remote", help="Ask the image's registry: its digest, and what a provider downloads.")
]
Reach = Annotated[
    list[str] | None,
    typer.Option("--reach", metavar="URL", help="Try to reach this address too; may be repeated."),
]


def build(
    *,
    engine: opt.Engine = "llamacpp",
    cpu: opt.Cpu = False,
    push: Push = False,
    repository: Repository = None,
    tag: Tag = None,
    platform: Platform = None,
    wheelhouse: Wheelhouse = None,
    build_arg: BuildArgs = None,
    cuda: Cuda = None,
    own_volume: OwnVolume = False,
    templates: opt.Templates = None,
    network: Network = None,
    pull: Pull = False,
    no_cache: Fresh = False,
    sizes: Sizes = False,
    json: opt.Json = False,
) -> None:
    """Build an engine's image from this akashllm.

    With --push, push it and pin its digest. Without --repository the image stays on this machine. Credentials
    are those of `docker login`.
    """
    from akashllm import images

    out = Out(json=json)
    name = opt.engine_named(engine)
    if push and repository is None:
        raise UsageError("--push needs to know where to", hint="add --repository, such as ghcr.io/me/akashllm")
    if repository is not None and not push:
        raise UsageError("--repository is only used with --push", hint="add --push, or leave it out")
    target = images.remote_name(repository, name, cpu=cpu, tag=tag) if repository else None
    local = images.local_name(name, cpu=cpu, tag=tag)
    if platform is not None:
        images.check_platform(platform)
    if network is not None and not _NETWORK.fullmatch(network):
        raise UsageError("that is no network's name", hint="use --network host, or leave it out")
    context = images.make_context(name, cpu=cpu, wheelhouse=wheelhouse, overrides=templates)
    arguments = _arguments(build_arg or [])
    if own_volume and arguments.setdefault(START_USER, ROOT) != ROOT:
        raise UsageError(
            f"--own-volume and --build-arg {START_USER} contradict each other", hint="leave one out"
        )
    images.check_arguments(context, arguments)
    home = Home.find()
    with images.DockerEngine.connect() as docker, _shown() as on_event:
        arguments |= images.base_arguments(name, docker, arguments, cpu=cpu, cuda=cuda, pull=pull)
        out.talk(f"building {local} with the Docker engine at {docker.address}")
        if context.wheels:
            out.talk(f"from the wheelhouse: {', '.join(context.wheels)}")
        built = images.build(
            docker,
            context,
            local,
            arguments=arguments,
            platform=platform,
            network=network,
            pull=pull,
            fresh=no_cache,
            on_event=on_event,
        )
        out.talk(f"built in {built.seconds:.0f} s, {built.cached} of {built.steps} steps from the cache")
        pin = None
        if target is not None:
            out.talk(f"pushing {target}")
            home.prepare()
            pushed = images.push(docker, built.image.id, target, on_event=on_event)
            pin = images.remember(home, str(local), pushed, built.image.platform)
            out.talk(f"pushed in {pushed.seconds:.0f} s; render and deploy pin {local} to it")
            if arguments.get(START_USER) != ROOT:
                out.talk(
                    "note: volumes on Akash belong to root, so there this image keeps weights on its own disk"
                    " only; one built with --own-volume has a volume that outlives restarts"
                )
    if not built.image.platform.startswith("linux/amd64"):
        out.talk(f"note: this image is for {built.image.platform}; providers run linux/amd64 (--platform)")
    out.document(_document(built, pin))
    out.line(f"{built.reference}  {built.image.platform}  {_mib(built.image.size)}")
    if sizes:
        out.lines(_layers(built.image))
    if pin:
        out.line(pin.pinned)


def images(image: ImageName = None, *, remote: Download = False, json: opt.Json = False) -> None:
    """The images that were built here.

    With their sizes and digests; or one image with its layers. With --remote nothing is asked of Docker: the
    image's registry tells its digest and what a provider would have to download.
    """
    from akashllm.images import DockerEngine, look, pinned, pins

    out = Out(json=json)
    home = Home.find()
    if remote:
        if image is None:
            raise UsageError("--remote needs an image", hint="name one, such as ghcr.io/me/akashllm:0.1.0")
        known = pinned(image, home)
        found = look(known)
        out.document(
            {
                "image": known,
                "digest": str(found.digest),
                "platform": found.platform,
                "download_bytes": found.size,
                "user": found.user,
                "layers": list(found.layers),
            }
        )
        out.line(f"{known}  {found.platform}  {found.digest}")
        out.lines(
            columns([*((_mib(size), "to download") for size in found.layers), (_mib(found.size), "together")])
        )
        return
    if image is not None:
        with DockerEngine.connect() as docker:
            one = docker.image(image)
        out.document(_image(one))
        out.line(f"{', '.join(one.tags) or one.id}  {one.platform}  {_mib(one.size)}")
        out.lines(one.digests)
        out.lines(_layers(one))
        return
    pushed = pins(home)
    with DockerEngine.connect() as docker:
        here = docker.images()
    out.document(
        {
            "images": [_image(entry) for entry in here],
            "pushed": [dataclasses.asdict(p) for p in pushed.values()],
        }
    )
    rows = [(", ".join(entry.tags), entry.platform, _mib(entry.size)) for entry in here]
    out.lines(columns(rows) if rows else ["no image yet: `akashllm build` makes one"])
    out.lines(f"{pin.image} is {pin.pinned}" for pin in pushed.values())


def doctor(*, reach: Reach = None, json: opt.Json = False) -> None:
    """Say what this machine lacks, and what to do."""
    from akashllm.images.doctor import Finding, examine

    out = Out(json=json)
    found: list[Finding] = []
    for finding in examine(Home.find(), reach=tuple(reach or ())):
        found.append(finding)
        out.line(f"{finding.verdict:<5} {finding.what:<17} {finding.detail}")
        if finding.advice:
            out.line(f"{'':<24}{finding.advice}")
    failed = sum(finding.verdict == "fail" for finding in found)
    document = {"ok": not failed, "findings": [dataclasses.asdict(finding) for finding in found]}
    if failed:
        raise WithDocument(
            CheckFailed(f"{failed} of {len(found)} findings stand in the way", hint="do what each says"),
            document,
        )
    out.document(document)


def _arguments(given: Sequence[str]) -> dict[str, str]:
    arguments = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or any(not c.isprintable() for c in value):
            raise UsageError(
                "a build argument is no NAME=VALUE", hint="write it as --build-arg ENGINE_FLAGS=-DGGML_CUDA=on"
            )
        arguments[name] = value
    return arguments


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"


def _layers(image: Image) -> list[str]:
    rows = [(_mib(layer.size), _instruction(layer.created_by)) for layer in image.layers]
    return columns([*rows, (_mib(image.size), "together")])


def _instruction(text: str) -> str:
    """The Dockerfile's words behind a layer, cut to a line."""
    text = " ".join(text.split())
    text = re.sub(r"^(?:\|\d+ .*? )?/bin/(?:ba)?sh (?:-euo pipefail )?-c (?:#\(nop\) *)?", "", text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _image(image: Image) -> dict[str, Any]:
    return dataclasses.asdict(image)


def _document(built: Built, pin: Pin | None) -> dict[str, Any]:
    return {
        "image": built.reference,
        **_image(built.image),
        "seconds": round(built.seconds, 1),
        "steps": built.steps,
        "cached_steps": built.cached,
        "pushed": {**dataclasses.asdict(pin), "pinned": pin.pinned} if pin else None,
    }


@contextmanager
def _shown() -> Iterator[OnEvent]:
    """Steps as lines on stderr; in a terminal also the step's last word, on a line that is drawn over."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    with Status(Text(""), console=console) as status:

        def live(event: Event) -> None:
            if event.kind == "step":
                console.print(Text(safe(f"[{event.number}/{event.total}] {event.text}")), soft_wrap=True)
                status.update(Text(""))
            elif event.kind in {"line", "layer"}:
                word = safe(_word(event))[: max(10, console.width - 4)]
                status.update(Text(word, style="dim"))

        yield live


def _plain(event: Event) -> None:
    if event.kind == "step":
        print(safe(f"[{event.number}/{event.total}] {event.text}"), file=sys.stderr, flush=True)
    elif event.kind == "cached":
        print("    from the cache", file=sys.stderr, flush=True)
    elif event.kind == "line":
        print(safe(f"    {event.text}"), file=sys.stderr, flush=True)
    elif event.kind == "layer" and not event.total:
        print(safe(f"    {_word(event)}"), file=sys.stderr, flush=True)


def _word(event: Event) -> str:
    if event.kind == "layer":
        share = f" {100 * event.number // event.total} %" if event.total else ""
        return f"{event.layer} {event.text}{share}".strip()
    return event.text
