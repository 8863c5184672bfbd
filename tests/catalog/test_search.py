"""Finding a model by what people type."""

from __future__ import annotations

import pytest

from akashllm.catalog import Catalog, Model
from akashllm.catalog.reading import build
from akashllm.catalog.reference import Reference, parse_reference
from akashllm.errors import UnknownModel, UsageError
from akashllm.plan import EngineName

CATALOG = Catalog.load()


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("llama3", "llama3"),
        ("Llama3:latest", "llama3"),
        ("llama3:8b", "llama3"),
        ("llama3:70b", "llama3:70b"),
        ("phi3", "phi3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        ("hf.co/bartowski/phi-4-GGUF", "phi4"),
        ("Qwen/Qwen3-8B-AWQ", "qwen3"),
    ],
)
def test_a_model_has_many_names(name: str, alias: str) -> None:
    """Ollama's names, `:latest`, other case, and the repositories all lead to the entry."""
    assert CATALOG.find(name).alias == alias


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lama3", "llama3"), ("lamma3.1", "llama3.1"), ("qwen-2.5", "qwen2.5"), ("gptoss", "gpt-oss")],
)
def test_a_slip_gets_a_suggestion(typed: str, meant: str) -> None:
    """A misspelt name is an error that names the right one."""
    with pytest.raises(UnknownModel) as caught:
        CATALOG.find(typed)
    assert meant in caught.value.hint


def test_search_wants_every_word() -> None:
    """All words have to occur, anywhere in the entry, in any order."""
    found = {model.alias for model in CATALOG.search("embedding qwen")}
    assert found == {"qwen3-embedding:0.6b", "qwen3-embedding:4b", "qwen3-embedding:8b"}
    assert CATALOG.search("no such words at all") == ()
    assert len(CATALOG.search("")) == len(CATALOG)


@pytest.mark.parametrize(
    ("name", "engine", "reference"),
    [
        ("hf.co/org/repo:Q8_0", "llamacpp", Reference("hub", "org/repo", "Q8_0")),
        ("huggingface.co/org/repo", "ollama", Reference("hub", "org/repo")),
        ("hf.co/org/repo@v1:Q8_0", "llamacpp", Reference("hub", "org/repo", "Q8_0", "v1")),
        (
            "hf.co/org/repo@v1/a/b-Q8_0.gguf",
            "llamacpp",
            Reference("hub", "org/repo", revision="v1", file="a/b-Q8_0.gguf"),
        ),
        ("hf.co/org/repo/b.gguf", "llamacpp", Reference("hub", "org/repo", file="b.gguf")),
        ("org/repo", "vllm", Reference("hub", "org/repo")),
        ("org/repo", "ollama", Reference("ollama", "org/repo", "latest")),
        ("some:7b", "ollama", Reference("ollama", "some", "7b")),
        ("./models/x.gguf", "llamacpp", Reference("file", "./models/x.gguf")),
        ("some", "vllm", None),
    ],
)
def test_names_outside_the_catalogue(name: str, engine: EngineName, reference: Reference | None) -> None:
    """A name says where its model is: the hub, a file, Ollama's library."""
    assert parse_reference(name, engine) == reference


def test_a_misspelt_key_in_the_data_is_found() -> None:
    """An unknown key, a wrong type and a missing field each name the entry and the key."""
    with pytest.raises(UsageError, match=r"x: unknown key 'aliass'"):
        build(Model, {"aliass": "x"}, "x")
    with pytest.raises(UsageError, match=r"x\.context: int was expected"):
        build(Model, {"alias": "x", "context": "8k"}, "x")
    with pytest.raises(UsageError, match="missing"):
        build(Model, {"alias": "x"}, "x")
