"""Plans read back from SDLs that somebody has committed."""

from __future__ import annotations

import re

from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.planning.written import plan_of
from akashllm.render import SERVICE, WORKER, render_sdl


def test_nodes_are_read_back() -> None:
    """A model on several nodes keeps its workers: what is rendered from the plan of its file is the file's."""
    made = make_plan(DeployRequest(model="deepseek-r1:671b", engine="vllm", nodes=2))
    read = plan_of(render_sdl(made), None, source="two.yaml")
    assert (read.nodes, read.containers, read.replicas) == (2, 2, 1)
    assert read.max_price_hour == made.max_price_hour
    assert f"  {WORKER}:\n" in render_sdl(read)


def test_the_head_is_the_service_wherever_it_stands() -> None:
    """Workers written before their head do not pass for it."""
    made = make_plan(DeployRequest(model="deepseek-r1:671b", engine="vllm", nodes=2))
    text = render_sdl(made)
    start, end = text.index("services:\n") + len("services:\n"), text.index("\nprofiles:")
    head, worker = re.split(rf"^(?=  {WORKER}:$)", text[start:end], flags=re.MULTILINE)
    swapped = text[:start] + worker.rstrip() + "\n" + head.rstrip() + "\n" + text[end:]
    assert swapped.index(f"  {WORKER}:") < swapped.index(f"  {SERVICE}:")
    read = plan_of(swapped, None, source="two.yaml")
    assert "AKASHLLM_HEAD" not in dict(read.env)
    assert read.port == made.port
