"""Models that were created are served as their Modelfile says, by the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from akashllm.models import TINY
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from akashllm.server.settings import Settings
from tests.ollama.conftest import serving

pytestmark = pytest.mark.engine

CHATML = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
CHATML_TOOLS = """\
{{- if .Tools }}<|im_start|>system
Tools:
{{ range .Tools }}{{ . }}
{{ end }}To call one, reply with <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>.<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": \
{{ .Function.Arguments }}}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
FIM = "{{ if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>{{ end }}"
JAPAN = "What is the capital of Japan?"
COLD = {"temperature": 0}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with the bundled model and a store."""
    root: Path = tmp_path_factory.mktemp("served") / "models"
    settings = Settings(models=str(root), manage_unauthenticated=True, log_level="error", concurrency=2)
    with serving(LlamaCppEngine(TINY, name="tiny:latest", slots=2), settings) as url:
        yield url


@pytest.fixture
def client(real: str) -> Iterator[ollama.Client]:
    """The official client."""
    found = ollama.Client(host=real, timeout=120)
    yield found
    found._client.close()


def say(client: ollama.Client, model: str, text: str, **more: Any) -> str:
    """The answer to one question."""
    answer = client.chat(model, [{"role": "user", "content": text}], options=COLD, **more)
    return answer.message.content or ""


def test_a_template_is_what_the_model_sees(client: ollama.Client) -> None:
    """The same turns written in Go's syntax give the same answer, token for token; others do not."""
    client.create("go", from_="tiny", template=CHATML)
    client.create(
        "batman",
        from_="tiny",
        template=CHATML.replace("{{- range", "<|im_start|>system\nYou are Batman.<|im_end|>\n{{- range"),
    )

    own = client.chat("tiny", [{"role": "user", "content": JAPAN}], options=COLD)
    found = client.chat("go", [{"role": "user", "content": JAPAN}], options=COLD)

    assert "Tokyo" in (found.message.content or "")
    assert (found.message.content, found.prompt_eval_count) == (own.message.content, own.prompt_eval_count)
    assert "Batman" in say(client, "batman", "Who are you?")
    assert "Batman" not in say(client, "go", "Who are you?")


def test_what_the_modelfile_says_holds(client: ollama.Client, real: str) -> None:
    """SYSTEM, MESSAGE and PARAMETER stop of the user's older form, until a request says otherwise."""
    modelfile = (
        f'FROM tiny\nTEMPLATE """{CHATML}"""\nSYSTEM You are Batman.\n'
        "PARAMETER temperature 0\nPARAMETER stop kyo\n"
    )
    httpx.post(
        f"{real}/api/create", json={"name": "old", "modelfile": modelfile, "stream": False}
    ).raise_for_status()
    client.create(
        "alice",
        from_="tiny",
        template=CHATML,
        messages=[
            {"role": "user", "content": "My name is Alice."},
            {"role": "assistant", "content": "Nice to meet you, Alice."},
        ],
    )

    assert "Batman" in say(client, "old", "Who are you?")
    assert (client.generate("old", JAPAN, system="You are helpful.").response or "").endswith("To")
    assert "Alice" in say(client, "alice", "What is my name?")


def test_capabilities_are_those_of_the_template(client: ollama.Client) -> None:
    """`show` says what the TEMPLATE can do; tools are refused where it has none, and served where it has."""
    client.create("plain", from_="tiny", template=CHATML)
    client.create("able", from_="tiny", template=CHATML_TOOLS)
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]

    assert "tools" in (client.show("tiny").capabilities or [])
    assert "tools" not in (client.show("plain").capabilities or [])
    assert "tools" in (client.show("able").capabilities or [])
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        client.chat("plain", asked, tools=[tool])
    calls = client.chat("able", asked, tools=[tool], options=COLD).message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", {"city": "Paris"})
    ]


def test_a_request_may_bring_its_own_template(client: ollama.Client, real: str) -> None:
    """`template` of /api/generate is Go's, for that request alone; `suffix` goes where it says."""
    own = client.generate("tiny", JAPAN, options=COLD)
    same = client.generate("tiny", JAPAN, template=CHATML, options=COLD)
    assert (same.response, same.prompt_eval_count) == (own.response, own.prompt_eval_count)
    bare = client.generate(
        "tiny", "ignored", template=CHATML.replace("{{ .Content }}", "Count to 5."), options=COLD
    )
    assert "1, 2, 3, 4, 5" in (bare.response or "")

    middle = client.generate(
        "tiny",
        "def add(a, b):\n    return ",
        suffix="\n\nprint(add(2, 3))\n",
        template=FIM,
        options={**COLD, "num_predict": 8},
    )
    assert (middle.response or "").startswith("a + b")

    refused = httpx.post(
        f"{real}/api/generate",
        json={"model": "tiny", "prompt": "x", "template": "\n{{ .Prompt", "stream": False},
    )
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "template error: template: :2: unclosed action",
    )


def test_a_template_that_cannot_be_run_fails_alone(client: ollama.Client) -> None:
    """A fault that shows only on real messages is said of the model, and the service goes on."""
    client.create("faulty", from_="tiny", template="{{ range .Messages }}{{ .Nope }}{{ end }}")

    with pytest.raises(ollama.ResponseError, match=r"the model's template failed: .*can't evaluate field Nope"):
        say(client, "faulty", "x")
    assert "Tokyo" in say(client, "tiny", JAPAN)
