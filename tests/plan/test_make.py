"""A request becomes a plan."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from akashllm.catalog import Catalog, Model, Sources
from akashllm.catalog.reference import Reference
from akashllm.errors import DoesNotFit, UnknownModel, UsageError
from akashllm.plan import DeployRequest, EngineName, Plan
from akashllm.planning import explain, make_plan
from akashllm.planning.wanted import engines_of

PAIRS = [(model.alias, engine) for model in Catalog.load() for engine in engines_of(model)]


def plan(model: str = "llama3", **asked: Any) -> Plan:
    """The plan of a request."""
    return make_plan(DeployRequest(model=model, **asked))


@pytest.mark.parametrize(("alias", "engine"), PAIRS)
def test_every_model_has_a_plan_with_every_engine(alias: str, engine: EngineName) -> None:
    """Nothing in the catalogue is there for show: each entry plans, within the price that is ever bid."""
    made = plan(alias, engine=engine)
    assert made.max_price_hour is not None
    assert 0 < made.max_price_hour < 100
    assert len({choice.count for choice in made.gpus}) <= 1
    assert len({choice.model for choice in made.gpus}) == len(made.gpus)
    assert made.ram_gib >= 2
    assert made.volume_gib == 0 or made.volume_class == "beta3"
    assert explain(made)


def test_tiny_runs_here_for_nothing() -> None:
    """The bundled model on this machine: no GPU, no price, no download, no volume."""
    made = plan("tiny", local=True)
    assert (made.gpus, made.max_price_hour, made.max_uact_block) == ((), None, None)
    assert made.price_source == "free: this machine"
    assert made.model.kind == "bundled"
    assert (made.volume_gib, made.volume_class) == (0, None)
    assert made.image.endswith("-cpu")


def test_a_plan_says_what_the_container_is_told() -> None:
    """The environment is sorted, holds no secret, and pins the weights by repository and file."""
    made = plan("llama3", engine="llamacpp", context=4096, concurrency=2)
    env = dict(made.env)
    assert list(made.env) == sorted(made.env)
    assert env["AKASHLLM_ENGINE"] == "llamacpp"
    assert env["AKASHLLM_CONTEXT"] == "4096"
    assert env["AKASHLLM_CONCURRENCY"] == "2"
    assert env["AKASHLLM_MODEL"].endswith("/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf")
    assert env["AKASHLLM_MODEL_NAME"] == "llama3"
    assert made.secrets == ("AKASHLLM_API_KEY",)
    assert not any("KEY" in name or "TOKEN" in name for name in env)


def test_gated_weights_ask_for_a_token() -> None:
    """The gated original that vLLM reads needs HF_TOKEN; the GGUF copies are open."""
    assert "HF_TOKEN" in plan(engine="vllm").secrets
    assert "HF_TOKEN" not in plan(engine="llamacpp").secrets


def test_managing_models_asks_for_a_second_key() -> None:
    """`--manage` is a secret more, and only for the engine that has a store of models."""
    assert plan(manage=True, engine="llamacpp").secrets == ("AKASHLLM_ADMIN_KEY", "AKASHLLM_API_KEY")
    with pytest.raises(UsageError, match="no others"):
        plan(manage=True, engine="vllm")


def test_managed_models_have_room() -> None:
    """What is pulled later has 30 GiB more, on a volume also beside a bundled model, or on the disk."""
    alone, managed = plan("llama3"), plan("llama3", manage=True)
    assert (alone.volume_gib, managed.volume_gib) == (10, 40)
    tiny = plan("tiny", manage=True)
    assert (plan("tiny").volume_gib, tiny.volume_gib, tiny.volume_class) == (0, 30, "beta3")
    assert plan("tiny", manage=True, persistent=False).disk_gib == plan("tiny").disk_gib + 30


def test_vllm_is_told_its_parsers() -> None:
    """The catalogue's parsers go to vLLM, and to no other engine."""
    env = dict(plan("qwen3:8b", engine="vllm").env)
    assert (env["AKASHLLM_TOOL_PARSER"], env["AKASHLLM_REASONING_PARSER"]) == ("hermes", "qwen3")
    assert not dict(plan("qwen3:8b", engine="llamacpp").env).keys() & {"AKASHLLM_TOOL_PARSER"}


def test_several_gpus_have_shared_memory() -> None:
    """Tensor parallelism gets /dev/shm; one GPU or another engine does not."""
    split = plan("llama3:70b", engine="vllm")
    assert split.gpus[0].count > 1
    assert split.shm_gib == 10
    assert dict(split.env)["AKASHLLM_GPUS"] == str(split.gpus[0].count)
    assert plan("llama3:70b", engine="llamacpp").shm_gib == 0
    assert plan("llama3", engine="vllm").shm_gib == 0


def test_each_process_of_vllm_has_memory() -> None:
    """Seven GPUs more are seven processes more; llama.cpp has one for all."""
    one, eight = (plan("llama3", engine="vllm", gpu_count=count) for count in (1, 8))
    assert eight.ram_gib == one.ram_gib + 7 * 4
    assert len({plan("llama3", gpu_count=count).ram_gib for count in (1, 8)}) == 1


def test_without_a_volume_the_weights_count_as_disk() -> None:
    """--no-volume moves the weights to the container's own disk, with room for the download."""
    kept, thrown = plan(), plan(persistent=False)
    assert kept.volume_gib >= 5
    assert thrown.volume_gib == 0
    assert thrown.disk_gib - kept.disk_gib >= 5


def test_fp8_where_bf16_does_not_fit() -> None:
    """A published fp8 repository is taken for vLLM rather than give up, and the plan says so."""
    made = plan("llama3.1", engine="vllm", gpu=("l4",), gpu_count=1, concurrency=4)
    assert made.quant == "fp8"
    assert made.model.repository == "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8"
    assert any("fp8" in warning for warning in made.warnings)


def test_another_quantisation_is_another_source() -> None:
    """Ollama takes a GGUF of the hub for a quantisation that its library's name does not mean."""
    assert plan(engine="ollama").model.repository == "llama3"
    assert (
        plan(engine="ollama", quant="Q8_0").model.repository
        == "hf.co/bartowski/Meta-Llama-3-8B-Instruct-GGUF:Q8_0"
    )
    assert plan("qwen3", engine="vllm", quant="awq").model.repository == "Qwen/Qwen3-8B-AWQ"


def test_live_prices_set_the_cap() -> None:
    """The market's listing is used when it is there, and one fancy offer does not set the cap."""
    row = {"vendor": "nvidia", "model": "rtx4090", "ram": "24Gi", "interface": "PCIe"}
    prices = {"models": [{**row, "price": {"currency": "USD", "weightedAverage": 0.4, "max": 50.0}}]}
    made = make_plan(DeployRequest(model="llama3", gpu=("rtx4090",)), prices=prices)
    assert made.price_source == "Console gpu-prices"
    assert made.max_price_hour == pytest.approx(0.4 * 2 * 1.2, abs=0.1)


def test_uact_is_dollars_over_blocks() -> None:
    """A dollar an hour is 1666.66 uact a block for one replica, whatever the replicas."""
    made = plan(max_price=3.0, replicas=3)
    assert made.max_price_hour == 3.0
    assert made.max_uact_block == pytest.approx(1_000_000 / 600, abs=0.01)


def test_nodes_share_the_model() -> None:
    """What no machine holds fits on several: each holds its share, and the cap is for all of them."""
    with pytest.raises(DoesNotFit) as alone:
        plan("llama3:70b", engine="vllm", gpu=("rtx4090",), gpu_count=4)
    assert "more --nodes" in alone.value.hint
    made = plan("llama3:70b", engine="vllm", gpu=("rtx4090",), nodes=2)
    assert (made.nodes, made.containers, made.gpus[0].count) == (2, 2, 8)
    assert dict(made.env)["AKASHLLM_NODES"] == "2"
    assert made.max_uact_block is not None
    assert made.max_price_hour == pytest.approx(2 * made.max_uact_block * 600 / 1e6, abs=0.01)
    asked = plan("llama3:70b", engine="vllm", gpu=("rtx4090",), nodes=2, max_price=12.0)
    assert asked.max_price_hour == 12.0
    assert asked.max_uact_block == pytest.approx(6 * 1_000_000 / 600, abs=0.01)


def test_a_price_below_the_market_is_said_so() -> None:
    """A cap under which nothing fits is an error with the cheapest that does, not a plan without bids."""
    with pytest.raises(DoesNotFit, match=r"costs \$0\.01 an hour") as caught:
        plan(max_price=0.01)
    assert "rtx3060" in caught.value.hint


def test_too_large_says_how_much() -> None:
    """What does not fit is an error that names what is needed and what there is."""
    with pytest.raises(DoesNotFit, match=r"needs 50\.3 GiB.*an rtx4090.*may use 23\.5"):
        plan("llama3:70b", gpu=("rtx4090",), gpu_count=1)
    with pytest.raises(DoesNotFit, match="compute capability"):
        plan(engine="vllm", gpu=("t4",))


def test_the_sentences_a_person_reads() -> None:
    """`explain` shows the sum line by line, the GPUs with their memory, and the price."""
    lines = explain(plan(gpu=("rtx4090",)))
    text = "\n".join(lines)
    assert "Needs 9.3 GiB, an rtx4090 has 24.0." in lines
    assert re.search(r"4\.58 GiB  weights \(8\.0B parameters in Q4_K_M, 4\.89 bits each\)", text)
    assert re.search(r"4\.00 GiB  KV cache \(4 x 8192 tokens, 32 layers, 8 KV heads of 128\)", text)
    assert re.search(r"price: at most \$0\.\d\d an hour", text)
    assert all("\n" not in line for line in lines)


def test_a_named_repository_is_the_one_that_is_served() -> None:
    """A repository of the catalogue brings its own quantisation; an engine that cannot read it is told so."""
    awq = plan("Qwen/Qwen3-8B-AWQ", engine="vllm")
    assert (awq.model.repository, awq.quant) == ("Qwen/Qwen3-8B-AWQ", "awq")
    assert plan("hf.co/qwen/qwen3-8b-awq", engine="vllm", quant="AWQ") == awq
    assert plan("bartowski/Meta-Llama-3-8B-Instruct-GGUF").model.repository.endswith("-GGUF")
    for engine, repository, better in (
        ("llamacpp", "Qwen/Qwen3-8B-AWQ", "vllm"),
        ("vllm", "bartowski/Meta-Llama-3-8B-Instruct-GGUF", "llamacpp"),
        ("vllm", "Systran/faster-whisper-large-v3", "llamacpp"),
        ("ollama", "Systran/faster-whisper-large-v3", "llamacpp"),
    ):
        with pytest.raises(UsageError, match=f"which {engine} does not read") as caught:
            plan(repository, engine=engine)
        assert f"use --engine {better}, or --model " in caught.value.hint
    with pytest.raises(UsageError, match="holds awq weights, not 'fp8'"):
        plan("Qwen/Qwen3-8B-AWQ", engine="vllm", quant="fp8")


def test_ollama_fetches_the_repository_that_is_named() -> None:
    """A repository of GGUF files is looked up for Ollama, not exchanged for the model of its library."""
    seen: list[Reference] = []

    def lookup(reference: Reference, _: EngineName) -> Model:
        seen.append(reference)
        return dataclasses.replace(
            Catalog.load().find("llama3"),
            alias=reference.name,
            sources=Sources(ollama=f"hf.co/{reference.name}"),
        )

    request = DeployRequest(model="hf.co/bartowski/Meta-Llama-3-8B-Instruct-GGUF", engine="ollama")
    made = make_plan(request, lookup=lookup)
    assert made.model.repository == "hf.co/bartowski/Meta-Llama-3-8B-Instruct-GGUF:Q4_K_M"
    assert [one.where for one in seen] == ["hub"]


def test_flags_describe_a_model_nobody_knows() -> None:
    """With figures by flag a model needs no network; a missing figure is named."""
    known = {"parameters": 8_000_000_000, "layers": 32, "kv_heads": 8, "head_size": 128, "hidden": 4096}
    made = plan("hf.co/some/new-model-GGUF:Q8_0", context=8192, **known)
    assert made.quant == "Q8_0"
    assert made.memory_gib == pytest.approx(7.9 + 4 + 0.5 + 0.5, abs=0.5)
    with pytest.raises(UsageError) as caught:
        plan("hf.co/some/new-model-GGUF", context=8192, parameters=8_000_000_000)
    assert "--layers" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        plan("hf.co/some/new-model-GGUF", **known)
    assert caught.value.hint == "give --context as well"


def test_figures_of_a_known_model_are_not_overlooked() -> None:
    """Figures by flag for a model of the catalogue are an error: they would have no effect."""
    with pytest.raises(UsageError, match="the figures of llama3 are known") as caught:
        plan("llama3", layers=40, vocab=1000)
    assert caught.value.hint == "leave --layers, --vocab out"


def test_unknown_names_ask_and_suggest() -> None:
    """A name outside the catalogue without figures is an error that says what to give."""
    with pytest.raises(UnknownModel) as caught:
        plan("lama3")
    assert "llama3" in caught.value.hint
    with pytest.raises(UnknownModel) as caught:
        plan("some/repo", engine="vllm")
    assert "--parameters" in caught.value.hint


def test_a_files_name_is_what_it_is_served_as() -> None:
    """A local GGUF is served under its stem, and planning for elsewhere says that the file has to travel."""
    figures = {"parameters": 8_000_000_000, "layers": 32, "kv_heads": 8, "head_size": 128, "hidden": 4096}
    made = plan("./models/Some-7B-Q4_K_M.gguf", context=8192, **figures)
    env = dict(made.env)
    assert (env["AKASHLLM_MODEL"], env["AKASHLLM_MODEL_NAME"]) == (
        "./models/Some-7B-Q4_K_M.gguf",
        "Some-7B-Q4_K_M",
    )
    assert made.name == "some-7b-q4-k-m"
    assert any("built into the image" in warning for warning in made.warnings)


_CODE = """
from akashllm.planning import make_plan
from akashllm.plan import DeployRequest
for model in ("tiny", "llama3", "llama3:70b", "gpt-oss:120b"):
    gpu = () if model == "tiny" else ("h100", "a100", "rtx8000")
    print(make_plan(DeployRequest(model=model, gpu=gpu)).digest())
"""


def test_the_same_request_is_the_same_plan_everywhere() -> None:
    """Another process, hash seed, locale and time zone give byte-identical plans."""
    outputs = set()
    for seed, zone in (("0", "UTC"), ("4242", "Asia/Tokyo")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        done = subprocess.run(
            [sys.executable, "-c", _CODE], env=env, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(next(iter(outputs)).split()) == 4
