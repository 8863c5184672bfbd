"""Which of vLLM's errors are the client's fault, and in which words."""

from __future__ import annotations

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError


def refusal(error: Exception) -> str | None:
    """VLLM's words if it refused the request; None if the fault is not the client's."""
    if isinstance(error, EngineDeadError) or not isinstance(error, VLLMClientError | GracefulHTTPError):
        return None
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else "vLLM refuses this request"
