"""Files: render what the templates say, judge an SDL, show its manifest."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from akashllm.cli import options as opt
from akashllm.cli.asking import planned
from akashllm.cli.before import live_prices as todays
from akashllm.cli.out import Out, WithDocument
from akashllm.cli.wanted import takes_request
from akashllm.errors import BadSdl, UsageError
from akashllm.plan import DeployRequest
from akashllm.sdl import load, manifest_hash
from akashllm.sdl import manifest as manifest_of
from akashllm.sdl import validate as findings_of
from akashllm.sdl.document import MAX_BYTES
from akashllm.state import Home

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="One model's SDL instead of images/ and sdl/."),
]
Check = Annotated[
    bool, typer.Option("--check", help="Write nothing; fail with the difference if there is one.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that were edited by hand.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="SDL files; - is stdin.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="An SDL file; - is stdin.")]


@takes_request(model=None, option=ModelOption)
def render(
    *,
    request: DeployRequest | None,
    check: Check = False,
    force: Force = False,
    output: Output = Path(),
    templates: opt.Templates = None,
    live_prices: opt.LivePrices = False,
    json: opt.Json = False,
) -> None:
    """Write SDLs and build contexts.

    All of images/ and sdl/ as the templates have them, or with --model the SDL of one model.
    """
    from akashllm.images import settle
    from akashllm.render import check_files, render_sdl, repository_files, write_files

    out = Out(json=json)
    if request is None:
        files = repository_files(overrides=templates)
    else:
        plan = planned(request, prices=todays(out) if live_prices else None)
        if request.name is None:
            # The file is called as those in sdl/ are: the engine, then the model.
            stem = plan.name.removesuffix(f"-{plan.engine}")
            plan = dataclasses.replace(plan, name=f"{plan.engine}-{stem}")
        fixed, warning = settle(plan.image, Home.find(), ask=request.image is not None)
        if warning:
            out.talk(f"warning: {warning}")
        plan = dataclasses.replace(plan, image=fixed)
        files = {f"sdl/{plan.name}.yaml": render_sdl(plan, overrides=templates)}
    if check:
        check_files(output, files)
        out.document({"checked": sorted(files), "drift": False})
        out.line(f"{len(files)} files are as the templates have them")
        return
    written = write_files(output, files, force=force)
    out.document({"written": [str(path) for path in written], "unchanged": len(files) - len(written)})
    out.lines(str(path) for path in written)
    out.talk(f"{len(written)} written, {len(files) - len(written)} unchanged")


def validate(files: Files, *, json: opt.Json = False) -> None:
    """Judge SDL files.

    By every rule of the chain, the providers and the Console, and by what is known to cost money.
    """
    out = Out(json=json)
    judged: list[dict[str, Any]] = []
    bad = 0
    for file in files:
        findings = findings_of(read_sdl(file))
        errors = sum(finding.severity == "error" for finding in findings)
        bad += bool(errors)
        judged.append(
            {"file": str(file), "ok": not errors, "findings": [dataclasses.asdict(f) for f in findings]}
        )
        out.lines(f"{file}: {finding}" for finding in findings)
        if not findings:
            out.line(f"{file}: ok")
    document = {"ok": not bad, "files": judged}
    if bad:
        raise WithDocument(
            BadSdl(f"{bad} of {len(files)} files break a rule", hint="each line above says how to mend it"),
            document,
        )
    out.document(document)


def manifest(file: File, *, json: opt.Json = False) -> None:
    """Show the manifest that an SDL makes.

    What a provider would get, and its hash. Secrets stay placeholders.
    """
    from akashllm.cli.out import print_json

    out = Out(json=json)
    sdl = load(read_sdl(file), source=str(file))
    document = {"manifest": manifest_of(sdl), "hash": manifest_hash(sdl)}
    if json:
        out.document(document)
    else:
        print_json(document)


def read_sdl(file: Path) -> str:
    """The text of an SDL, bounded. Raises `UsageError`."""
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        return data.decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="name an SDL file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text", hint="name an SDL file") from None
