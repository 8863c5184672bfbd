"""DOCS.md is true: every example in it runs as it stands, and every table is the code's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from akashllm.models import TINY

ROOT = Path(__file__).parents[1]
CURL = """\
curl() {
  n=$((${n:-0} + 1))
  command curl --silent --show-error --max-time 60 --output "$ANSWERS/$n" --write-out '%{http_code}\\n' "$@"
}
"""
"""Before each block: the status goes to stdout, the body to a numbered file."""


class Block(NamedTuple):
    """A fence: where it is, what it is in, and for a shell block what its last answer looks like."""

    line: int
    language: str
    text: str
    expected: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """A name for the test."""
        return f"line-{self.line}"


def blocks() -> list[Block]:
    """Every example of DOCS.md, in order, JSON folded into the shell block before it."""
    text = (ROOT / "DOCS.md").read_text(encoding="utf-8")
    found: list[Block] = []
    for match in re.finditer(r"^```([\w-]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, body = match[1], match[2]
        if language.startswith("json"):
            before = found.pop()
            assert before.language == "sh", f"the JSON after line {before.line} belongs to no command"
            found.append(before._replace(expected=(*before.expected, (language, json.loads(body)))))
        else:
            found.append(Block(text.count("\n", 0, match.start()) + 1, language, body))
    return found


BLOCKS = blocks()
SHELL = [block for block in BLOCKS if block.language == "sh"]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def _kind(value: Any) -> str:
    """What JSON calls its type."""
    return "number" if type(value) in (int, float) else type(value).__name__


def like(found: Any, shown: Any, place: str = "") -> None:
    """The same keys in the same order, and the same kinds of values; lists by their first element."""
    assert _kind(found) == _kind(shown), f"{place or 'the answer'} is {found!r}"
    if isinstance(shown, dict):
        assert list(found) == list(shown), f"the fields of {place or 'the answer'}"
        for key, value in shown.items():
            like(found[key], value, f"{place}.{key}")
    elif isinstance(shown, list) and shown:
        assert found, f"{place} is empty"
        like(found[0], shown[0], f"{place}[0]")


@pytest.mark.engine
@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.id)
def test_commands(
    block: Block, service_url: str, service_key: str, service_admin_key: str, tmp_path: Path
) -> None:
    """Each curl is answered with 200 (or 201, created), and the answer looks as it is shown."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", CURL + block.text],
        env=os.environ
        | {"URL": service_url, "KEY": service_key, "ADMIN_KEY": service_admin_key, "ANSWERS": str(tmp_path)}
        | {"FILE": str(TINY)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    bodies = [
        path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    ]
    expected = len(re.findall(r"^curl ", block.text, re.MULTILINE))
    statuses = done.stdout.split()
    assert len(statuses) == expected, bodies
    assert set(statuses) <= {"200", "201"}, bodies
    for language, shown in block.expected:
        lines = bodies[-1].splitlines()
        like(json.loads(lines[-1 if language == "json-last" else 0]), shown)


@pytest.mark.engine
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.id)
def test_programs(block: Block, service_url: str, service_key: str) -> None:
    """Each program runs as it stands and prints an answer."""
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        env=os.environ | {"URL": service_url, "KEY": service_key},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_nothing_is_left_out() -> None:
    """Every fence of DOCS.md is in a language that a test knows, and there are some of each."""
    assert {block.language for block in BLOCKS} == {"sh", "sh-setup", "python"}
    assert sum(bool(block.expected) for block in SHELL) > 5


def test_tables() -> None:
    """The tables are those that `scripts/docs.py` makes of the code."""
    done = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
