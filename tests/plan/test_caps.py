"""What a person caps: the price, the number of GPUs."""

from __future__ import annotations

import pytest

from akashllm.errors import DoesNotFit, UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.sdl.quantities import BLOCKS_AN_HOUR


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_cap_that_rounds_to_nothing_is_refused(replicas: int) -> None:
    """A bid costs at least a hundredth of a uact a block for each container: a lower cap is no cap."""
    smallest = 0.01 * BLOCKS_AN_HOUR / 1_000_000 * replicas
    plan = make_plan(DeployRequest(model="tiny", replicas=replicas, max_price=smallest))
    assert plan.max_uact_block == 0.01
    with pytest.raises(UsageError, match="less than the smallest price"):
        make_plan(DeployRequest(model="tiny", replicas=replicas, max_price=smallest / 2))


def test_experts_that_cannot_be_split_are_named() -> None:
    """A mixture in blocks of fp8 over too many GPUs: the message says that its experts are why."""
    with pytest.raises(DoesNotFit, match="over 8 GPUs: it has experts of 1536 rows in fp8") as caught:
        make_plan(DeployRequest(model="qwen3:235b", engine="vllm", quant="fp8", gpu_count=8))
    assert "--gpu-count 1 or 2 or 4" in caught.value.hint


def test_a_number_of_gpus_that_cannot_share_a_model_says_so() -> None:
    """Where there is memory enough but nothing to split, it is not memory that is said to be short."""
    with pytest.raises(DoesNotFit, match="cannot be split over 8 GPUs: it has 4 layers") as caught:
        make_plan(DeployRequest(model="tiny", gpu_count=8))
    assert "--gpu-count 1 or 2 or 4" in caught.value.hint
