"""Build contexts: complete, the same bytes each time, with only the wheels that the locks name."""

from __future__ import annotations

import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from akashllm.errors import UsageError
from akashllm.images import Context, check_arguments, local_name, make_context, remote_name
from akashllm.plan import DeployRequest, EngineName
from akashllm.planning import make_plan
from akashllm.render.image import VARIANTS
from akashllm.version import __version__
from tests.images.conftest import ROOT


def members(context: Context) -> dict[str, bytes]:
    """Path -> content of the archive."""
    with context.tar() as archive, tarfile.open(fileobj=archive) as tar:
        found = {}
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            assert (entry.mtime, entry.uid, entry.gid) == (0, 0, 0)
            found[entry.name] = file.read()
        return found


@pytest.mark.parametrize(("engine", "cpu"), VARIANTS)
def test_a_context_holds_all_that_its_dockerfile_copies(engine: EngineName, cpu: bool) -> None:
    """Everything that a COPY names is there, and exactly one wheel of ours."""
    files = members(make_context(engine, cpu=cpu))
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", files["Dockerfile"].decode())

    for source in " ".join(copied).split():
        assert [name for name in files if name == source or name.startswith(source.rstrip("/") + "/")], source
    assert [name for name in files if name.startswith("ours/")] == [
        f"ours/akashllm-{__version__}-py3-none-any.whl"
    ]


def test_the_same_content_is_the_same_archive() -> None:
    """Order and time of making do not show."""
    archives = []
    for files in ({"a": b"1", "b/c": b"2"}, {"b/c": b"2", "a": b"1"}):
        with Context(files).tar() as archive:
            archives.append(archive.read())

    assert archives[0] == archives[1]


def test_only_wheels_that_the_locks_name_are_taken(tmp_path: Path) -> None:
    """Of a wheelhouse, project and version decide; other wheels and other files stay out of the context."""
    good = "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
    for name in (
        good,
        "llama_cpp_python-0.3.1-py3-none-any.whl",
        "evil-1.0-py3-none-any.whl",
        "x.whl",
        "key.txt",
    ):
        (tmp_path / name).write_bytes(b"wheel")

    context = make_context("llamacpp", cpu=True, wheelhouse=tmp_path)

    assert context.wheels == (good,)
    assert members(context)[f"wheels/{good}"] == b"wheel"
    assert not [name for name in context.files if "evil" in name or "key" in name]


def test_a_wheelhouse_without_use_is_an_error(tmp_path: Path) -> None:
    """A wheelhouse that is missing, empty or a file is refused before anything is built."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")

    for name in ("missing", "empty", "file"):
        with pytest.raises(UsageError, match="wheelhouse"):
            make_context("llamacpp", cpu=True, wheelhouse=tmp_path / name)


def test_build_arguments_are_those_of_the_dockerfile() -> None:
    """An ARG that exists is taken; one that does not, or a value with a password, is refused."""
    context = make_context("llamacpp", cpu=False)

    assert check_arguments(context, {"RUN_BASE": "a:1"}) == {"RUN_BASE": "a:1"}
    with pytest.raises(UsageError, match="no build argument") as unknown:
        check_arguments(context, {"CUDA": "13"})
    assert "RUN_BASE" in unknown.value.hint
    with pytest.raises(UsageError, match="secret"):
        check_arguments(context, {"PIP_INDEX_URL": "https://me:hunter2@index.example/simple"})


def test_an_image_is_called_as_plans_call_it() -> None:
    """What `akashllm build` makes is what a plan asks for, for every image there is."""
    for engine, cpu in VARIANTS:
        plan = make_plan(DeployRequest(model="llama3", engine=engine, cpu_only=cpu))
        assert str(local_name(engine, cpu=cpu)) == plan.image


def test_one_repository_can_hold_every_engine() -> None:
    """The tags of different images differ, and a repository with a tag is refused."""
    names = {str(remote_name("ghcr.io/me/x", engine, cpu=cpu)) for engine, cpu in VARIANTS}

    assert len(names) == len(VARIANTS)
    with pytest.raises(UsageError, match="--repository"):
        remote_name("ghcr.io/me/x:1", "vllm", cpu=False)


@pytest.mark.parametrize("extra", ["server", "llamacpp"])
def test_the_locks_hold_what_the_package_asks_for(extra: str) -> None:
    """Every requirement of the extra is locked: an image never lacks a library that the service imports."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    named = {re.split(r"[<>=!;\[ ]", line, maxsplit=1)[0] for line in asked} - {"akashllm"}
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in named}
    locks = ["server"] if extra == "server" else ["llamacpp", "llama-cpp-python"]
    locked = {
        name
        for lock in locks
        for name in re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / f"templates/locks/{lock}.txt").read_text())
    }

    assert names <= locked


def test_a_large_wheel_is_read_from_its_file(tmp_path: Path) -> None:
    """A file in the context arrives whole without being held in memory by it."""
    file = tmp_path / "wheel"
    file.write_bytes(bytes(range(256)) * 4096)

    context = Context({"wheels/a": file})

    assert members(context)["wheels/a"] == file.read_bytes()
