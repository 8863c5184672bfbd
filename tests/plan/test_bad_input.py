"""Impossible requests: one sentence, a way out, and nothing else happens."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.catalog import Catalog
from akashllm.errors import BadName, UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import explain, make_plan
from akashllm.planning.asked import check

BAD_NAMES = [
    "",
    "..",
    "../../etc/passwd",
    "a/../../b",
    "C:\\x",
    "~/x",
    "file:///x",
    "http://evil/x",
    "%2e%2e%2f",
    "llama3\n",
    "llama3\nservices:",
    "llama3\x00",
    "\u202ellama3",
    "ll\u0430ma3",
    "{{7*7}}",
    "$(id)",
    "`id`",
    "a b",
    "a;b",
    "a&b",
    "a|b",
    "'a'",
    '"a"',
    "#a",
    "&anchor",
    "*alias",
    "!!python/object",
    "-rf",
    "--config=/etc/x",
    "x" * 351,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_model_names(name: str) -> None:
    """No path climbs, no shell, YAML or template character passes, and the message is one safe line."""
    with pytest.raises(BadName) as caught:
        make_plan(DeployRequest(model=name))
    message = str(caught.value)
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 160
    assert caught.value.hint


BAD_FIELDS: list[dict[str, Any]] = [
    {"name": "../x"},
    {"name": "Has Capitals"},
    {"name": "x\ny"},
    {"name": "x" * 64},
    {"name": "-x"},
    {"quant": "Q4_K_M; rm"},
    {"quant": "Q9_Z"},
    {"quant": "fp8"},
    {"region": "us west"},
    {"region": "us\nwest"},
    {"image": "no spaces allowed"},
    {"image": "a:b:c"},
    {"image": "x@sha256:abc"},
    {"image": "x\n"},
    {"gpu": ("rtx4099",)},
    {"gpu": ("h100\n",)},
    {"gpu": ("h100",), "cpu_only": True},
    {"gpu_count": 3},
    {"gpu_count": 16},
    {"context": 0},
    {"context": -1},
    {"context": 10**12},
    {"context": 8193},
    {"concurrency": 0},
    {"concurrency": 10**6},
    {"replicas": 0},
    {"replicas": 1000},
    {"max_price": 0.0},
    {"max_price": -1.0},
    {"max_price": float("nan")},
    {"max_price": float("inf")},
    {"max_price": 600.0},
    {"max_price": 1_000_000.0},
    {"engine": "sglang"},
    {"engine": "vllm", "cpu_only": True},
    {"nodes": 2},
    {"engine": "vllm", "nodes": 0},
    {"engine": "vllm", "nodes": 9},
    {"engine": "vllm", "nodes": 2, "replicas": 2},
    {"engine": "vllm", "nodes": 2, "cpu_only": True},
    {"engine": "vllm", "quant": "Q4_K_M"},
    {"engine": "vllm", "quant": "awq"},
    {"parameters": -5},
    {"layers": 10**9},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=repr)
def test_every_other_field(fields: dict[str, Any]) -> None:
    """Sizes, prices, GPUs, quantisations and images that cannot be are refused with a suggestion."""
    with pytest.raises(UsageError) as caught:
        make_plan(DeployRequest(model="llama3", **fields))
    assert str(caught.value).isprintable()
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_engine_that_has_no_source_names_one_that_has() -> None:
    """Whisper is not in Ollama's library, tiny runs under llama.cpp only."""
    for model, engine, better in (("whisper", "ollama", "llamacpp"), ("tiny", "vllm", "llamacpp")):
        with pytest.raises(UsageError) as caught:
            make_plan(DeployRequest(model=model, engine=engine))  # type: ignore[arg-type] # a loop of literals
        assert better in caught.value.hint


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_model_name_plans_or_is_a_usage_error(name: str) -> None:
    """No string makes planning fail in another way, and what is accepted comes out as it went in."""
    complaint = ""
    try:
        made = make_plan(DeployRequest(model=name, local=True))
    except UsageError as error:
        complaint = str(error)
    else:
        assert made.model.alias in {model.alias for model in Catalog.load()}
    assert not complaint or complaint.isprintable()


@given(
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True),
    region=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
    context=st.integers(128, 8192),
    concurrency=st.integers(1, 64),
    replicas=st.integers(1, 20),
    audited=st.booleans(),
    persistent=st.booleans(),
    engine=st.sampled_from(["llamacpp", "ollama", "vllm"]),
)
@settings(max_examples=60, deadline=None)
def test_accepted_fields_survive(**fields: Any) -> None:
    """Every accepted field is in the plan unchanged, and the digest follows from the request alone."""
    request = DeployRequest(model="llama3", **fields)
    check(request, Catalog.load())
    first, second = make_plan(request), make_plan(dataclasses.replace(request))
    assert first == second
    assert first.digest() == second.digest()
    assert (first.name, first.region, first.context) == (fields["name"], fields["region"], fields["context"])
    assert (first.concurrency, first.replicas) == (fields["concurrency"], fields["replicas"])
    assert json.loads(json.dumps(first.as_dict()))["name"] == fields["name"]
    assert hash(first) == hash(second)
    assert all(line.isprintable() for line in explain(first))
