"""Go's own implementation as the judge of ours."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Verdict(NamedTuple):
    """What Go says: a fault of reading, a fault of running, what was printed until then."""

    parse: str
    run: str
    text: str


Judge = Callable[..., Verdict]


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Asks Go what a template prints of some data."""
    if os.environ.get("AKASHLLM_SKIP_GO") == "1":
        pytest.skip("AKASHLLM_SKIP_GO=1: templates are not compared with Go's")
    found = subprocess.run([ROOT / "scripts/golang"], capture_output=True, text=True, timeout=600, check=False)
    assert found.returncode == 0, f"no Go (AKASHLLM_SKIP_GO=1 leaves it out):\n{found.stderr}"
    go = found.stdout.strip().splitlines()[-1]
    place = tmp_path_factory.mktemp("judge")
    environment = os.environ | {"GOCACHE": str(place / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    program = place / "judge"
    source = Path(__file__).with_name("judge.go")
    subprocess.run([go, "build", "-o", program, source], check=True, env=environment, timeout=300)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(
            template: str, data: dict[str, Any] | None = None, chat: dict[str, Any] | None = None
        ) -> Verdict:
            stdin.write(json.dumps({"template": template, "data": data, "chat": chat}) + "\n")
            stdin.flush()
            answer = json.loads(stdout.readline())
            return Verdict(answer["parse"], answer["run"], answer["text"])

        yield ask
        process.stdin.close()
        process.wait(30)
