"""From options to a plan: a path made absolute, models outside the catalogue described from their files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akashllm.errors import UsageError
from akashllm.plan import DeployRequest, Plan
from akashllm.planning import make_plan


def model_word(text: str) -> str:
    """A model as the planner takes it: the path of a file becomes absolute, anything else stays."""
    path = Path(text).expanduser()
    if text.startswith("~") or text.endswith(".gguf") or (os.sep in text and path.is_file()):
        if not path.is_file() and (text.startswith(("~", ".", "/")) or os.sep not in text):
            raise UsageError(f"there is no file {text[:200]!r}", hint="give the path of a .gguf file")
        if path.is_file():
            return str(path.resolve())
    return text


def planned(request: DeployRequest, *, prices: Mapping[str, Any] | None = None) -> Plan:
    """The plan; a model that is not in the catalogue is looked up in its file or on the hub.

    prices   what Console's gpu-prices answers; None: the dated table
    """
    from akashllm.catalog.remote import HUB, Hub

    request = dataclasses.replace(request, model=model_word(request.model))
    where = os.environ.get("HF_ENDPOINT") or HUB
    with Hub(token=os.environ.get("HF_TOKEN"), hub=where) as hub:
        plan = make_plan(request, lookup=hub.describe, prices=prices)
        if request.name is None:
            plan = dataclasses.replace(plan, name=default_name(plan))
    return plan


def default_name(plan: Plan) -> str:
    """`tiny-llamacpp`: the model and the engine, in the 32 characters a name may have."""
    suffix = f"-{plan.engine}"
    return plan.name[: 32 - len(suffix)].rstrip("-") + suffix
