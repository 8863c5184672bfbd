"""The configuration file: what it means, and every fault it can have."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies

from akashllm.cli.app import run as run_command
from akashllm.errors import UsageError
from akashllm.models import TINY
from akashllm.server.config import DEFAULTS, MAX_BYTES, BadConfig, Config, read_config
from akashllm.server.fleet import read_settings

DOCUMENT = """
# As in the document, but for the file.
concurrency: 2
models:
  phi3-mini-4k:
    task: text-completion
    engine: node-llama-cpp
    url: https://huggingface.co/microsoft/Phi-3-mini-4k-instruct-gguf/resolve/main/Phi-3-mini-4k-instruct-q4.gguf
    preload:
      messages:
        - role: system
          content: You are the Batman.
    contextSize: 1024 # Maximum context size.
    maxInstances: 2
    minInstances: 1
    ttl: 300
    completionDefaults:
      temperature: 1
listen:
  port: 3000
"""


def read(tmp_path: Path, text: str, name: str = "models.yaml") -> Config:
    """The configuration in a text."""
    path = tmp_path / name
    path.write_text(text)
    return read_config(path)


def faults(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with a text."""
    with pytest.raises(BadConfig) as caught:
        read(tmp_path, text)
    return list(caught.value.faults)


def test_the_documents_example_is_read(tmp_path: Path) -> None:
    """Every key of the document's example has its meaning."""
    config = read(tmp_path, DOCUMENT)
    (model,) = config.models
    assert (config.concurrency, config.port, config.host) == (2, 3000, None)
    assert (model.name, model.task) == ("phi3-mini-4k:latest", "text-completion")
    assert (model.context, model.slots, model.pinned, model.ttl) == (1024, 2, True, 300.0)
    assert model.parameters == {"temperature": 1}
    assert [(one.role, one.content) for one in model.preload] == [("system", "You are the Batman.")]
    assert model.url.endswith("/Phi-3-mini-4k-instruct-q4.gguf")
    assert config.environment == {"AKASHLLM_PORT": "3000"}


def test_json_and_underscores_say_the_same(tmp_path: Path) -> None:
    """JSON, and keys with underscores, are read as YAML with the document's spelling is."""
    yaml = read(tmp_path, DOCUMENT)
    plain = {
        "concurrency": 2,
        "models": {
            "phi3-mini-4k": {
                "task": "text-completion",
                "engine": "node-llama-cpp",
                "url": yaml.models[0].url,
                "preload": {"messages": [{"role": "system", "content": "You are the Batman."}]},
                "context_size": 1024,
                "max_instances": 2,
                "min_instances": 1,
                "ttl": "5m",
                "completion_defaults": {"temperature": 1},
            }
        },
        "listen": {"port": 3000},
    }
    assert read(tmp_path, json.dumps(plain, indent="\t"), "models.json") == yaml


def test_all_faults_are_listed_with_their_paths(tmp_path: Path) -> None:
    """One reading finds everything that is wrong, where it is, and what was probably meant."""
    found = faults(
        tmp_path,
        """
        concurrency: 0
        modles: {}
        models:
          a:
            file: nowhere.gguf
            contextSize: much
            contxtSize: 5
            maxInstances: 1
            minInstances: 2
            ttl: soon
            engine: transformers-js
            task: image-to-text
            completionDefaults: {temprature: 1, topP: 2, stop: [1]}
            preload: {messages: [{role: wizard, content: x}, {content: y}]}
            sha256: abc
          b: {url: "ftp://x/y.gguf"}
          c: {}
          A: {url: "https://x/y.gguf"}
          "no name": {url: "https://x/y.gguf"}
        listen: {port: 99999, hst: x}
        """,
    )
    for expected in (
        "concurrency: must be from 1 to 1024",
        "modles: is not a key this service knows; did you mean models?",
        "models.a.file: there is no such file",
        "models.a.contextSize: must be a whole number, not a text",
        "models.a.contxtSize: is not a key this service knows; did you mean contextSize?",
        "models.a.minInstances: is more than the most, which is 1",
        "models.a.ttl: must be seconds, or a duration",
        "models.a.engine: must be one of node-llama-cpp",
        "models.a.task: must be one of text-completion, embedding",
        "models.a.completionDefaults.temprature: is not a key this service knows; did you mean temperature?",
        "models.a.completionDefaults.topP: must be between 0 and 1",
        "models.a.completionDefaults.stop: must be of an array of strings",
        "models.a.preload.messages[0].role: must be one of system, user, assistant",
        "models.a.preload.messages[1].role: is required",
        "models.a.sha256: must be 64 hexadecimal digits",
        "models.b.url: must begin with https://",
        "models.c: needs a file or a url",
        "models.A: names the same model as models.a",
        "models.no name: invalid model name",
        "listen.port: must be from 0 to 65535",
        "listen.hst: is not a key this service knows; did you mean host?",
    ):
        assert [line for line in found if line.startswith(expected)], (expected, found)
    assert len(found) == 21


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "models: is required"),
        ("models: []", "models: is required"),
        ("- a\n- b", "must be a mapping, not a list"),
        ("models: {a: 5}", "models.a: must be a mapping, not a number"),
        ("models: {a: {file: 5}}", "models.a.file: must be a text, not a number"),
        ("models:\n  a: [", "line 2: it is neither YAML nor JSON"),
        ("a: 1\na: 2", "it is neither YAML nor JSON"),
        ('{"models": 1, "models": 2}', "is there twice"),
        ("models: !!python/object/apply:os.system [ls]", "it is neither YAML nor JSON"),
        ("{" * 400, "as JSON"),
        ("[" * 400, "it is"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    """Anything else is refused in words, and nothing in a file is carried out."""
    assert any(words in fault for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, bytes that are no text and a file without end are usage errors."""
    path = tmp_path / "c.yaml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_config(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UsageError, match="larger than"):
        read_config(path)
    with pytest.raises(UsageError, match="larger than"):
        read_config(Path("/dev/zero"))


def test_a_pipe_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """What can be read only once, such as `--config <(...)`, is a sentence, with and without a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a pipe"):
        read_config(tmp_path / "pipe")
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe:
        pipe.write("models: {}")
        pipe.flush()
        with pytest.raises(UsageError, match="is a pipe"):
            read_config(Path(f"/dev/fd/{reading}"))


@given(
    strategies.recursive(
        strategies.none() | strategies.booleans() | strategies.floats() | strategies.text(max_size=5),
        lambda inner: (
            strategies.lists(inner, max_size=3)
            | strategies.dictionaries(
                strategies.sampled_from(
                    [
                        "models",
                        "listen",
                        "ttl",
                        "preload",
                        "messages",
                        "completionDefaults",
                        "port",
                        "url",
                        "stop",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_tree_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    """Whatever stands where, the answer is a configuration or a list of faults."""
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"models": {"m": tree, "n": {"completionDefaults": tree}}, "listen": tree}))
    with pytest.raises(UsageError):
        read_config(path)


def test_the_environment_wins(tmp_path: Path) -> None:
    """Where to listen comes from the file unless the environment says; the first model is the deployed one."""
    path = tmp_path / "c.yaml"
    models = f"{{first: {{file: {TINY}}}, second: {{file: {TINY}, minInstances: 1}}}}"
    path.write_text(f"models: {models}\nlisten: {{port: 3000}}")
    settings = read_settings({"AKASHLLM_CONFIG": str(path)})
    assert (settings.port, settings.served_name) == (3000, "second:latest"), "the one that is always there"
    settings = read_settings(
        {"AKASHLLM_CONFIG": str(path), "AKASHLLM_PORT": "4000", "AKASHLLM_MODEL": str(TINY)}
    )
    assert (settings.port, settings.served_name) == (4000, "tiny-q8_0:latest")


def test_a_configuration_is_for_llama_cpp(tmp_path: Path) -> None:
    """An engine that is built around one model refuses a file with several."""
    path = tmp_path / "c.yaml"
    path.write_text(f"models: {{a: {{file: {TINY}}}}}")
    with pytest.raises(UsageError, match="engine llamacpp"):
        read_settings({"AKASHLLM_CONFIG": str(path), "AKASHLLM_ENGINE": "ollama"})


def test_serve_lists_the_faults_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`akashllm serve --config` with a bad file is a usage error that names every place."""
    path = tmp_path / "c.yaml"
    path.write_text("models: {a: {}, b: {fil: x}}")
    assert run_command(["serve", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "models.a: needs a file or a url" in said
    assert "models.b.fil: is not a key this service knows; did you mean file?" in said


def test_the_documentation_shows_this_example(tmp_path: Path) -> None:
    """The file in DOCS.md means what the document's example means, and names every default there is."""
    text = (Path(__file__).parents[2] / "DOCS.md").read_text()
    shown = text.partition("    concurrency: 2 ")[2].partition("\n\n")[0]
    assert read(tmp_path, "    concurrency: 2 " + shown) == read(tmp_path, DOCUMENT)
    spelled = {re.sub("_(.)", lambda found: found[1].upper(), name) for name in DEFAULTS}
    assert all(f"`{name}`" in text for name in spelled - {"numPredict", "repeatLastN"})
