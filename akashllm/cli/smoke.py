"""`smoke-test`: judge any URL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.out import Out, WithDocument
from akashllm.cli.progress import shown
from akashllm.errors import CheckFailed, Unreachable, UsageError

Url = Annotated[str, typer.Argument(metavar="URL", help="Address of a service, ours or not.")]
AskedModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Model to ask.  [default: the first it lists]"),
]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="CHECK", help="This check; may be repeated.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Accept any certificate, and send the key over plain http.")
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit report too.")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest time for one request.")
]


def smoke_test(
    url: Url,
    *,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    model: AskedModel = None,
    only: Only = None,
    insecure: Insecure = False,
    junit: Junit = None,
    timeout: Timeout = 120.0,
    json: opt.Json = False,
) -> None:
    """Judge any URL, one promise at a time.

    Exit 0: all hold, 1: one is broken, 2: usage, 3: nobody answers.
    """
    from akashllm import smoke

    out = Out(json=json)
    with shown() as progress:
        report = smoke.run(
            url,
            api_key=opt.read_key(api_key_env, api_key_file),
            model=model,
            only=only or None,
            insecure=insecure,
            timeout=timeout,
            on_result=lambda result: progress.check(result.title, result.verdict, result.reason),
        )
    out.lines(report.lines())
    if junit:
        try:
            junit.write_text(report.junit(), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{junit} cannot be written: {error.strerror}", hint="name another file") from None
    if report.unreachable:
        reason = report.results[0].reason if report.results else "no answer"
        raise WithDocument(
            Unreachable(f"nobody answers: {reason}", hint="check the address and the network"), report.as_dict()
        )
    if not report.ok:
        raise WithDocument(
            CheckFailed(_broken(len(report.broken)), hint="each line above says which and why"),
            report.as_dict(),
        )
    out.document(report.as_dict())


def _broken(number: int) -> str:
    return "one promise is broken" if number == 1 else f"{number} promises are broken"
