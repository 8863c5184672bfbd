"""Every entry of the catalogue is complete, consistent, and says where its figures come from."""

from __future__ import annotations

import re

import pytest

from akashllm.catalog import Catalog, Model
from akashllm.gguf import read_header
from akashllm.models import TINY
from akashllm.planning.quantisation import quant_for
from akashllm.planning.wanted import engines_of, source_for
from akashllm.sizing import SAFETENSORS

MODELS = Catalog.load().models
each = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.alias)


def test_the_families_of_today_are_there() -> None:
    """At least 40 models, in the families people deploy, with an embedding, a vision and a speech model."""
    assert len(MODELS) >= 40
    assert {model.family for model in MODELS} >= {
        "llama",
        "qwen",
        "mistral",
        "gemma",
        "phi",
        "deepseek",
        "gpt-oss",
    }
    assert {model.task for model in MODELS} == {"chat", "embedding", "transcription"}
    assert any("image" in model.modality for model in MODELS)
    assert any("audio" in model.modality for model in MODELS)


@each
def test_parameters_follow_from_the_shape(model: Model) -> None:
    """The published count is within 3 % of what the layers, heads and experts add up to."""
    assert model.shape.parameters() == pytest.approx(model.parameters, rel=0.03)


@each
def test_an_entry_is_complete(model: Model) -> None:
    """Nothing that sizing or serving asks for is missing, and at least one engine can run it."""
    shape = model.shape
    assert min(model.context, shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.vocab) > 0
    assert shape.heads % shape.kv_heads == 0
    assert model.title
    assert model.licence
    assert model.modality
    assert engines_of(model)
    assert model.task != "chat" or model.chat_format
    assert bool(shape.experts) == bool(shape.experts_used) == bool(shape.expert_ffn)
    assert shape.experts_used <= shape.experts
    assert bool(shape.window) == bool(shape.full_layers)
    assert shape.full_layers < shape.layers
    assert bool(shape.extra) == bool(shape.extra_note)


@each
def test_every_figure_names_its_source(model: Model) -> None:
    """Shape and parameters say where they were read, and the day is written."""
    facts = dict(model.facts)
    assert facts["shape"]
    assert facts["parameters"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", model.read)


@each
def test_a_revision_is_a_full_commit_or_absent(model: Model) -> None:
    """No branch, tag or short hash stands where a commit belongs."""
    for revision in (model.sources.hf_revision, model.sources.gguf_revision):
        assert re.fullmatch(r"(?:[0-9a-f]{40})?", revision)


@each
def test_sources_are_well_formed(model: Model) -> None:
    """Repositories are org/repo, GGUF file names end in .gguf, other quantisations are ones vLLM knows."""
    source = model.sources
    for repository in (source.hf, source.gguf, *dict(source.quantised).values()):
        assert re.fullmatch(r"(?:[\w.-]+/[\w.-]+)?", repository)
    assert not source.gguf_file or source.gguf_file.endswith(".gguf")
    assert not source.gguf_file or source.gguf
    assert set(dict(source.quantised)) <= set(SAFETENSORS)


@each
def test_each_engine_knows_what_to_load(model: Model) -> None:
    """For every engine of an entry there is a usual quantisation and a source in it."""
    for engine in engines_of(model):
        quant = quant_for(model, engine, None)
        source = source_for(model, None, engine, quant.name)
        assert source.kind == "bundled" or source.repository
        assert "{" not in source.file


def test_tiny_is_the_bundled_file() -> None:
    """The entry of the bundled model says what the header of its file says."""
    tiny, header = Catalog.load().find("tiny"), read_header(TINY)
    assert tiny.parameters == header.parameters
    assert tiny.context == header.integer("llama.context_length")
    assert tiny.shape.layers == header.integer("llama.block_count")
    assert tiny.shape.kv_heads == header.integer("llama.attention.head_count_kv")
    assert tiny.shape.ffn == header.integer("llama.feed_forward_length")
    assert tiny.shape.vocab == header.integer("llama.vocab_size")
