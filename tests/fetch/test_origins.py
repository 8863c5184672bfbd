"""What the settings name, and what that comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm.catalog import Catalog
from akashllm.digests import Sha256
from akashllm.errors import BadName, UsageError
from akashllm.plan import DeployRequest
from akashllm.planning import make_plan
from akashllm.server.fetching import data_folder, weights_for
from akashllm.server.models.origin import Origin, parse_origin
from akashllm.server.models.pulled import PulledWeights
from akashllm.server.models.weights import HubWeights, UrlWeights
from akashllm.server.settings import BadSettings, Settings
from akashllm.testing.files import running_files
from tests.store.conftest import HOST, Shelf

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("tiny", Origin("local", "tiny")),
        ("/m/x.gguf", Origin("local", "/m/x.gguf")),
        ("x.gguf", Origin("local", "x.gguf")),
        ("./folder", Origin("local", "./folder")),
        ("a folder", Origin("local", "a folder")),
        ("llama3.2:1b", Origin("library", "llama3.2:1b")),
        ("hf.co/o/m", Origin("hub", "o/m")),
        ("hf://o/m", Origin("hub", "o/m")),
        ("https://huggingface.co/o/m", Origin("hub", "o/m")),
        ("hf.co/o/m:Q8_0", Origin("hub", "o/m", quant="Q8_0")),
        ("hf.co/o/m@main:Q8_0", Origin("hub", "o/m", revision="main", quant="Q8_0")),
        ("huggingface.co/o/m@0f/a/b.gguf", Origin("hub", "o/m", revision="0f", file="a/b.gguf")),
        ("https://hf.co/o/m/resolve/v1/a/b.gguf", Origin("hub", "o/m", revision="v1", file="a/b.gguf")),
        ("https://h/m.gguf", Origin("url", "https://h/m.gguf")),
        ("http://h:1/m.gguf?a=b", Origin("url", "http://h:1/m.gguf?a=b")),
        (f"https://h/m#sha256={HEX}", Origin("url", "https://h/m", digest=Sha256(HEX))),
    ],
)
def test_what_a_string_names(text: str, origin: Origin) -> None:
    """Each form that a person or a plan writes is read as what it is."""
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\nb",
        "hf.co/o",
        "hf.co/o/m/../x.gguf",
        "hf.co/o/m/.hidden.gguf",
        "hf.co/o/..",
        "hf.co/o/m@../..",
        "hf.co/o/m:Q8/0",
        "hf.co/o/m?x",
        "ftp://h/m.gguf",
        "https://",
        "https://h/",
        "https://[h/m.gguf",
        "https://h/m#md5=1",
        "https://h/m#sha256=12",
        "x" * 2000,
    ],
)
def test_what_names_nothing(text: str) -> None:
    """Paths that lead out, other schemes and half an address are refused in a sentence."""
    with pytest.raises(BadName):
        parse_origin(text)


def test_every_plan_of_the_catalogue_is_understood() -> None:
    """Whatever planning writes as AKASHLLM_MODEL for llama.cpp and vLLM, the service reads as the same."""
    catalog = Catalog.load()
    kinds = set()
    for model in catalog.models:
        for engine in ("llamacpp", "vllm"):
            try:
                plan = make_plan(DeployRequest(model=model.alias, engine=engine), catalog=catalog)
            except UsageError:
                continue
            origin = parse_origin(dict(plan.env)["AKASHLLM_MODEL"])
            kinds.add((engine, origin.kind))
            source = plan.model
            if dict(plan.env)["AKASHLLM_ENGINE"] == "whisper":
                assert source.kind == "ct2"
            else:
                hub = "gguf" if engine == "llamacpp" else "hf"
                assert source.kind == {"local": "bundled", "hub": hub}[origin.kind]
            if origin.kind == "hub":
                assert (origin.name, origin.revision, origin.file) == (
                    source.repository,
                    source.revision,
                    source.file,
                )

    assert kinds == {("llamacpp", "local"), ("llamacpp", "hub"), ("vllm", "hub")}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"model": "hf.co/o/m"}, HubWeights),
        ({"model": "https://h/m.gguf"}, UrlWeights),
        ({"model": "llama3"}, PulledWeights),
        ({"model": "tiny"}, type(None)),
        ({"model": "/m.gguf"}, type(None)),
        ({"model": "hf.co/o/m", "weights": "/m.gguf"}, type(None)),
    ],
)
def test_what_the_settings_fetch(values: dict[str, str], kind: type, tmp_path: Path) -> None:
    """Only what is elsewhere is fetched; a path of weights beside the name wins."""
    assert type(weights_for(Settings(data=str(tmp_path), **values))) is kind  # type: ignore[arg-type]  # all text


@pytest.mark.parametrize("model", ["hf.co/o/m", "o/m", "hf.co/o/m@v1"])
def test_a_repository_for_vllm(model: str, tmp_path: Path) -> None:
    """For vLLM `org/repo` is a repository too."""
    found = weights_for(Settings(data=str(tmp_path), model=model), choice="folder")

    assert isinstance(found, HubWeights)
    assert found.shown == "hf.co/o/m"


@pytest.mark.parametrize("model", ["tiny", "/models/x", "llama3"])
def test_a_folder_for_vllm_is_here(model: str) -> None:
    """Anything else is a folder of this machine, and the engine says if it is none."""
    assert weights_for(Settings(model=model), choice="folder") is None


@pytest.mark.parametrize("model", ["hf.co/o/m:Q8_0", "hf.co/o/m/x.gguf", "https://h/x.gguf"])
def test_a_file_is_not_for_vllm(model: str) -> None:
    """A GGUF file is another engine's."""
    with pytest.raises(UsageError, match="reads a whole repository"):
        weights_for(Settings(model=model), choice="folder")


def test_a_folder_of_that_name_is_not_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file here comes before a name of a library."""
    (tmp_path / "mine").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)

    assert weights_for(Settings(model="mine")) is None


def test_nonsense_is_an_error_of_the_settings() -> None:
    """What can be nothing is refused before the port opens."""
    with pytest.raises(UsageError, match="AKASHLLM_MODEL"):
        weights_for(Settings(model="hf.co/nothing"))


def test_where_weights_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The volume, or the user's cache folder."""
    assert data_folder(Settings(data="/data")) == Path("/data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder(Settings()) == tmp_path / "akashllm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder(Settings()) == tmp_path / ".cache" / "akashllm"


def test_the_token_is_a_secret_of_the_settings(tmp_path: Path) -> None:
    """HF_TOKEN is read from the variable or a file, shown nowhere, and an unfilled placeholder is refused."""
    (tmp_path / "token").write_text("hf_from-a-file\n")
    found = Settings.from_env({"HF_TOKEN_FILE": str(tmp_path / "token"), "HF_ENDPOINT": "http://127.0.0.1:9/"})

    assert (found.hf_token, found.hf_endpoint) == ("hf_from-a-file", "http://127.0.0.1:9")
    assert "hf_from-a-file" not in repr(found)
    for bad in ("${HF_TOKEN}", "two words"):
        with pytest.raises(BadSettings, match="HF_TOKEN") as caught:
            Settings.from_env({"HF_TOKEN": bad})
        assert "two words" not in str(caught.value)


async def test_a_name_of_the_library_is_pulled(tmp_path: Path) -> None:
    """A name of Ollama's library comes through the registry into the store, once."""
    weights = b"GGUF" + b"x" * 50_000
    with running_files() as server:
        Shelf(server).offer(model=weights)
        settings = Settings(
            model="m",
            data=str(tmp_path),
            registry_mirrors=((HOST, server.url),),
            models=str(tmp_path / "store"),
        )
        found = weights_for(settings)
        assert found is not None
        assert found.here() is None
        told: list[tuple[str, int, int | None]] = []

        path = await found.fetch(lambda *word: told.append(word))

        assert path.read_bytes() == weights
        assert path.is_relative_to(tmp_path / "store" / "blobs")
        assert told[-1][0] == "m:latest"
        again = weights_for(settings)
    assert again is not None
    assert again.here() == path
