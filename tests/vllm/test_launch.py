"""How vLLM is started, and what its own words are made into: all that needs no vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from akashllm.server.engines.frames import Load
from akashllm.server.engines.vllm.launch import Refusal, arguments
from akashllm.server.engines.vllm.options import Options
from tests.vllm.conftest import ROOT

ORDER = Load(model="/models/m", name="m:latest", context=4096)


def test_one_gpu_is_plain() -> None:
    """Nothing is asked for that one GPU does not need; the context and log probabilities are."""
    made = arguments(ORDER, Options(), ())
    assert (made["model"], made["max_model_len"], made["tensor_parallel_size"]) == ("/models/m", 4096, 1)
    assert made["structured_outputs_config"] == {"backend": "guidance"}
    assert made["trust_remote_code"] is False
    assert not made.keys() & {"distributed_executor_backend", "pipeline_parallel_size", "enable_lora", "runner"}


def test_several_nodes_are_joined_by_ray() -> None:
    """The GPUs of a node split each layer, the nodes share the layers."""
    made = arguments(ORDER, Options(gpus=4, nodes=2), ())
    assert (made["tensor_parallel_size"], made["pipeline_parallel_size"]) == (4, 2)
    assert made["distributed_executor_backend"] == "ray"


def test_a_model_for_text_is_made_to_embed() -> None:
    """`task` is vLLM's runner and conversion."""
    made = arguments(ORDER, Options(task="embed"), ())
    assert (made["runner"], made["convert"]) == ("pooling", "embed")


def test_further_options_win_and_unknown_ones_are_refused() -> None:
    """What vLLM knows is passed on as it is; a typing error is not."""
    made = arguments(ORDER, Options(extra={"max_model_len": 99}), ("max_model_len",))
    assert made["max_model_len"] == 99
    with pytest.raises(Refusal, match="no engine argument named max_modellen"):
        arguments(ORDER, Options(extra={"max_modellen": 99}), ("max_model_len",))


def test_no_option_runs_a_repositorys_code() -> None:
    """`trust_remote_code` is off, and cannot be switched on."""
    known = ("trust_remote_code",)
    with pytest.raises(Refusal, match="never run here"):
        arguments(ORDER, Options(extra={"trust_remote_code": True}), known)
    made = arguments(ORDER, Options(extra={"trust_remote_code": False}), known)
    assert made["trust_remote_code"] is False


def test_adapters_have_room_for_their_rank(tmp_path: Path) -> None:
    """The largest rank decides, rounded up to one vLLM takes; a folder without an adapter is refused."""
    folders = {}
    for name, rank in (("a", 4), ("b", 24)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
        folders[f"{name}:latest"] = str(tmp_path / name)
    made = arguments(ORDER, Options(adapters=folders), ())
    assert (made["enable_lora"], made["max_loras"], made["max_lora_rank"]) == (True, 2, 32)
    with pytest.raises(Refusal, match="no LoRA adapter in"):
        arguments(ORDER, Options(adapters={"c:latest": str(tmp_path)}), ())


LISTEN = """
import sys
from akashllm.server.engines.vllm.overheard import Overheard
import os, time
heard = Overheard()
print("INFO loading")
print("(EngineCore pid=7) ERROR 11-21 10:00:00 [core.py:1] ValueError: To serve at least one request, memory")
print("RuntimeError: Engine core initialization failed. See root cause above.")
sys.stdout.flush()
for _ in range(500):
    if heard.cause():
        break
    time.sleep(0.01)
heard.say(f"{heard.cause()}|{heard.final()}")
os._exit(0)
"""


def test_the_cause_of_a_failed_start_is_overheard() -> None:
    """VLLM's core tells the cause on its output only; the echo of it in other processes is not the cause."""
    done = subprocess.run(
        [sys.executable, "-c", LISTEN], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert "INFO loading" in lines
    assert "To serve at least one request, memory (ValueError)|True" in lines


AT_ONCE = """
import os, subprocess, sys
from akashllm.server.engines.vllm import lifeline
guard = lifeline._guard
def late(head):
    while os.getppid() == head:
        pass
    guard(head)
lifeline._guard = late
lifeline.lead()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
os._exit(1)
"""


def test_a_head_that_ends_before_its_guard_listens_takes_its_group_along() -> None:
    """A guard that comes too late to be told sees it by itself."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], stdout=subprocess.PIPE, cwd=ROOT, timeout=60, check=False
    )
    # Nobody holds the pipe any more, or this would still wait.
    assert done.stdout == b""


GUARDED = """
import os, subprocess, sys, time
from akashllm.server.engines.vllm.lifeline import lead
lead()
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_head_takes_its_group_along() -> None:
    """What a child has started is gone when it was killed itself, though nobody told it."""
    with subprocess.Popen([sys.executable, "-c", GUARDED], stdout=subprocess.PIPE, text=True, cwd=ROOT) as head:
        assert head.stdout is not None
        int(head.stdout.readline())
        head.kill()
        # The worker holds the other end of the pipe: it ends when the worker has.
        assert head.stdout.read() == ""
