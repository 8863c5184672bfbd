"""What the child may count on: of its interpreter, and of vLLM."""

from __future__ import annotations

import subprocess
import sys

import pytest

from akashllm.render.bases import VLLM
from tests.vllm.conftest import ROOT, interpreter

OURS = """
import importlib, sys
absent = "fastapi starlette uvicorn httpx httpx2 typer pydantic llama_cpp faster_whisper vllm torch".split()
sys.modules.update(dict.fromkeys(absent))
for name in (
    "engines.vllm.child", "engines.vllm.launch", "engines.vllm.facts", "engines.vllm.vocabulary",
    "engines.vllm.lifeline", "engines.vllm.overheard", "engines.vllm.options", "engines.vllm.cluster",
    "engines.vllm.timestamps",
    "engines.prompts", "engines.shape", "engines.trial", "engines.answer", "models.folder",
):
    importlib.import_module("akashllm.server." + name)
"""

THEIRS = """
import inspect
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.parser import ParserManager
from vllm.pooling_params import PoolingParams
from vllm.renderers.params import ChatParams, TokenizeParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

def takes(what, *names):
    missing = set(names) - set(inspect.signature(what).parameters)
    assert not missing, (what, missing)

takes(AsyncLLM.from_vllm_config, "stat_loggers", "disable_log_stats")
takes(AsyncLLM.generate, "prompt", "sampling_params", "request_id", "lora_request")
takes(AsyncLLM.encode, "prompt", "pooling_params", "request_id")
takes(AsyncLLM.shutdown, "timeout")
takes(ParserManager.get_parser, "tool_parser_name", "reasoning_parser_name", "enable_auto_tools")
takes(StatLoggerBase.record, "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx")
takes(PoolingParams, "task", "use_activation")
takes(StructuredOutputsParams, "json", "regex", "grammar")
takes(ChatParams, "chat_template_kwargs")
takes(TokenizeParams, "max_total_tokens", "add_special_tokens")
takes(
    AsyncEngineArgs, "model", "served_model_name", "dtype", "tensor_parallel_size", "pipeline_parallel_size",
    "distributed_executor_backend", "gpu_memory_utilization", "max_model_len", "max_logprobs", "runner",
    "convert", "structured_outputs_config", "enable_lora", "max_loras", "max_lora_rank", "trust_remote_code",
)
assert RequestOutputKind.DELTA and tokens_input([1])["prompt_token_ids"] == [1]
"""


def test_the_child_needs_little() -> None:
    """Without the libraries of the service and without vLLM the child starts, and can say that it cannot."""
    subprocess.run([sys.executable, "-c", OURS], check=True, cwd=ROOT, timeout=60)


@pytest.mark.vllm
@pytest.mark.timeout(200)
def test_vllm_has_what_is_used() -> None:
    """Names and parameters are where the child looks for them: a new vLLM that moves one shows here first."""
    python = interpreter()
    assert python is not None
    done = subprocess.run([str(python), "-c", THEIRS], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_tested_is_what_the_image_has() -> None:
    """One version of vLLM: that of the image's base is what `scripts/vllm-cpu` installs."""
    script = (ROOT / "scripts/vllm-cpu").read_text()
    assert f"VLLM_VERSION:-{VLLM}}}" in script
