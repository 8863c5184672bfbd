"""Ollama's requests, read as Ollama reads them: defaults, conversions, and the exact texts of refusals."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.errors import BadRequest, ServiceError, Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    InfillPrompt,
    Message,
    ModelInfo,
    Sampling,
    TextPrompt,
    Tool,
    ToolCall,
)
from akashllm.server.wire.ollama import prompts, requests
from akashllm.server.wire.ollama.options import DEFAULTS, OPTIONS, choose
from akashllm.server.wire.ollama.values import FOREVER, keep_alive

ABLE = ModelInfo(
    name="tiny:latest",
    vocab_size=100,
    capabilities=("completion", "tools", "insert", "vision", "thinking"),
)
PLAIN = msgspec.structs.replace(ABLE, capabilities=("completion",))
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()

TYPE_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    (
        "generate",
        {"model": 1},
        "cannot unmarshal number into Go struct field GenerateRequest.model of type string",
    ),
    (
        "generate",
        {"prompt": ["x"]},
        "cannot unmarshal array into Go struct field GenerateRequest.prompt of type string",
    ),
    (
        "generate",
        {"stream": "no"},
        "cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
    ),
    ("generate", {"raw": 1}, "cannot unmarshal number into Go struct field GenerateRequest.raw of type bool"),
    (
        "generate",
        {"context": [1.5]},
        "cannot unmarshal number 1.5 into Go struct field GenerateRequest.context of type int",
    ),
    (
        "generate",
        {"context": "x"},
        "cannot unmarshal string into Go struct field GenerateRequest.context of type []int",
    ),
    (
        "generate",
        {"options": [1]},
        "cannot unmarshal array into Go struct field GenerateRequest.options of type map[string]interface {}",
    ),
    (
        "generate",
        {"top_logprobs": 2**65},
        f"cannot unmarshal number {2**65} into Go struct field GenerateRequest.top_logprobs of type int",
    ),
    (
        "generate",
        {"images": [1]},
        "cannot unmarshal number into Go struct field GenerateRequest.images of type api.ImageData",
    ),
    ("chat", {"model": {}}, "cannot unmarshal object into Go struct field ChatRequest.model of type string"),
    (
        "chat",
        {"messages": {}},
        "cannot unmarshal object into Go struct field ChatRequest.messages of type []api.Message",
    ),
    (
        "chat",
        {"messages": [True]},
        "cannot unmarshal bool into Go struct field ChatRequest.messages of type api.Message",
    ),
    (
        "chat",
        {"messages": [{"role": "user", "content": 5}]},
        "cannot unmarshal number into Go struct field ChatRequest.messages.content of type string",
    ),
    (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
    ),
    (
        "chat",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
        (
            "cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls.function.arguments"
            " of type api.ToolCallFunctionArguments"
        ),
    ),
    (
        "embeddings",
        {"prompt": 1},
        "cannot unmarshal number into Go struct field EmbeddingRequest.prompt of type string",
    ),
    ("show", {"name": False}, "cannot unmarshal bool into Go struct field ShowRequest.name of type string"),
]

REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {}, "model is required"),
    ("embeddings", {"prompt": "x"}, "model is required"),
    ("show", {}, "model is required"),
    ("generate", {"raw": True, "system": "x"}, "raw mode does not support template, system, or context"),
    ("generate", {"raw": True, "context": [1]}, "raw mode does not support template, system, or context"),
    ("generate", {"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
    ("generate", {"images": ["!"]}, "illegal base64 data at input byte 0"),
    ("generate", {"images": ["AAAA="]}, "illegal base64 data at input byte 4"),
    ("generate", {"images": ["AAA"]}, "illegal base64 data at input byte 0"),
    ("generate", {"images": ["AA=A"]}, "illegal base64 data at input byte 3"),
    ("generate", {"images": ["AAAAA\n="]}, "illegal base64 data at input byte 6"),
    ("generate", {"images": ["AA==AA=="]}, "illegal base64 data at input byte 4"),
    (
        "chat",
        {"model": "m", "think": "very"},
        'invalid think value: "very" (must be "high", "medium", "low", "max", true, or false)',
    ),
    (
        "chat",
        {"model": "m", "think": 1},
        'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
    ),
    ("generate", {"keep_alive": "abc"}, 'time: invalid duration "abc"'),
    ("generate", {"keep_alive": ""}, 'time: invalid duration ""'),
    ("generate", {"keep_alive": "300"}, 'time: missing unit in duration "300"'),
    ("generate", {"keep_alive": "-1"}, 'time: missing unit in duration "-1"'),
    ("generate", {"keep_alive": "5x"}, 'time: unknown unit "x" in duration "5x"'),
    ("generate", {"keep_alive": "5m-"}, 'time: unknown unit "m-" in duration "5m-"'),
    ("generate", {"keep_alive": "99999999h"}, 'time: invalid duration "99999999h"'),
    ("generate", {"keep_alive": True}, "Unsupported type: 'bool'"),
    ("generate", {"keep_alive": {}}, "Unsupported type: 'map[string]interface {}'"),
    (
        "generate",
        {"format": "xml"},
        r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object',
    ),
    (
        "generate",
        {"format": ["json"]},
        r'invalid format: "[\"json\"]"; expected "json" or a valid JSON Schema object',
    ),
    ("generate", {"options": {"temperature": "hot"}}, 'option "temperature" must be of type float32'),
    ("generate", {"options": {"top_k": "many"}}, 'option "top_k" must be of type integer'),
    ("generate", {"options": {"seed": True}}, 'option "seed" must be of type integer'),
    ("generate", {"options": {"penalize_newline": 1}}, 'option "penalize_newline" must be of type boolean'),
    ("generate", {"options": {"stop": 1}}, 'option "stop" must be of type array'),
    ("generate", {"options": {"stop": ["x", 1]}}, 'option "stop" must be of an array of strings'),
    ("generate", {"options": {"num_ctx": "2k"}}, 'option "num_ctx" must be of type integer'),
    ("generate", {"options": {"num_gpu": "all"}}, 'option "num_gpu" must be of type integer'),
    ("generate", {"options": {"temperature": -1}}, 'option "temperature" must be between 0 and 100'),
    ("generate", {"options": {"temperature": float("inf")}}, 'option "temperature" must be between 0 and 100'),
    ("generate", {"options": {"mirostat": 3}}, 'option "mirostat" must be between 0 and 2'),
    ("chat", {"model": "m", "tools": [{"function": {}}]}, "every tool needs a function with a name"),
    (
        "chat",
        {"model": "m", "messages": [{"content": "x"}]},
        "every message needs a role: system, user, assistant or tool",
    ),
    ("embed", {"model": "m", "input": 5}, "invalid input type"),
    ("embed", {"model": "m", "input": ["x", 5]}, "invalid input type"),
    ("embed", {"model": "m", "input": [[1, 2]]}, "invalid input type"),
]


@pytest.mark.parametrize(("route", "body", "text"), TYPE_ERRORS)
def test_wrong_types_are_refused_in_gos_words(route: str, body: dict[str, Any], text: str) -> None:
    """A field of the wrong JSON type is a 400 with the sentence `encoding/json` would say."""
    with pytest.raises(BadRequest) as caught:
        getattr(requests, route)(body)

    assert caught.value.message == f"json: {text}"


@pytest.mark.parametrize(("route", "body", "text"), REFUSALS)
def test_refusals_have_ollamas_words(route: str, body: dict[str, Any], text: str) -> None:
    """What is refused before a model is looked at is refused in the documented words."""
    with pytest.raises(BadRequest) as caught:
        getattr(requests, route)(body)

    assert caught.value.message == text


def test_keys_match_without_case_and_null_is_unset() -> None:
    """`Model` is `model`, and a null leaves the default."""
    request = requests.generate({"MODEL": "m", "Prompt": "p", "stream": None, "options": None, "images": None})

    assert (request.model, request.prompt, request.stream, request.shift) == ("m", "p", True, True)
    assert request.options.sampling is DEFAULTS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (0.0, 0.0),
        (2.5, 2.5),
        (-1, FOREVER),
        ("0", 0.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        ("2h45m", 9900.0),
        ("+5m", 300.0),
        ("-1m", FOREVER),
        (".5s", 0.5),
        ("9999h", 35_996_400.0),
        (10**30, FOREVER),
    ],
)
def test_keep_alive_is_read_as_go_reads_durations(value: object, seconds: float | None) -> None:
    """Numbers are seconds, strings Go durations, and any negative is forever."""
    found = keep_alive(value)

    assert found == (None if seconds is None else pytest.approx(seconds))


@given(st.text(alphabet="0123456789.-+hmsnu\u00b5 x", max_size=12))
def test_any_duration_text_is_seconds_or_a_refusal(text: str) -> None:
    """No text makes the duration reader fail in another way."""
    try:
        found: object = keep_alive(text)
    except BadRequest as refused:
        found = refused.message.partition(" ")[0]
    assert found == "time:" or isinstance(found, float)


def test_the_documents_options_all_count() -> None:
    """Every option of the user's endpoint document is accepted, and the ones that can be are honoured."""
    chosen = choose(
        {
            "num_keep": 5,
            "seed": 42,
            "num_predict": 100,
            "top_k": 20,
            "top_p": 0.9,
            "tfs_z": 0.5,
            "typical_p": 0.7,
            "repeat_last_n": 33,
            "temperature": 0.8,
            "repeat_penalty": 1.2,
            "presence_penalty": 1.5,
            "frequency_penalty": 1.0,
            "mirostat": 1,
            "mirostat_tau": 0.8,
            "mirostat_eta": 0.6,
            "penalize_newline": True,
            "stop": ["\n", "user:"],
            "numa": False,
            "num_ctx": 1024,
            "num_batch": 2,
            "num_gpu": 1,
            "main_gpu": 0,
            "low_vram": False,
            "f16_kv": True,
            "vocab_only": False,
            "use_mmap": True,
            "use_mlock": False,
            "num_thread": 8,
        }
    )

    assert chosen.sampling == Sampling(
        temperature=0.8,
        top_k=20,
        top_p=0.9,
        typical_p=0.7,
        repeat_penalty=1.2,
        repeat_last_n=33,
        presence_penalty=1.5,
        frequency_penalty=1.0,
        mirostat=1,
        mirostat_tau=0.8,
        mirostat_eta=0.6,
        seed=42,
    )
    assert (chosen.num_keep, chosen.max_tokens, chosen.context) == (5, 100, 1024)
    assert chosen.stop == ("\n", "user:")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_predict": -1}, {"max_tokens": None}),
        ({"num_predict": -2}, {"max_tokens": None}),
        ({"num_predict": 7.9}, {"max_tokens": 7}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["", "x"]}, {"stop": ("x",)}),
        ({"num_ctx": 0}, {"context": None}),
        ({"num_ctx": 1}, {"context": 4}),
        ({"num_ctx": 10**9}, {"context": 10**9}),
        ({"unheard_of": {"of": 1}, "n_discard": -1, "grammar": "x"}, {}),
        ({"temperature": None}, {}),
    ],
)
def test_options_are_bounded_and_converted(options: dict[str, Any], expected: dict[str, Any]) -> None:
    """Negatives mean no limit, fractions are cut off, a lone stop string stands, the unknown is dropped."""
    chosen = choose(options)

    assert msgspec.structs.asdict(chosen) == msgspec.structs.asdict(choose({})) | expected


def test_seeds_and_top_k_below_zero_are_off() -> None:
    """A negative seed is random, a top_k of -1 takes all tokens."""
    assert choose({"seed": -1}).sampling.seed is None
    assert choose({"seed": 0}).sampling.seed == 0
    assert choose({"top_k": -1}).sampling.top_k == 0


def test_the_table_of_options_says_what_each_does() -> None:
    """Each option is there once, with a sentence, and the honoured ones with their real default."""
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)
    assert all(option.effect.endswith(".") for option in OPTIONS)
    for option in OPTIONS:
        if option.honoured and hasattr(DEFAULTS, option.name) and option.name != "seed":
            assert float(getattr(DEFAULTS, option.name)) == float(
                {"true": "1"}.get(option.default, option.default)
            )


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 20_480),
        ({"num_predict": -1}, 20_480),
        ({"num_predict": 7}, 7),
        ({"num_predict": 1_000_000}, 20_480),
        ({"num_ctx": 1024}, 10_240),
        ({"num_ctx": 1_000_000}, 20_480),
    ],
)
def test_answers_end(options: dict[str, Any], most: int) -> None:
    """A context that shifts never fills up: an answer has ten contexts at most, whatever is asked."""
    info = msgspec.structs.replace(ABLE, context=2048)
    body = {"model": "tiny", "prompt": "p", "options": options}
    assert prompts.generation(requests.generate(body), info, ident="i", model="m").max_tokens == most
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "p"}], "options": options}
    assert prompts.conversation(requests.chat(chat), info, ident="i", model="m").max_tokens == most


def test_generate_becomes_a_chat_with_a_template() -> None:
    """System, prompt, images and context go through the model's own template; the context comes back."""
    request = requests.generate(
        {
            "model": "tiny",
            "prompt": "p",
            "system": "s",
            "context": [1, 2],
            "images": [PNG],
            "options": {"seed": 3},
        }
    )
    made = prompts.generation(request, ABLE, ident="i", model="tiny:latest")

    assert isinstance(made.prompt, ChatPrompt)
    assert [(m.role, m.content) for m in made.prompt.messages] == [("system", "s"), ("user", "p")]
    assert made.prompt.messages[1].images[0].media_type == "image/png"
    assert made.prompt.prefix_tokens == (1, 2)
    assert (made.id, made.model, made.want_context, made.shift, made.num_keep) == (
        "i",
        "tiny:latest",
        True,
        True,
        4,
    )
    assert made.sampling.seed == 3


def test_a_template_of_the_request_goes_along() -> None:
    """It is rendered where the vocabulary is; a suffix with a template asks nothing of the model."""
    body = {"model": "tiny", "prompt": "p", "template": "{{ .Prompt }}"}
    made = prompts.generation(requests.generate(body), ABLE, ident="i", model="m")
    assert isinstance(made.prompt, ChatPrompt)
    assert made.prompt.template == "{{ .Prompt }}"

    plain = ModelInfo(name="m", capabilities=("completion",))
    made = prompts.generation(requests.generate(body | {"suffix": "s"}), plain, ident="i", model="m")
    assert made.prompt == InfillPrompt(prefix="p", suffix="s", template="{{ .Prompt }}")


def test_raw_and_infill_prompts_are_not_templated() -> None:
    """`raw` is sent as it is and gives no context; a suffix asks for what comes between."""
    raw = requests.generate({"model": "tiny", "prompt": "p", "raw": True, "suffix": "ignored"})
    made = prompts.generation(raw, ABLE, ident="i", model="tiny:latest")
    assert made.prompt == TextPrompt(text="p")
    assert not made.want_context

    infill = requests.generate({"model": "tiny", "prompt": "p", "suffix": "s"})
    assert prompts.generation(infill, ABLE, ident="i", model="m").prompt == InfillPrompt(prefix="p", suffix="s")


@pytest.mark.parametrize(
    ("asked", "capable", "expected"),
    [
        (None, True, None),
        (True, True, True),
        (False, True, False),
        ("low", True, "low"),
        (None, False, None),
        (False, False, None),
    ],
)
def test_models_that_can_think_do_as_they_are_told(asked: object, capable: bool, expected: object) -> None:
    """Leaving `think` out leaves it to the template; a model that cannot is not asked to."""
    request = requests.chat({"model": "m", "messages": [{"role": "user", "content": "x"}], "think": asked})
    made = prompts.conversation(request, ABLE if capable else PLAIN, ident="i", model="m")

    assert isinstance(made.prompt, ChatPrompt)
    assert made.prompt.think == expected


def test_a_conversation_keeps_everything_said() -> None:
    """Roles in lower case, thinking, tool calls with their arguments as text, tool results and tools."""
    body = {
        "model": "tiny",
        "messages": [
            {"role": "System", "content": "s"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "t",
                "tool_calls": [
                    {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}}
                ],
            },
            {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "c"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "d",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
        "format": {"type": "object"},
    }
    made = prompts.conversation(requests.chat(body), ABLE, ident="i", model="m")

    assert isinstance(made.prompt, ChatPrompt)
    assert made.prompt.messages == (
        Message(role="system", content="s"),
        Message(
            role="assistant",
            thinking="t",
            tool_calls=(ToolCall(id="c", name="f", arguments='{"b":1,"a":2}'),),
        ),
        Message(role="tool", content="r", tool_name="f", tool_call_id="c"),
    )
    assert made.prompt.tools == (
        Tool(name="f", description="d", parameters={"type": "object", "properties": {}}),
    )
    assert made.prompt.drop_oldest
    assert made.constraint == Constraint(kind="json_schema", value='{"type":"object"}')
    assert not made.want_context


def test_truncation_can_be_forbidden() -> None:
    """`truncate: false` keeps every message or refuses; `shift: false` ends at a full context."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "truncate": False, "shift": False}
    made = prompts.conversation(requests.chat(body), PLAIN, ident="i", model="m")

    assert isinstance(made.prompt, ChatPrompt)
    assert not made.prompt.drop_oldest
    assert not made.shift


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("body", "capabilities", "text"),
    [
        (CHAT, ("embedding",), '"tiny" does not support chat'),
        (CHAT | TOOLS, ("completion",), "registry.ollama.ai/library/tiny:latest does not support tools"),
        (CHAT | {"think": True}, ("completion",), '"tiny" does not support thinking'),
        ({"model": "tiny", "prompt": "x"}, ("embedding",), '"tiny" does not support generate'),
        (
            {"model": "tiny", "prompt": "x", "suffix": "y"},
            ("completion",),
            "registry.ollama.ai/library/tiny:latest does not support insert",
        ),
        (
            {"model": "tiny", "prompt": "x", "images": [PNG]},
            ("completion",),
            'this model ("tiny") has no vision: leave out the images, or serve a model that sees',
        ),
        (
            {"model": "tiny", "messages": [{"role": "user", "content": "x", "images": [PNG]}]},
            ("completion",),
            'this model ("tiny") has no vision: leave out the images, or serve a model that sees',
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused(body: dict[str, Any], capabilities: Any, text: str) -> None:
    """Each missing capability has its documented sentence and is a 400."""
    info = msgspec.structs.replace(ABLE, capabilities=capabilities)

    def make() -> object:
        if "messages" in body:
            return prompts.conversation(requests.chat(body), info, ident="i", model="m")
        return prompts.generation(requests.generate(body), info, ident="i", model="m")

    with pytest.raises(Unsupported) as caught:
        make()

    assert caught.value.message == text
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"context": [-1]},
        {"context": [100]},
        {"images": [base64.b64encode(b"GIF89a").decode()]},
        {"images": [PNG], "raw": True},
    ],
)
def test_what_this_service_does_not_do_is_said(body: dict[str, Any]) -> None:
    """Foreign context tokens and unknown image formats are refused, not dropped."""
    request = requests.generate({"model": "tiny", "prompt": "x", **body})
    with pytest.raises(ServiceError) as caught:
        prompts.generation(request, ABLE, ident="i", model="m")

    assert caught.value.http_status == 400


@pytest.mark.parametrize("text", ["../x", "a b", "http://evil/x", "x\n", "m:a:b"])
def test_malformed_model_names_are_refused(text: str) -> None:
    """A name that is none is a 400 in Ollama's words, which do not repeat it."""
    with pytest.raises(BadRequest) as caught:
        requests.model_name(text)

    assert caught.value.message == "invalid model name"


def test_source_suffixes_are_understood() -> None:
    """`:local` is dropped, as everything here is local; together with `:cloud` it makes no sense."""
    assert str(requests.model_name("tiny:local")) == "tiny:latest"
    assert str(requests.model_name("tiny:1b:local")) == "tiny:1b"
    with pytest.raises(BadRequest, match="use either :local or :cloud, not both"):
        requests.model_name("tiny:cloud:local")


def test_integers_beyond_64_bits_in_a_tool_are_refused() -> None:
    """The engine's process could not read them; the client is told which tool has one."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "maximum": 2**70}}}

    with pytest.raises(BadRequest, match="'f' have an integer"):
        requests.chat({"model": "tiny", "messages": [], "tools": [tool]})
