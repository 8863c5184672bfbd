"""The price cap that a person asks for."""

from __future__ import annotations

import pytest

from akashllm.errors import UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.planning.price import BLOCKS_AN_HOUR


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_cap_that_rounds_to_nothing_is_refused(replicas: int) -> None:
    """A bid costs at least a hundredth of a uact a block for each container: a lower cap is no cap."""
    smallest = 0.01 * BLOCKS_AN_HOUR / 1_000_000 * replicas
    plan = make_plan(DeployRequest(model="tiny", replicas=replicas, max_price=smallest))
    assert plan.max_uact_block == 0.01
    with pytest.raises(UsageError, match="less than the smallest price"):
        make_plan(DeployRequest(model="tiny", replicas=replicas, max_price=smallest / 2))
