"""Write the generated tables into DOCS.md, or check them (`--check`: exit 1 with a diff)."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from akashllm import errors
from akashllm.server.settings import Settings
from akashllm.server.wire.ollama.options import OPTIONS
from akashllm.server.wire.openai import parameters
from akashllm.smoke import CHECKS, checks

ROOT = Path(__file__).parents[1]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def ollama_options() -> str:
    """Every option, its type, default and effect."""
    return table(
        ("option", "type", "default", "effect"),
        ((f"`{o.name}`", o.kind, o.default, o.effect) for o in OPTIONS),
    )


def openai_parameters() -> str:
    """Every parameter by endpoint."""
    groups: list[tuple[str, Mapping[str, str]]] = [
        ("both", parameters.SAMPLING),
        ("both, beyond OpenAI's", parameters.EXTRAS),
        ("chat", parameters.CHAT),
        ("completions", parameters.COMPLETIONS),
        ("embeddings", parameters.EMBEDDINGS),
        ("ignored", parameters.IGNORED),
    ]
    return table(
        ("parameter", "where", "effect"),
        ((f"`{name}`", where, effect) for where, names in groups for name, effect in names.items()),
    )


def settings() -> str:
    """Every variable with its default."""
    return table(
        ("variable", "default", "meaning"),
        (
            (
                f"`{row.variable}`",
                f"`{row.default}`" if row.default else "",
                f"{row.doc}{f' ({row.unit})' if row.unit else ''}",
            )
            for row in Settings.table()
        ),
    )


def exit_codes() -> str:
    """Every exit code with the error classes behind it."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.AkashllmError)]
    found: dict[int, list[str]] = {0: ["all went well"]}
    for kind in classes:
        if not issubclass(kind, errors.ServiceError):
            found.setdefault(kind.exit_code, []).append(f"{kind.__name__}: {summary(kind)}")
    found[70] = ["a fault in akashllm itself; the traceback is saved and its path printed"]
    found[130] = ["interrupted (Ctrl-C)"]
    return table(("code", "means"), ((str(code), "<br>".join(found[code])) for code in sorted(found)))


def smoke_checks() -> str:
    """Every promise."""
    words = {"reachable": "The address answers and lists models in at least one dialect."} | {
        "tls": summary(checks.tls),
        "no-key-refused": summary(checks.no_key),
        "wrong-key-refused": summary(checks.wrong_key),
        "slow-first-token": summary(checks.slow_first_token),
        "transcription": summary(checks.transcription),
    }
    words |= {name: summary(check) for name, check in checks.PER_DIALECT.items()}
    return table(("check", "promise"), ((f"`{name}`", words[name]) for name in CHECKS))


def commands() -> str:
    """Every command with the first line of its help."""
    from akashllm.cli.app import command_summaries

    return table(("command", "does"), ((f"`akashllm {name}`", text) for name, text in command_summaries()))


def summary(thing: object) -> str:
    """The first sentence of a docstring, on one line."""
    return " ".join((thing.__doc__ or "").split("\n\n")[0].split())


BLOCKS: dict[str, Callable[[], str]] = {
    "ollama-options": ollama_options,
    "openai-parameters": openai_parameters,
    "settings": settings,
    "commands": commands,
    "exit-codes": exit_codes,
    "smoke-checks": smoke_checks,
}


def generate(text: str) -> str:
    """`text` with every block filled in."""
    for name, block in BLOCKS.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        head, *rest = text.split(begin)
        body = rest[0].split(end) if len(rest) == 1 else []
        if len(body) != 2:
            raise SystemExit(f"DOCS.md does not have one block named {name}")
        text = f"{head}{begin}\n{block()}\n\n{end}{body[1]}"
    return text


def main() -> int:
    """Write, or compare."""
    path = ROOT / "DOCS.md"
    old = path.read_text()
    new = generate(old)
    if "--check" not in sys.argv:
        path.write_text(new)
        return 0
    diff = list(difflib.unified_diff(old.splitlines(), new.splitlines(), "DOCS.md", "generated", lineterm=""))
    print("\n".join(diff))
    return int(bool(diff))


if __name__ == "__main__":
    sys.exit(main())
