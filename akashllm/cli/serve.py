"""`serve`: the service in the foreground."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.asking import model_word, planned
from akashllm.cli.out import Out
from akashllm.errors import MissingExtra
from akashllm.plan import DeployRequest

_NOT_THE_SERVICES = ("AKASHLLM_HOME", "AKASHLLM_MARKET")
"""Variables of the command line, which the service would take for typing errors."""


_OF_THE_MODEL = ("AKASHLLM_MODEL", "AKASHLLM_MODEL_NAME", "AKASHLLM_WEIGHTS")


def _env(name: str) -> str:
    return f"  [env: AKASHLLM_{name}]"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"Path or address of a GGUF file, or an alias.{_env('MODEL')}  [default: tiny]",
    ),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", "-e", metavar="ENGINE", help=f"llamacpp.{_env('ENGINE')}")
]
Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="ADDRESS", help=f"Address to listen on.{_env('HOST')}  [default: 127.0.0.1]"
    ),
]
Port = Annotated[
    int | None,
    typer.Option("--port", metavar="PORT", help=f"Port; 0: any free one.{_env('PORT')}  [default: 11434]"),
]
Aliases = Annotated[
    list[str] | None,
    typer.Option(
        "--alias", metavar="NAME", help=f"Further name it answers to; may be repeated.{_env('MODEL_ALIASES')}"
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help=f"File that says which models are served, and how (YAML or JSON).{_env('CONFIG')}",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option("--context", metavar="TOKENS", help=f"Tokens one request may use.{_env('CONTEXT')}"),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", metavar="N", help=f"Requests answered at once.{_env('CONCURRENCY')}"),
]
Unauthenticated = Annotated[
    bool, typer.Option("--unauthenticated", help=f"Serve without a key.{_env('UNAUTHENTICATED')}")
]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", help=f"debug, info, warning or error.{_env('LOG_LEVEL')}"),
]
LogFormat = Annotated[
    str | None, typer.Option("--log-format", metavar="FORMAT", help=f"json or text.{_env('LOG_FORMAT')}")
]


def serve(
    *,
    model: ModelOption = None,
    engine: EngineOption = None,
    host: Host = None,
    port: Port = None,
    alias: Aliases = None,
    config: ConfigOption = None,
    context: ContextOption = None,
    concurrency: ConcurrencyOption = None,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    unauthenticated: Unauthenticated = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    json: opt.Json = False,
) -> None:
    """Serve a model in the foreground.

    On 127.0.0.1:11434 unless told otherwise; options override the environment's AKASHLLM_ variables. With
    --json one document says where, once the port answers; the log is on stderr.
    """
    out = Out(json=json)
    try:
        from akashllm.server.fleet import read_settings
        from akashllm.server.run import serve as run
    except ImportError as error:
        raise MissingExtra(
            f"the service's parts are not installed ({error.name})", hint="pip install 'akashllm[llamacpp]'"
        ) from None
    key = opt.read_key(api_key_env, api_key_file)
    given = {
        "ENGINE": opt.engine_named(engine) if engine else None,
        "HOST": host,
        "PORT": port,
        "MODEL_ALIASES": ",".join(alias) if alias else None,
        "CONFIG": config,
        "CONTEXT": context,
        "CONCURRENCY": concurrency,
        "UNAUTHENTICATED": "true" if unauthenticated else None,
        "LOG_LEVEL": log_level,
        "LOG_FORMAT": log_format or (None if "AKASHLLM_LOG_FORMAT" in os.environ else "text"),
    }
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_THE_SERVICES}
    environ |= {f"AKASHLLM_{name}": str(value) for name, value in given.items() if value is not None}
    if model is not None:
        environ = {name: value for name, value in environ.items() if name not in _OF_THE_MODEL} | _model(model)
    if key is not None:
        environ.pop("AKASHLLM_API_KEY_FILE", None)
        environ["AKASHLLM_API_KEY"] = key
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = read_settings(environ)
    for warning in caught:
        out.talk(f"warning: {warning.message}")

    def started(url: str) -> None:
        out.document({"url": url, "model": settings.served_name, "engine": settings.engine, "pid": os.getpid()})
        out.line(f"{settings.served_name} at {url}  (Ctrl-C ends it)")

    run(settings, started=started)


def _model(word: str) -> dict[str, str]:
    """What the service is told about a model: the file itself, or what the plan of an alias says."""
    word = model_word(word)
    if word == "tiny" or "://" in word or Path(word).is_file():
        return {"AKASHLLM_MODEL": word}
    plan = planned(DeployRequest(model=word, engine="llamacpp", local=True))
    return {name: value for name, value in plan.env if name in _OF_THE_MODEL}
