"""What holds for every command: one document with --json in every outcome, and an exit code that says which."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from akashllm import errors
from akashllm.cli.app import COMMANDS, command_summaries
from akashllm.cli.out import Interrupted
from akashllm.errors import AkashllmError, BadSdl, ContextOverflow, ServiceError
from akashllm.state import Home, Store
from akashllm.state.private import write_private

from .conftest import CANARY, Run

SDL = Path(__file__).parents[2] / "sdl" / "llamacpp-llama3.yaml"

WELL: dict[str, tuple[str, ...]] = {
    "deploy": ("--market", "local", "--dry-run"),
    "list": (),
    "cost": (),
    "watch": ("--once",),
    "models": (),
    "plan": ("--model", "llama3", "--engine", "vllm"),
    "render": ("--model", "llama3", "--output", "{tmp}"),
    "validate": (str(SDL),),
    "manifest": (str(SDL),),
    "version": (),
}
"""Commands that succeed on an empty home."""

ILL: dict[str, tuple[tuple[str, ...], int]] = {
    "deploy": (("--market", "console"), 6),
    "list": (("surplus",), 2),
    "status": (("nobody",), 4),
    "logs": (("nobody",), 4),
    "events": (("nobody",), 4),
    "shell": (("nobody",), 4),
    "url": (("nobody",), 4),
    "key": (("nobody",), 4),
    "update": (("nobody", "--image", "me/image:1"), 4),
    "close": (("nobody", "--yes"), 4),
    "open": (("nobody",), 4),
    "cost": (("nobody",), 4),
    "watch": (("nobody", "--once"), 4),
    "login": (("--api-key-file", "/nonexistent"), 2),
    "serve": (("--host", "0.0.0.0"), 2),
    "smoke-test": (("http://127.0.0.1:9",), 3),
    "models": (("--no-such-option",), 2),
    "plan": (("--model", "no-such-model"), 2),
    "render": (("--check", "--output", "{tmp}"), 1),
    "validate": (("{tmp}/none.yaml",), 2),
    "manifest": (("{tmp}/none.yaml",), 2),
    "build": (("--engine", "nothing"), 2),
    "images": (("--nope",), 2),
    "doctor": (("--nope",), 2),
    "version": (("--nope",), 2),
}
"""A way in which each command fails, and its exit code."""


def test_every_command_is_in_these_tables() -> None:
    """A new command gets a row, or this fails."""
    assert {name for name, _ in COMMANDS} == set(ILL)
    assert set(WELL) <= set(ILL)


@pytest.mark.parametrize("name", WELL)
def test_success_is_one_document(here: Run, tmp_path: Path, name: str) -> None:
    """With --json a command that succeeds prints one JSON document, and no error is in it."""
    said = here(name, *(word.format(tmp=tmp_path) for word in WELL[name]), "--json")

    assert said.code == 0, said.err
    assert "error" not in said.document


@pytest.mark.parametrize("name", WELL)
def test_success_without_json_says_something(here: Run, tmp_path: Path, name: str) -> None:
    """Without --json the same command answers in words."""
    said = here(name, *(word.format(tmp=tmp_path) for word in WELL[name]))

    assert said.code == 0
    assert said.out + said.err


@pytest.mark.parametrize("name", ILL)
def test_failure_is_one_document_with_the_error_and_its_code(here: Run, tmp_path: Path, name: str) -> None:
    """With --json a command that fails prints one document: type, message, hint, exit code."""
    arguments, code = ILL[name]
    said = here(name, *(word.format(tmp=tmp_path) for word in arguments), "--json")

    assert said.code == code
    assert said.error["exit_code"] == code
    assert said.error["message"]
    assert said.error["hint"]
    assert said.error["type"] in {*vars(errors), "BadSettings"}
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err


@pytest.mark.parametrize("name", ILL)
def test_failure_without_json_leaves_stdout_empty(here: Run, tmp_path: Path, name: str) -> None:
    """Without --json an error is words on stderr, with a hint, and stdout stays for data."""
    arguments, code = ILL[name]
    said = here(name, *(word.format(tmp=tmp_path) for word in arguments))

    assert said.code == code
    assert re.search(r"^error: .+", said.err, re.MULTILINE)
    assert re.search(r"^hint: .+", said.err, re.MULTILINE)
    if name != "smoke-test":
        assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("doctor", "--reach"), "akashllm doctor"),
        (("plan",), "akashllm plan"),
        (("update", "one", "--nodes", "two"), "akashllm update"),
        (("nonsense",), "akashllm"),
    ],
)
def test_a_misuse_names_the_help_of_its_command(here: Run, arguments: tuple[str, ...], command: str) -> None:
    """Whoever has mistyped is sent to the page that says how."""
    first, *rest = arguments
    assert here(first, "--json", *rest).error["hint"] == f"`{command} --help` shows how"


@pytest.mark.parametrize("arguments", [("--json",), ("nonsense", "--json"), ("--nonsense", "--json")])
def test_a_misspelt_command_is_one_document_too(here: Run, arguments: tuple[str, ...]) -> None:
    """Whatever the parser refuses is a document as well."""
    said = here(*arguments)

    assert said.code == 2
    assert said.error["type"] == "UsageError"


@pytest.mark.parametrize("price", ["5 AKT", "5uakt", "1,5", "nan", "0"])
def test_a_price_in_another_unit_is_answered_with_the_right_one(here: Run, price: str) -> None:
    """What --max-price cannot be is one sentence with the unit it is in, and not the parser's."""
    said = here("plan", "--model", "llama3", "--max-price", price, "--json")

    assert said.code == 2
    assert "is no price" in said.error["message"]
    assert said.error["hint"] == "give US dollars an hour, such as 1.50"


def kinds() -> list[type[AkashllmError]]:
    """Every error a command may raise."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, AkashllmError)]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_each_error_ends_with_its_own_exit_code(
    here: Run, monkeypatch: pytest.MonkeyPatch, kind: type[AkashllmError]
) -> None:
    """The exit code is the error class's, whatever command raised it, with and without --json."""
    made = kind(7, 5) if issubclass(kind, ContextOverflow) else kind("it broke", hint="mend it")

    def fail(**_options: object) -> None:
        raise made

    monkeypatch.setattr(platform, "python_version", fail)
    said = here("version", "--json")

    assert (said.code, said.error["type"]) == (kind.exit_code, kind.__name__)
    assert said.code != 0
    if not issubclass(kind, ServiceError):
        assert kind.exit_code in range(1, 12)


def test_findings_reach_the_reader(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDL's findings are in the document and among the words."""

    def fail() -> None:
        raise BadSdl("two faults", ["line 1: a", "line 2: b"])

    monkeypatch.setattr(platform, "python_version", fail)

    assert here("version", "--json").error["findings"] == ["line 1: a", "line 2: b"]
    assert "line 2: b" in here("version").err


def test_an_unexpected_failure_is_short_and_keeps_its_traceback_privately(
    here: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours exits 70 and names a 0600 file with the traceback, in which no secret is."""
    monkeypatch.setenv("SOME_API_KEY", CANARY)

    def fail() -> None:
        raise ZeroDivisionError(f"with {CANARY} in it")

    monkeypatch.setattr(platform, "python_version", fail)
    said = here("version", "--json")

    assert said.code == 70
    assert said.error["type"] == "InternalError"
    (path,) = home.crashes.iterdir()
    assert str(path) in said.error["hint"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "ZeroDivisionError" in path.read_text()
    assert "[redacted]" in path.read_text()
    assert CANARY not in path.read_text() + said.out + said.err


@pytest.mark.parametrize("file", ["api-key", "api-key.next", "admin-key"])
def test_keys_of_deployments_are_never_said(
    here: Run, home: Home, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Whatever an error repeats, no key of a deployment is in it: neither a client's nor a manager's."""
    with Store(home) as store:
        row = store.add("one", "local", {}, "done")
    write_private(home.directory("one", row.id) / file, f"{CANARY}\n")

    def fail() -> None:
        raise AkashllmError(f"with {CANARY} in it", hint=f"and {CANARY} too")

    monkeypatch.setattr(platform, "python_version", fail)
    said = here("version", "--json")

    assert said.error["message"] == "with [redacted] in it"
    assert CANARY not in said.out + said.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("one still runs")])
def test_an_interruption_exits_130(here: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Ctrl-C is exit code 130 and one document."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(platform, "python_version", fail)
    said = here("version", "--json")

    assert (said.code, said.error["type"]) == (130, "Interrupted")


@pytest.mark.parametrize("form", [("--api-key", CANARY), (f"--api-key={CANARY}",)])
@pytest.mark.parametrize("name", ["deploy", "serve", "smoke-test", "list"])
def test_a_key_in_the_arguments_is_refused_and_not_repeated(
    here: Run, name: str, form: tuple[str, ...]
) -> None:
    """No command takes a key from argv; the refusal says how else, and does not show the key."""
    said = here(name, *form, "--json")

    assert said.code == 2
    assert "--api-key-env" in said.error["hint"]
    assert CANARY not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api-key-env", CANARY), "no variable"),
        (("--api-key-file", "/nonexistent"), "cannot be read"),
        (("--api-key-env", "EMPTY"), "is no key"),
        (("--api-key-env", "BROKEN"), "is no key"),
        (("--api-key-env", "EMPTY", "--api-key-file", "/nonexistent"), "contradict"),
    ],
)
def test_a_key_that_cannot_be_had_is_a_usage_error(
    here: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    """A missing, empty or malformed key is named as such, and never shown."""
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.setenv("BROKEN", f"{CANARY}\nsecond line")
    said = here("smoke-test", "http://127.0.0.1:9", *arguments, "--json")

    assert (said.code, said.error["type"]) == (2, "UsageError")
    assert message in said.error["message"]
    if "BROKEN" in arguments:
        assert CANARY not in said.out + said.err


@pytest.mark.parametrize("spelling", ["llamacpp", "llama.cpp", "llama-cpp", "LLAMACPP"])
def test_an_engine_has_several_spellings(here: Run, spelling: str) -> None:
    """llama.cpp is known by each of its usual names."""
    assert here("plan", "-m", "tiny", "-e", spelling, "--json").document["engine"] == "llamacpp"


def test_an_engine_that_is_none_is_refused(here: Run) -> None:
    """A misspelt engine says which there are."""
    said = here("plan", "-m", "tiny", "-e", "llamacxx", "--json")
    assert (said.code, "llamacpp, vllm or ollama" in said.error["hint"]) == (2, True)


def test_a_wallet_without_its_command_says_so(here: Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Akash's own command is not installed, what to install is said, and nothing is begun."""
    monkeypatch.setenv("PATH", "/nonexistent")
    said = here("deploy", "--market", "wallet", "--from", "mine", "--json")

    assert (said.code, said.error["type"]) == (5, "MarketError")
    assert "provider-services" in said.error["message"]
    assert "--market console" in said.error["hint"]
    assert not home.database.exists()


def test_the_market_comes_from_the_environment_too(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """AKASHLLM_MARKET stands in for --market, and the option overrides it."""
    monkeypatch.setenv("AKASHLLM_MARKET", "nowhere")
    assert here("deploy", "--json").code == 2
    assert here("deploy", "--market", "local", "--dry-run", "--json").code == 0


def test_help_names_the_environment(here: Run) -> None:
    """--help shows the variables that options stand for."""
    assert "AKASHLLM_MARKET" in here("deploy", "--help").out
    for variable in ("MODEL", "HOST", "PORT", "MODEL_ALIASES", "CONTEXT", "UNAUTHENTICATED"):
        assert f"AKASHLLM_{variable}" in here("serve", "--help").out


def test_the_version_is_an_option_too(here: Run) -> None:
    """`--version` says what the command `version` says."""
    asked = here("--version")
    assert (asked.code, asked.out) == (0, here("version").out)


def test_every_command_has_json_and_a_line_of_help(here: Run) -> None:
    """--json is everywhere, each command's first sentence stands in the list, whole; no default is `None`."""
    overview = here("--help").out
    for name, summary in command_summaries():
        shown = here(name, "--help").out
        assert "--json" in shown
        assert "None" not in shown
        assert summary.split(". ")[0].rstrip(".") in overview


def test_a_dry_run_touches_nothing(here: Run, home: Home) -> None:
    """--dry-run shows the SDL and makes no record."""
    said = here("deploy", "--market", "local", "--dry-run", "--json")

    assert said.document["name"] == "tiny-llamacpp"
    assert "${AKASHLLM_API_KEY}" in said.document["sdl"]
    assert not home.database.exists()


def test_module_and_script_are_the_same_program(there: Run) -> None:
    """`python -m akashllm` runs the command line, and its exit code is the process's."""
    assert there("version", "--json").document["version"]
    said = there("status", "nobody", "--json")
    assert (said.code, said.error["type"]) == (4, "NoSuchDeployment")


@pytest.mark.parametrize("arguments", [("models", "--json"), ("status", "nobody", "--json")])
def test_who_stops_reading_gets_no_traceback(home: Home, arguments: tuple[str, ...]) -> None:
    """Answers and errors end quietly where nobody reads them any more, as after `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "akashllm", *arguments],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("how", ["corrupt", "readable", "newer"])
def test_a_record_that_is_refused_is_left_alone(here: Run, home: Home, how: str) -> None:
    """A damaged, open or newer record: exit code 4, a way out, and not one byte changed."""
    home.prepare()
    here("list")
    match how:
        case "corrupt":
            home.database.write_bytes(b"x" * 5000)
        case "readable":
            home.database.chmod(0o644)
        case "newer":
            database = sqlite3.connect(home.database)
            database.execute("PRAGMA user_version = 999")
            database.close()
    before = home.database.read_bytes()
    said = here("list", "--json")

    assert (said.code, said.error["type"]) == (4, "StateError")
    assert said.error["hint"]
    assert home.database.read_bytes() == before


def test_output_of_a_model_search(here: Run) -> None:
    """`models --search` narrows the catalogue; nothing found is an empty list, not an error."""
    assert [m["alias"] for m in here("models", "--search", "tiny", "--json").document["models"]] == ["tiny"]
    assert here("models", "--search", "no such words", "--json").document == {"models": []}


def test_render_writes_checks_and_protects(here: Run, tmp_path: Path) -> None:
    """`render` writes a file, --check then agrees, an edit is drift and is not overwritten without --force."""
    options = ("--model", "tiny", "--output", str(tmp_path))
    path = tmp_path / "sdl" / "llamacpp-tiny.yaml"

    assert here("render", *options, "--json").document["written"] == [str(path)]
    assert here("render", *options, "--check").code == 0
    path.write_text(path.read_text() + "# mine\n")
    assert here("render", *options, "--check").code == 1
    assert here("render", *options).code == 2
    assert here("render", *options, "--force").code == 0


def test_validate_judges_each_file(here: Run, tmp_path: Path) -> None:
    """`validate` names file, line and remedy, and fails if any file is wrong."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(SDL.read_text().replace("uact", "uxyz"))
    said = here("validate", str(SDL), str(bad), "--json")

    assert said.code == 2
    assert [file["ok"] for file in said.document["files"]] == [True, False]
    assert any(finding["rule"] == "denom" for finding in said.document["files"][1]["findings"])
    assert json.dumps(said.document)


def test_a_manifest_has_the_services_of_its_sdl(here: Run) -> None:
    """`manifest` prints what a provider gets, and its hash; a secret stays a placeholder."""
    document: dict[str, Any] = here("manifest", str(SDL), "--json").document

    assert len(document["hash"]) == 64
    assert "AKASHLLM_API_KEY=${AKASHLLM_API_KEY}" in document["manifest"][0]["services"][0]["env"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_models_and_names(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--install-completion` installs for each shell asks the command, and it answers with the words."""
    home = Home(tmp_path / "home").prepare()
    with Store(home) as store:
        store.add("my-endpoint", "local", {}, "plan")
    environ = os.environ | {"AKASHLLM_HOME": str(home.root)}

    def words(line: str) -> str:
        given = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": line}
        return subprocess.run(
            [sys.executable, "-c", "from akashllm.cli.app import main; main()"],
            env={
                **environ,
                **given,
                "_AKASHLLM_COMPLETE": f"complete_{shell}",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "smoke-test" in words("akashllm smo")
    assert "llama3" in words("akashllm plan --model llama")
    assert "my-endpoint" in words("akashllm status my")
