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
_OF_A_PLAN = (
    *_OF_THE_MODEL,
    "AKASHLLM_ENGINE",
    "AKASHLLM_TASK",
    "AKASHLLM_TOOL_PARSER",
    "AKASHLLM_REASONING_PARSER",
)
"""What a plan knows of a model; its sizes are for a machine that is still to be chosen."""
_HUB = ("hf.co/", "huggingface.co/")


def _env(name: str) -> str:
    return f"  [env: AKASHLLM_{name}]"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"File, folder, address, hf.co/ name, or a name in the catalogue.{_env('MODEL')}  [default: tiny]",
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        "-e",
        metavar="ENGINE",
        help=f"llamacpp, vllm, ollama, upstream or whisper.{_env('ENGINE')}  [default: llamacpp]",
    ),
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
        "ENGINE": opt.ENGINES.get(engine.lower(), engine) if engine else None,
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
        environ = {name: value for name, value in environ.items() if name not in _OF_THE_MODEL}
        environ |= _model(model, environ.get("AKASHLLM_ENGINE", "llamacpp"))
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


def _model(word: str, engine: str) -> dict[str, str]:
    """What the service is told of a model: what it reads itself as it is typed, else what a plan says."""
    planner = opt.ENGINES.get(engine)
    if planner is None or planner == "ollama":
        return {"AKASHLLM_MODEL": word}
    word = model_word(word)
    here = Path(word).is_file() or (os.sep in word and Path(word).is_dir())
    if word == "tiny" or "://" in word or word.startswith(_HUB) or here:
        return {"AKASHLLM_MODEL": word}
    plan = planned(DeployRequest(model=word, engine=planner, local=True))
    return {name: value for name, value in plan.env if name in _OF_A_PLAN}
