"""The routes on a real socket: mounts, errors, streams, and the endpoint document's own curl lines."""

from __future__ import annotations

import base64
import json
import re
import shlex
import struct
import subprocess
from typing import Any

import httpx
import pytest

from akashllm.server.domain import InfillPrompt, TextPrompt, TokenPrompt
from tests.openai.conftest import ALIASES, KEY, NASTY, Service

HELLO = [{"role": "user", "content": "capital"}]


def post(http: httpx.Client, path: str, **body: Any) -> Any:
    """The decoded answer to a request that works."""
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(response: httpx.Response) -> list[Any]:
    """The data of every server-sent event before the end mark, which must be there."""
    assert response.headers["content-type"].startswith("text/event-stream")
    datas = re.findall(r"^data: (.*)$", response.content.decode(), re.MULTILINE)
    assert datas.pop() == "[DONE]"
    return [json.loads(data) for data in datas]


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
class TestMounts:
    """Both places where the dialect is spoken."""

    def test_chat(self, http: httpx.Client, base: str) -> None:
        """A chat is answered."""
        found = post(http, f"{base}/chat/completions", model="tiny", messages=HELLO)
        assert found["choices"][0]["message"]["content"] == "The capital of Japan is Tokyo."

    def test_completions(self, http: httpx.Client, base: str) -> None:
        """A prompt is continued."""
        assert post(http, f"{base}/completions", prompt="capital")["choices"][0]["text"].endswith("Tokyo.")

    def test_embeddings(self, http: httpx.Client, base: str) -> None:
        """A text is embedded."""
        assert len(post(http, f"{base}/embeddings", input="x")["data"][0]["embedding"]) == 8

    def test_slash_at_the_end(self, http: httpx.Client, base: str) -> None:
        """A path with a slash too many is the path without it."""
        assert http.get(f"{base}/models/").json() == http.get(f"{base}/models").json()
        assert http.get(f"{base}/models/tiny/").json()["id"] == "tiny"
        assert post(http, f"{base}/embeddings/", input="x")["object"] == "list"
        assert http.get(f"{base}/models//").json()["error"]["code"] == "model_not_found"

    def test_models(self, http: httpx.Client, base: str) -> None:
        """The list has each name, and each name of the list can be retrieved and asked."""
        found = http.get(f"{base}/models").json()
        identifiers = [each["id"] for each in found["data"]]
        assert identifiers == ["tiny", *ALIASES]
        for identifier in [*identifiers, "tiny:latest", "TINY", "library/tiny"]:
            model = http.get(f"{base}/models/{identifier}").json()
            assert (model["id"], model["object"]) == (identifier, "model")
            assert model["created"] > 1_600_000_000
            assert (
                post(http, f"{base}/chat/completions", model=identifier, messages=HELLO)["model"] == identifier
            )

    def test_errors_have_the_shape(self, http: httpx.Client, base: str) -> None:
        """Errors of both mounts are OpenAI's."""
        response = http.post(f"{base}/chat/completions", json={"model": "absent", "messages": HELLO})
        assert response.status_code == 404
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error",
            "model",
            "model_not_found",
        )


class TestBodies:
    """What a body may be."""

    def test_without_content_type(self, http: httpx.Client) -> None:
        """A JSON body is read whatever its Content-Type says: `curl -d` sends a form's."""
        for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
            response = http.post(
                "/v1/chat/completions", content=json.dumps({"messages": HELLO}), headers=headers
            )
            assert response.status_code == 200

    def test_without_model(self, http: httpx.Client) -> None:
        """A request without a model, or with an empty one, means the one that is served."""
        for body in ({}, {"model": ""}, {"model": None}):
            assert post(http, "/v1/completions", prompt="x", **body)["model"] == "tiny"

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "null", '"x"', "{} {}", '{"messages":[{"role":"user"}]']
    )
    def test_no_object(self, http: httpx.Client, content: str) -> None:
        """What is no JSON object is a 400 in OpenAI's shape."""
        response = http.post("/v1/chat/completions", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "name",
        [
            "n_discard",
            "id_slot",
            "samplers",
            "chat_template",
            "mm_processor_kwargs",
            "lora",
            "priority",
            "extra_body",
        ],
    )
    def test_unknown_parameters_stop_here(self, http: httpx.Client, service: Service, name: str) -> None:
        """An unknown parameter is ignored: nothing of it reaches the engine."""
        post(http, "/v1/chat/completions", messages=HELLO, **{name: {"secret": "canary-value"}})
        assert "canary-value" not in repr(service.last())


class TestErrors:
    """Statuses and codes."""

    @pytest.mark.parametrize(
        ("text", "status", "code"),
        [("busy", 503, "server_busy"), ("dies at once", 500, "engine_died")],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_before_the_first_byte(
        self, http: httpx.Client, text: str, status: int, code: str, *, stream: bool
    ) -> None:
        """An error before the first byte is a real status, for streams too."""
        messages = [{"role": "user", "content": text}]
        response = http.post("/v1/chat/completions", json={"messages": messages, "stream": stream})
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["type"] == "server_error"
        assert (response.headers.get("retry-after") is not None) == (status == 503)

    @pytest.mark.parametrize(("text", "code"), [("dies later", "engine_died"), ("fails later", "bad_schema")])
    def test_in_the_middle(self, http: httpx.Client, text: str, code: str) -> None:
        """A stream that breaks carries one error object and ends properly."""
        messages = [{"role": "user", "content": text}]
        found = events(http.post("/v1/chat/completions", json={"messages": messages, "stream": True}))
        assert found[-1]["error"]["code"] == code
        assert all("error" not in each for each in found[:-1])

    def test_in_the_middle_of_an_answer(self, http: httpx.Client) -> None:
        """A whole answer that breaks is a status: nothing had been sent."""
        response = http.post("/v1/completions", json={"prompt": "dies later"})
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "engine_died"

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("chat/completions", {"messages": [{"role": "user", "content": " word" * 3000}]}, "messages"),
            ("completions", {"prompt": " word" * 3000}, "prompt"),
            ("completions", {"prompt": ["short", " word" * 3000]}, "prompt"),
        ],
    )
    def test_too_long(self, http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
        """A prompt beyond the context is a 400 with both numbers and the parameter of this dialect."""
        response = http.post(f"/v1/{path}", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert "maximum context length is 2048 tokens" in error["message"]
        assert "3000" in error["message"]

    @pytest.mark.parametrize(
        "name",
        ["absent", "tiny:7b", "ft:gpt-4o:acme:x:y", "@cf/meta/llama", "..%2f..%2fetc%2fpasswd", "x" * 500],
    )
    def test_unknown_model(self, http: httpx.Client, name: str) -> None:
        """A name that is not served, or is no name here at all, is not found."""
        response = http.get(f"/v1/models/{name}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"

    def test_limits(self, http: httpx.Client) -> None:
        """The service's own limits answer in this dialect and name the parameter."""
        response = http.post("/v1/chat/completions", json={"messages": HELLO, "n": 100})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "n"

    def test_delete_is_refused(self, http: httpx.Client) -> None:
        """Deleting a model is the operator's."""
        response = http.delete("/v1/models/tiny")
        assert response.status_code == 403
        assert response.json()["error"]["type"] == "invalid_request_error"

    def test_no_key(self, service: Service) -> None:
        """Without the key the answer is OpenAI's 401."""
        for headers in ({}, {"authorization": "Bearer wrong"}):
            response = httpx.get(f"{service.url}/models", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"


class TestAnswers:
    """Answers that need more than one event."""

    def test_text_is_the_same_streamed_or_not(self, http: httpx.Client) -> None:
        """Text that looks like framing arrives unchanged, whole and in pieces, also for `str.splitlines`."""
        body = {"messages": [{"role": "user", "content": "nasty"}]}
        assert post(http, "/v1/chat/completions", **body)["choices"][0]["message"]["content"] == NASTY
        response = http.post("/v1/chat/completions", json={**body, "stream": True})
        lines = [line for line in response.content.decode().splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == NASTY

    def test_prompts_times_choices(self, http: httpx.Client) -> None:
        """Two prompts of two choices are four choices in order, whole and streamed."""
        body = {"prompt": ["one", "two"], "n": 2}
        found = post(http, "/v1/completions", **body)["choices"]
        expected = {0: "echo: one", 1: "echo: one", 2: "echo: two", 3: "echo: two"}
        assert {each["index"]: each["text"] for each in found} == expected
        texts = dict.fromkeys(range(4), "")
        for chunk in events(http.post("/v1/completions", json={**body, "stream": True})):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert texts == expected

    def test_usage_of_many_prompts(self, http: httpx.Client) -> None:
        """Usage adds up over the prompts, and is the same streamed."""
        body = {"prompt": ["one", "two words"], "n": 2}
        usage = post(http, "/v1/completions", **body)["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 10)
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        chunks = events(http.post("/v1/completions", json=streamed))
        assert chunks[-1]["usage"] == usage
        assert all(chunk["usage"] is None for chunk in chunks[:-1])

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("prompt", ["hi", [104, 105], ["hi"], [[104, 105]]])
    def test_echo(self, http: httpx.Client, prompt: Any, *, stream: bool) -> None:
        """The text starts with the prompt; token ids are turned into text for it."""
        body = {"prompt": prompt, "echo": True, "stream": stream}
        response = http.post("/v1/completions", json=body)
        if stream:
            text = "".join(chunk["choices"][0]["text"] for chunk in events(response))
        else:
            text = response.json()["choices"][0]["text"]
        assert text == "hiecho: hi"

    def test_prompt_forms(self, http: httpx.Client, service: Service) -> None:
        """Raw prompts reach the engine as they are: no chat template."""
        post(http, "/v1/completions", prompt="<|im_start|>user\nhi")
        assert service.last().prompt == TextPrompt(text="<|im_start|>user\nhi")
        post(http, "/v1/completions", prompt=[104, 105])
        assert service.last().prompt == TokenPrompt(tokens=(104, 105))
        post(http, "/v1/completions", prompt="a", suffix="b")
        assert service.last().prompt == InfillPrompt(prefix="a", suffix="b")

    def test_best_of(self, http: httpx.Client, service: Service) -> None:
        """The engine makes `best_of` choices, and one is returned."""
        found = post(http, "/v1/completions", prompt="hi", best_of=3)
        assert len(found["choices"]) == 1
        assert (service.last().n, service.last().score) == (3, True)
        assert found["usage"]["completion_tokens"] == 6

    def test_base64(self, http: httpx.Client) -> None:
        """Base64 vectors hold the same numbers as 32-bit floats."""
        numbers = post(http, "/v1/embeddings", input=["a", "b"])["data"][1]["embedding"]
        text = post(http, "/v1/embeddings", input=["a", "b"], encoding_format="base64")["data"][1]["embedding"]
        assert struct.unpack("<8f", base64.b64decode(text)) == pytest.approx(numbers)

    def test_default_length_reaches_the_engine(self, http: httpx.Client, service: Service) -> None:
        """Completions stop at 16 tokens unless told; chats go on until the context is full."""
        post(http, "/v1/completions", prompt="x")
        assert service.last().max_tokens == 16
        post(http, "/v1/chat/completions", messages=HELLO)
        assert service.last().max_tokens is None


_OCEAN = "Which ocean contains the falkland islands?"
_CHATML = f"<|im_start|>user\\n{_OCEAN}\\n<|im_end|>\\n<|im_start|>assistant\\n"
SEED_CURLS = [
    f"""curl -s -X POST localhost:8080/v1/completions -H "Content-Type: application/json" -d '{{
  "prompt": "{_CHATML}"
}}'""",
    f"""curl -s -X POST localhost:8080/v1/chat/completions \\
-H "Content-Type: application/json" \\
-d '{{"model": "whatever", "messages": [{{ "role": "user","content": "{_OCEAN}"}}]}}'""",
    f"""curl -s -X POST localhost:11434/v1/completions -H "Content-Type: application/json" -d '{{
  "model": "qwen2:0.5b",
  "prompt": "{_CHATML}"
}}'""",
    f"""curl -s -X POST localhost:11434/v1/completions -H "Content-Type: application/json" -d '{{
  "model": "qwen2:0.5b",
  "prompt": "{_OCEAN}"
}}'""",
    """curl http://localhost:3000/openai/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
      "model": "phi3-mini-4k",
      "messages": [
          {
              "role": "system",
              "content": "You are the Batman."
          },
          {
              "role": "user",
              "content": "im robin, lets count to 10!"
          }
      ]
  }'""",
]
"""The curl lines of the endpoint documents, as they are written there. Only the address is replaced."""


@pytest.mark.parametrize("line", SEED_CURLS)
def test_curl_lines_of_the_documents(service: Service, line: str) -> None:
    """Each curl line of the endpoint documents is answered, as it is written there."""
    address = service.root.removeprefix("http://")
    command = re.sub(r"localhost:\d+", address, line.replace("\\\n", " "))
    done = subprocess.run(
        [*shlex.split(command), "-s", "-H", f"Authorization: Bearer {KEY}"],
        capture_output=True,
        check=True,
        timeout=20,
    )
    choice = json.loads(done.stdout)["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert text.startswith("echo: ")
