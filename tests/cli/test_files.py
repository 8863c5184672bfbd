"""What `plan` and `render` take by option, and what they write."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run

FIGURES = (
    *("--parameters", "8030261248", "--layers", "32", "--hidden", "4096"),
    *("--kv-heads", "8", "--head-size", "128"),
)
UNKNOWN = ("--model", "me/unpublished", "--engine", "vllm")


def rendered(here: Run, tmp_path: Path, *options: str) -> str:
    """The SDL that `render` writes."""
    said = here("render", "--model", "llama3", "--engine", "vllm", "--output", str(tmp_path), *options)
    assert said.code == 0, said.err
    return (tmp_path / "sdl" / "vllm-llama3.yaml").read_text()


def test_a_volume_and_an_audit_can_be_done_without(here: Run, tmp_path: Path) -> None:
    """--no-volume keeps weights on the container's own disk, --any-provider asks for no auditor."""
    usual = rendered(here, tmp_path / "usual")
    assert "beta3" in usual
    assert "signedBy" in usual
    assert "beta3" not in rendered(here, tmp_path / "thrown", "--no-volume")
    assert "signedBy" not in rendered(here, tmp_path / "anybody", "--any-provider")


def test_figures_by_option_need_no_network(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose files cannot be read is planned from the options that the hint names."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert here("plan", *UNKNOWN).code == 3
    lacking = here("plan", *UNKNOWN, *FIGURES)
    assert lacking.code == 2
    assert "--context" in lacking.err
    known = here("plan", *UNKNOWN, *FIGURES, "--context", "8192", "--json").document
    assert known["context"] == 8192
    assert sum(line["gib"] for line in known["memory"]) == pytest.approx(26.2, abs=0.5)


@pytest.mark.parametrize("count", ["8030261248", "8.030261248B", "8030.261248m"])
def test_parameters_are_counted_as_models_are_named(
    here: Run, monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    """All of them, or millions and billions."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    known = here("plan", *UNKNOWN, *FIGURES[2:], "--parameters", count, "--context", "8192", "--json").document
    usual = here("plan", *UNKNOWN, *FIGURES, "--context", "8192", "--json").document
    assert known["memory"] == usual["memory"]


@pytest.mark.parametrize("count", ["seven", "7Q", "", "B", "nan", "inf"])
def test_parameters_that_are_no_number_are_refused(here: Run, count: str) -> None:
    """One line, and how to say it."""
    said = here("plan", *UNKNOWN, *FIGURES[2:], "--parameters", count, "--json")
    assert (said.code, said.error["type"]) == (2, "UsageError")
    assert "such as 8030261248 or 7B" in said.error["hint"]


def test_templates_of_ones_own_come_first(here: Run, tmp_path: Path) -> None:
    """--templates stands before ours, file by file; what it does not have stays ours."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mounts.yaml.j2").write_text("    # no mounts\n")
    text = rendered(here, tmp_path / "out", "--templates", str(folder))
    assert "    # no mounts\n" in text
    assert 'version: "2.0"' in text


@pytest.mark.parametrize("command", [("render",), ("render", "--model", "llama3"), ("build",)])
def test_a_template_link_that_leads_out_is_refused(here: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A directory of templates with a link out of it: exit code 2, one line, nothing written."""
    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    (folder / "sdl.yaml.j2").symlink_to("/etc/passwd")
    target = () if command == ("build",) else ("--output", str(out))
    said = here(*command, "--templates", str(folder), *target)
    assert said.code == 2
    assert "error: the template sdl.yaml.j2 is a link that leaves the template directory\n" in said.err
    assert not out.exists()
