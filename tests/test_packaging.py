"""The wheel, not the source: what is in it, what it needs, and that it works where only it is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from akashllm.models import TINY

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "numpy", "transformers", "tensorflow", "jax", "litellm", "huggingface-hub", "scipy", "pandas"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(ROOT)]
    subprocess.run(argv, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_its_data_and_nothing_else(wheel: Path) -> None:
    """Templates, catalogue, model and type marker are in it; tests, benchmarks and .pth files are not."""
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {"akashllm/py.typed", "akashllm/models/tiny-q8_0.gguf", "akashllm/catalog/models.toml"} <= names
    assert {
        f"akashllm/_templates/{p.relative_to(ROOT / 'templates')}" for p in (ROOT / "templates").rglob("*.j2")
    } <= names
    assert not [n for n in names if not n.startswith("akashllm")]
    assert not [n for n in names if n.endswith((".pth", ".pyc"))]


def closure(package: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Names of what `package` needs, all the way down, as installed here."""
    found: set[str] = set()
    todo = [package]
    while todo:
        name = todo.pop()
        for requirement in metadata.requires(name) or []:
            if "extra ==" in requirement or 'extra == "' in requirement:
                continue
            needed = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
            if needed in found:
                continue
            found.add(needed)
            try:
                metadata.distribution(needed)
            except metadata.PackageNotFoundError:
                continue
            todo.append(needed)
    return found


def test_the_command_line_stays_light() -> None:
    """Nothing heavy is among what `pip install akashllm` brings, and it is fewer than 28 packages."""
    needed = closure("akashllm")

    assert not needed & HEAVY
    assert len(needed) < 28, sorted(needed)


def test_the_command_line_imports_nothing_of_the_service() -> None:
    """`akashllm --help` loads neither the web framework nor numpy."""
    code = "import sys, akashllm.cli.app; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert not {"fastapi", "numpy", "llama_cpp", "llguidance", "torch", "uvicorn"} & set(
        re.findall(r"'(\w+)'", loaded)
    )


@pytest.mark.slow
def test_the_installed_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment with nothing but the wheel, a plan, an SDL and its verdict come out."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_ = tmp_path / "venv/bin"
    subprocess.run([bin_ / "python", "-m", "pip", "install", "-q", str(wheel)], check=True, capture_output=True)

    def akashllm(*argv: str) -> str:
        env = {"AKASHLLM_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [bin_ / "akashllm", *argv], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    plan = json.loads(akashllm("plan", "--engine", "vllm", "--model", "llama3", "--json"))
    listed = json.loads(akashllm("models", "--json"))
    akashllm("render", "--engine", "llamacpp", "--model", "llama3", "--output", str(tmp_path / "out"))
    sdl = next((tmp_path / "out").rglob("*.yaml"))
    akashllm("validate", str(sdl))

    assert plan["engine"] == "vllm"
    assert len(listed["models"] if isinstance(listed, dict) else listed) >= 40


def test_a_missing_extra_is_said_with_its_remedy() -> None:
    """Without the server extra, `serve` names the pip command instead of an ImportError."""
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.modules['msgspec'] = None\n"
        "sys.argv = ['akashllm', 'serve']\n"
        "from akashllm.cli.app import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_bundled_model_is_the_published_one() -> None:
    """The file in the package is whole: a GGUF of 3.8 MB."""
    assert TINY.stat().st_size == 3_806_528
    assert TINY.read_bytes()[:4] == b"GGUF"
