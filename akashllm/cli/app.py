"""All commands in one place, and the one map from what went wrong to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from akashllm.cli import (
    browse,
    cost,
    deploy,
    images,
    inside,
    keys,
    login,
    look,
    make,
    operate,
    serve,
    smoke,
    status,
    updating,
    watch,
)
from akashllm.cli.crash import redacted, save_traceback
from akashllm.cli.out import Interrupted, WithDocument, print_json
from akashllm.cli.text import safe
from akashllm.errors import AkashllmError, BadSdl, UsageError
from akashllm.version import __version__

EXIT_USAGE = 2
EXIT_INTERNAL = 70
"""EX_SOFTWARE of sysexits.h."""

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("deploy", deploy.deploy),
    ("list", operate.list_),
    ("status", status.status),
    ("logs", inside.logs),
    ("events", inside.events),
    ("shell", inside.shell),
    ("url", operate.url),
    ("key", keys.key),
    ("update", updating.update),
    ("open", browse.open_),
    ("cost", cost.cost),
    ("watch", watch.watch),
    ("close", operate.close),
    ("login", login.login),
    ("serve", serve.serve),
    ("smoke-test", smoke.smoke_test),
    ("models", look.models),
    ("plan", look.plan),
    ("render", make.render),
    ("validate", make.validate),
    ("manifest", make.manifest),
    ("build", images.build),
    ("images", images.images),
    ("doctor", images.doctor),
    ("version", look.version),
)

_NAMES = frozenset(name for name, _ in COMMANDS)

app = typer.Typer(
    name="akashllm",
    help="From a model's name to a private, verified endpoint on the Akash Network, or on this machine.",
    epilog="Deployments are recorded in ~/.local/state/akashllm; AKASHLLM_HOME names another directory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS:
    app.command(_name)(_command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"akashllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """From a model's name to a private, verified endpoint on the Akash Network, or on this machine."""


def command_summaries() -> Iterator[tuple[str, str]]:
    """Every command and the first sentence of its help, for the documentation."""
    for name, command in COMMANDS:
        yield name, " ".join((command.__doc__ or "").split("\n\n", maxsplit=1)[0].split())


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Never raises for what a person, a market or a service did."""
    try:
        return _run(arguments)
    except BrokenPipeError:
        # Whoever read our output has gone: the interpreter must not complain about it when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str]) -> int:
    options = list(arguments)
    if "--" in options:
        options = options[: options.index("--")]
    as_json = "--json" in options
    try:
        _refuse_keys(options)
        result = get_command(app).main(list(arguments), prog_name="akashllm", standalone_mode=False)
    except WithDocument as failure:
        return _fail(failure.error, as_json=as_json, document=failure.document)
    except AkashllmError as error:
        return _fail(error, as_json=as_json)
    except TyperException as error:
        return _usage(error, next(iter(options), ""), as_json=as_json)
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        hint = getattr(error, "hint", "")
        return _say("Interrupted", "interrupted", hint, EXIT_INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        raise
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:  # noqa: BLE001 - the last place that can say anything
        return _internal(error, next(iter(options), ""), as_json=as_json)
    # Typer gives back the code of an Exit, and turns Ctrl-C into one.
    if result == EXIT_INTERRUPTED:
        return _say("Interrupted", "interrupted", "", EXIT_INTERRUPTED, as_json=as_json)
    return result if isinstance(result, int) else 0


def _refuse_keys(options: Sequence[str]) -> None:
    """Other users of this machine can read a command's arguments, and shells remember them."""
    for option in options:
        if option == "--api-key" or option.startswith("--api-key="):
            raise UsageError(
                "a key is not taken from the command line, where others can read it",
                hint="use --api-key-env NAME or --api-key-file FILE; change this key: your history has it",
            )


def _fail(error: AkashllmError, *, as_json: bool, document: Mapping[str, Any] | None = None) -> int:
    more: dict[str, Any] = {}
    if isinstance(error, BadSdl) and error.findings:
        more["findings"] = list(error.findings)
        if not as_json:
            for finding in error.findings:
                print(safe(finding), file=sys.stderr)
    return _say(
        type(error).__name__,
        error.message,
        error.hint,
        error.exit_code,
        as_json=as_json,
        document=document,
        more=more,
    )


def _usage(error: TyperException, command: str, *, as_json: bool) -> int:
    """What the parser refused. Without any argument that is a request for help."""
    if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
        print(error.format_message(), file=sys.stderr)
        return EXIT_USAGE
    where = f"akashllm {command}" if command in _NAMES else "akashllm"
    message = error.format_message().rstrip(".") or "a command is missing"
    if type(error).__name__ == "NoArgsIsHelpError":
        message = "a command is missing"
    return _say("UsageError", message, f"`{where} --help` shows how", EXIT_USAGE, as_json=as_json)


def _internal(error: Exception, command: str, *, as_json: bool) -> int:
    try:
        where = f"the traceback is in {save_traceback(error, command if command in _NAMES else '?')}"
    except (OSError, AkashllmError) as second:
        where = f"the traceback could not be saved either: {second}"
    message = f"akashllm itself failed ({type(error).__name__})"
    return _say("InternalError", message, f"{where}; please report it", EXIT_INTERNAL, as_json=as_json)


def _say(
    kind: str,
    message: str,
    hint: str,
    code: int,
    *,
    as_json: bool,
    document: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> int:
    """The error in both forms; returns `code`."""
    message, hint = redacted(message), redacted(hint)
    if as_json:
        error = {"type": kind, "message": message, "hint": hint, "exit_code": code, **(more or {})}
        print_json({**(document or {}), "error": error})
    print(f"error: {safe(message, lines=True)}", file=sys.stderr)
    if hint:
        print(f"hint: {safe(hint, lines=True)}", file=sys.stderr)
    return code
