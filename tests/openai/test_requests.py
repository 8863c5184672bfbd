"""What a request of the OpenAI dialect becomes."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import (
    ChatPrompt,
    Constraint,
    InfillPrompt,
    ModelInfo,
    Sampling,
    TextPrompt,
    TokenPrompt,
    ToolChoice,
)
from akashllm.server.wire.openai import (
    ChatCall,
    CompletionCall,
    EmbeddingCall,
    read_chat,
    read_completion,
    read_embedding,
)

INFO = ModelInfo(
    name="tiny:latest",
    vocab_size=2000,
    embedding_length=256,
    capabilities=("completion", "tools", "insert", "embedding", "thinking"),
)
SEES = ModelInfo(name="eyes:latest", capabilities=("completion", "vision"))
PLAIN = ModelInfo(name="plain:latest", capabilities=("completion",))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
TIME = {"type": "function", "function": {"name": "get_time"}}


def chat(info: ModelInfo = INFO, **body: Any) -> ChatCall:
    """A chat request with one message unless the test says otherwise."""
    return read_chat({"messages": HELLO} | body, name="tiny", model="tiny:latest", info=info)


def chat_prompt(info: ModelInfo = INFO, **body: Any) -> ChatPrompt:
    """The prompt of a chat request."""
    prompt = chat(info, **body).generations[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def completion(info: ModelInfo = INFO, **body: Any) -> CompletionCall:
    """A completion request."""
    return read_completion({"prompt": "hi"} | body, name="tiny", model="tiny:latest", info=info)


def embedding(**body: Any) -> EmbeddingCall:
    """An embedding request."""
    return read_embedding(body, name="tiny", model="tiny:latest", info=INFO)


class TestSampling:
    """Sampling parameters and extras."""

    def test_defaults(self) -> None:
        """Without parameters the specification's defaults hold, with top_k 40."""
        generation = chat().generations[0]
        assert generation.sampling == Sampling(temperature=1.0, top_p=1.0, top_k=40)
        assert generation.max_tokens is None
        assert generation.n == 1
        assert generation.logprobs is None
        assert generation.stop == ()

    def test_everything(self) -> None:
        """Each sampling parameter reaches the engine under its neutral name."""
        body: dict[str, Any] = {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "min_p": 0.1,
            "typical_p": 0.8,
            "repeat_penalty": 1.1,
            "repeat_penalty_num": 32,
            "presence_penalty": -1,
            "frequency_penalty": 1.5,
            "mirostat": 2,
            "mirostat_tau": 4,
            "mirostat_eta": 0.2,
            "logit_bias": {"15": -100, "16": 2.5},
            "seed": 7,
        }
        expected = Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            typical_p=0.8,
            repeat_penalty=1.1,
            repeat_last_n=32,
            presence_penalty=-1,
            frequency_penalty=1.5,
            mirostat=2,
            mirostat_tau=4,
            mirostat_eta=0.2,
            logit_bias={15: -100, 16: 2.5},
            seed=7,
        )
        assert chat(**body).generations[0].sampling == expected
        assert completion(**body).generations[0].sampling == expected

    def test_extras_inside_options(self) -> None:
        """The extras also work inside `options`, and the top level wins."""
        sampling = chat(top_k=5, options={"top_k": 9, "min_p": 0.2, "repeat_last_n": 8}).generations[0].sampling
        assert (sampling.top_k, sampling.min_p, sampling.repeat_last_n) == (5, 0.2, 8)

    def test_other_spelling(self) -> None:
        """The spelling of vLLM, `repetition_penalty`, is known, and so is its -1 for no top_k."""
        sampling = chat(repetition_penalty=1.3, top_k=-1).generations[0].sampling
        assert (sampling.repeat_penalty, sampling.top_k) == (1.3, 0)

    @pytest.mark.parametrize("seed", [-(2**63), -9007199254740991, -1, 0, 2**32 - 1, 2**63 - 1])
    def test_any_seed(self, seed: int) -> None:
        """Every 64-bit seed becomes one of 32 bits that no engine takes for 'random'."""
        folded = chat(seed=seed).generations[0].sampling.seed
        assert folded is not None
        assert 0 <= folded < 2**32 - 1

    def test_null_is_absent(self) -> None:
        """A parameter that is null reads as if it were not there."""
        names = [
            "temperature",
            "top_p",
            "stop",
            "seed",
            "n",
            "logit_bias",
            "tools",
            "max_tokens",
            "response_format",
        ]
        absent: dict[str, Any] = dict.fromkeys(names)
        nulls = chat(**absent).generations[0]
        assert msgspec.structs.replace(nulls, id="x") == msgspec.structs.replace(chat().generations[0], id="x")

    def test_whole_float_is_an_integer(self) -> None:
        """`5.0` is as good as `5` where an integer is asked."""
        assert chat(max_tokens=5.0).generations[0].max_tokens == 5

    def test_bias_without_effect(self) -> None:
        """A key that is no token id is harmless where its bias is 0."""
        assert chat(logit_bias={"foo": 0}).generations[0].sampling.logit_bias == {}

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
            ({"temperature": -1}, "temperature", "decimal_below_min_value"),
            ({"temperature": "1"}, "temperature", "invalid_type"),
            ({"temperature": True}, "temperature", "invalid_type"),
            ({"temperature": float("inf")}, "temperature", "invalid_value"),
            ({"top_p": 1.5}, "top_p", "decimal_above_max_value"),
            ({"presence_penalty": -3}, "presence_penalty", "decimal_below_min_value"),
            ({"frequency_penalty": 3}, "frequency_penalty", "decimal_above_max_value"),
            ({"n": 0}, "n", "integer_below_min_value"),
            ({"n": 129}, "n", "integer_above_max_value"),
            ({"n": 1.5}, "n", "invalid_type"),
            ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
            ({"best_of": 2, "stream": True}, "best_of", "unsupported_value"),
            ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
            ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
            ({"seed": 2**65}, "seed", "integer_above_max_value"),
            ({"stop": 5}, "stop", "invalid_type"),
            ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
            ({"stop": [""]}, "stop", "invalid_value"),
            ({"logit_bias": {"foo": 1}}, "logit_bias", "invalid_value"),
            ({"logit_bias": {"2000": 1}}, "logit_bias", "invalid_value"),
            ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
            ({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value"),
            ({"logit_bias": []}, "logit_bias", "invalid_type"),
            ({"stream": "yes"}, "stream", "invalid_type"),
            ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
            ({"top_k": 2**40}, "top_k", "integer_above_max_value"),
            ({"options": {"min_p": 2}}, "options.min_p", "decimal_above_max_value"),
            ({"options": []}, "options", "invalid_type"),
            ({"mirostat": 3}, "mirostat", "integer_above_max_value"),
        ],
    )
    def test_refused(self, body: dict[str, Any], param: str, code: str) -> None:
        """A value outside the rules is a 400 that names the parameter and the rule, on both routes."""
        for read in (chat, completion):
            with pytest.raises(BadRequest) as caught:
                read(**body)
            assert (caught.value.param, caught.value.code) == (param, code)
            assert param.split("[", maxsplit=1)[0] in caught.value.message


class TestChat:
    """Chat requests."""

    def test_ids_are_unique(self) -> None:
        """No two responses share an id."""
        assert len({chat().id for _ in range(100)}) == 100

    def test_newer_limit_wins(self) -> None:
        """`max_completion_tokens` wins over `max_tokens`, also when it is 0."""
        assert chat(max_tokens=5, max_completion_tokens=0).generations[0].max_tokens == 0
        assert chat(max_tokens=5).generations[0].max_tokens == 5

    def test_huge_limit(self) -> None:
        """A limit beyond every integer of the engines is no error: the context ends the answer first."""
        assert chat(max_tokens=2**70).generations[0].max_tokens == 2**31 - 1

    def test_best_of(self) -> None:
        """`best_of` makes more choices than it returns and scores them; 0 is as good as absent."""
        call = chat(n=2, best_of=5)
        assert (call.n, call.generations[0].n, call.generations[0].score) == (2, 5, True)
        assert chat(best_of=0).generations[0].score is False

    def test_logprobs(self) -> None:
        """`top_logprobs` counts the alternatives and needs `logprobs`."""
        assert chat(logprobs=True).generations[0].logprobs == 0
        assert chat(logprobs=True, top_logprobs=20).generations[0].logprobs == 20
        assert chat(logprobs=False, top_logprobs=0).generations[0].logprobs is None
        with pytest.raises(BadRequest, match="needs 'logprobs'"):
            chat(top_logprobs=2)
        with pytest.raises(BadRequest) as caught:
            chat(logprobs=True, top_logprobs=21)
        assert caught.value.param == "top_logprobs"

    def test_effort(self) -> None:
        """Every effort of the client's type has a meaning; others are refused."""
        efforts = {
            "none": False,
            "minimal": "low",
            "low": "low",
            "medium": "medium",
            "high": "high",
            "xhigh": "max",
        }
        for effort, think in efforts.items():
            assert chat_prompt(reasoning_effort=effort).think == think
        assert chat_prompt().think is None
        with pytest.raises(BadRequest, match="reasoning_effort"):
            chat(reasoning_effort="heroic")

    def test_effort_of_a_plain_model(self) -> None:
        """A model that cannot reason refuses an effort, and accepts that none is asked."""
        assert chat_prompt(PLAIN, reasoning_effort="none").think is False
        with pytest.raises(Unsupported) as caught:
            chat(PLAIN, reasoning_effort="high")
        assert caught.value.param == "reasoning_effort"

    def test_audio_is_refused(self) -> None:
        """Spoken answers are refused, not silently left out."""
        with pytest.raises(Unsupported) as caught:
            chat(modalities=["text", "audio"])
        assert caught.value.param == "modalities[1]"

    def test_continue_final_message(self) -> None:
        """The last message is continued only if it is the assistant's."""
        messages = [*HELLO, {"role": "assistant", "content": "Once"}]
        assert chat_prompt(messages=messages, continue_final_message=True).continue_final
        assert not chat_prompt(messages=messages).continue_final
        with pytest.raises(BadRequest, match="continue_final_message"):
            chat(continue_final_message=True)

    @pytest.mark.parametrize(
        ("wanted", "constraint"),
        [
            ({"type": "text"}, None),
            ({"type": "json_object"}, Constraint(kind="json_object")),
            ({"type": "json_object", "schema": {"a": 1}}, Constraint(kind="json_schema", value='{"a":1}')),
            (
                {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": {"b": 1, "a": 2}},
                },
                Constraint(kind="json_schema", value='{"b":1,"a":2}'),
            ),
            ({"type": "json_schema", "json_schema": {"name": "x"}}, Constraint(kind="json_object")),
        ],
    )
    def test_response_format(self, wanted: dict[str, Any], constraint: Constraint | None) -> None:
        """Each response format becomes the constraint it stands for; a schema keeps the order of its keys."""
        assert chat(response_format=wanted).generations[0].constraint == constraint
        assert completion(response_format=wanted).generations[0].constraint == constraint

    def test_grammar(self) -> None:
        """A grammar is a constraint, alone."""
        assert chat(grammar='root ::= "a"').generations[0].constraint == Constraint(
            kind="gbnf", value='root ::= "a"'
        )
        for other in ({"response_format": {"type": "json_object"}}, {"tools": [WEATHER]}):
            with pytest.raises(BadRequest, match="exclude each other"):
                chat(grammar='root ::= "a"', **other)

    @pytest.mark.parametrize(
        ("wanted", "param", "code"),
        [
            ({}, "response_format.type", "missing_required_parameter"),
            ({"type": "xml"}, "response_format.type", "unsupported_value"),
            ({"type": "json_schema"}, "response_format.json_schema", "missing_required_parameter"),
            (
                {"type": "json_schema", "json_schema": {"schema": "x"}},
                "response_format.json_schema.schema",
                "invalid_type",
            ),
            ("json", "response_format", "invalid_type"),
        ],
    )
    def test_response_format_refused(self, wanted: Any, param: str, code: str) -> None:
        """A response format that says nothing is refused with the field that is wrong."""
        with pytest.raises(BadRequest) as caught:
            chat(response_format=wanted)
        assert (caught.value.param, caught.value.code) == (param, code)


class TestMessages:
    """Messages and parts."""

    def test_roles(self) -> None:
        """A developer message is a system message for a template that does not know the word."""
        messages = [{"role": "developer", "content": "be brief"}, *HELLO]
        assert [each.role for each in chat_prompt(messages=messages).messages] == ["system", "user"]
        knows = msgspec.structs.replace(INFO, chat_template="{% if role == 'developer' %}")
        assert chat_prompt(knows, messages=messages).messages[0].role == "developer"

    def test_parts(self) -> None:
        """Text parts become lines."""
        content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert chat_prompt(messages=[{"role": "user", "content": content}]).messages[0].content == "a\nb"

    def test_image(self) -> None:
        """An image of a data address is decoded; its type is what its bytes say."""
        url = "data:image/jpeg;base64," + base64.b64encode(PNG).decode()
        for image in ({"url": url, "detail": "low"}, url):
            content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": image}]
            message = chat_prompt(SEES, messages=[{"role": "user", "content": content}]).messages[0]
            assert message.content == "what?"
            assert (message.images[0].media_type, message.images[0].data) == ("image/png", PNG)

    @pytest.mark.parametrize(
        ("url", "code"),
        [
            ("http://169.254.169.254/latest", "invalid_image_url"),
            ("https://example.com/cat.png", "invalid_image_url"),
            ("file:///etc/passwd", "invalid_image_url"),
            ("data:image/svg+xml;base64,AAAA", "invalid_image_url"),
            ("data:image/png;base64,!!!!", "invalid_base64"),
            ("data:image/png;base64,", "invalid_image_format"),
            ("data:image/png;base64,AAAA", "invalid_image_format"),
        ],
    )
    def test_bad_image(self, url: str, code: str) -> None:
        """An address is never fetched, and what is no image is refused."""
        content = [{"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(BadRequest) as caught:
            chat(SEES, messages=[{"role": "user", "content": content}])
        assert (caught.value.param, caught.value.code) == ("messages[0].content[0].image_url.url", code)

    def test_blind_model(self) -> None:
        """A model without eyes says so."""
        content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        with pytest.raises(Unsupported, match="cannot see images"):
            chat(messages=[{"role": "user", "content": content}])

    def test_tool_messages(self) -> None:
        """A tool's answer carries the name of the function that its call named, in both forms."""
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'},
        }
        messages = [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            {"role": "assistant", "content": None, "function_call": {"name": "get_time", "arguments": ""}},
            {"role": "function", "name": "get_time", "content": "noon"},
        ]
        found = chat_prompt(messages=messages).messages
        assert found[1].content == ""
        assert found[1].tool_calls[0].arguments == '{"city":"Rome"}'
        assert (found[2].role, found[2].tool_name, found[2].tool_call_id) == ("tool", "get_weather", "call_1")
        assert found[3].tool_calls[0].arguments == "{}"
        assert (found[4].role, found[4].tool_name) == ("tool", "get_time")

    def test_assistant(self) -> None:
        """A thought comes back in either spelling, and a refusal is text."""
        for key in ("reasoning_content", "reasoning"):
            message = {"role": "assistant", "content": "4", key: "2 and 2"}
            assert chat_prompt(messages=[*HELLO, message]).messages[1].thinking == "2 and 2"
        refused = {"role": "assistant", "content": None, "refusal": "no"}
        assert chat_prompt(messages=[*HELLO, refused]).messages[1].content == "no"
        parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
        assert chat_prompt(messages=[*HELLO, parts]).messages[1].content == "no"

    @pytest.mark.parametrize(
        ("messages", "param", "code"),
        [
            (None, "messages", "missing_required_parameter"),
            ([], "messages", "empty_array"),
            ("hi", "messages", "invalid_type"),
            (["hi"], "messages[0]", "invalid_type"),
            ([{"content": "x"}], "messages[0].role", "missing_required_parameter"),
            ([{"role": "wizard", "content": "x"}], "messages[0].role", "unsupported_value"),
            ([{"role": "user"}], "messages[0].content", "missing_required_parameter"),
            ([{"role": "user", "content": None}], "messages[0].content", "invalid_type"),
            ([{"role": "user", "content": 5}], "messages[0].content", "invalid_type"),
            ([{"role": "assistant", "content": None}], "messages[0].content", "invalid_type"),
            (
                [{"role": "user", "content": [{"text": "x"}]}],
                "messages[0].content[0].type",
                "missing_required_parameter",
            ),
            ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "invalid_type"),
            (
                [{"role": "user", "content": [{"type": "input_audio"}]}],
                "messages[0].content[0].type",
                "unsupported_value",
            ),
            ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "missing_required_parameter"),
            (
                [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
                "messages[0].tool_calls[0].function.arguments",
                "invalid_value",
            ),
            (
                [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}],
                "messages[0].tool_calls[0].function.arguments",
                "invalid_value",
            ),
        ],
    )
    def test_refused(self, messages: Any, param: str, code: str) -> None:
        """A malformed message is a 400 that names the exact field."""
        with pytest.raises(BadRequest) as caught:
            chat(messages=messages)
        assert (caught.value.param, caught.value.code) == (param, code)


class TestTools:
    """Tools and the choice among them."""

    def test_modes(self) -> None:
        """Each mode of `tool_choice` arrives; none takes the tools away."""
        assert chat_prompt(tools=[WEATHER]).tool_choice == ToolChoice()
        assert chat_prompt(tools=[WEATHER], tool_choice="required").tool_choice == ToolChoice(mode="required")
        assert chat_prompt(tools=[WEATHER], tool_choice="none").tools == ()
        named = {"type": "function", "function": {"name": "get_weather"}}
        prompt = chat_prompt(tools=[WEATHER, TIME], tool_choice=named)
        assert prompt.tool_choice == ToolChoice(mode="named", name="get_weather")
        assert [tool.name for tool in prompt.tools] == ["get_weather", "get_time"]

    def test_allowed_tools(self) -> None:
        """`allowed_tools` leaves only the tools it names."""
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TIME]}}
        prompt = chat_prompt(tools=[WEATHER, TIME], tool_choice=choice)
        assert [tool.name for tool in prompt.tools] == ["get_time"]
        assert prompt.tool_choice.mode == "required"

    def test_parallel(self) -> None:
        """`parallel_tool_calls` is true unless it is refused."""
        assert chat_prompt(tools=[WEATHER]).parallel_tool_calls
        assert not chat_prompt(tools=[WEATHER], parallel_tool_calls=False).parallel_tool_calls

    def test_older_form(self) -> None:
        """`functions` are tools, called one at a time and answered in the older form."""
        call = chat(functions=[{"name": "f"}], function_call={"name": "f"})
        prompt = call.generations[0].prompt
        assert isinstance(prompt, ChatPrompt)
        assert call.legacy
        assert prompt.tool_choice == ToolChoice(mode="named", name="f")
        assert not prompt.parallel_tool_calls

    def test_both_forms(self) -> None:
        """Where both forms are sent, the newer counts."""
        call = chat(functions=[{"name": "f"}], tools=[WEATHER], function_call="none")
        prompt = call.generations[0].prompt
        assert isinstance(prompt, ChatPrompt)
        assert [tool.name for tool in prompt.tools] == ["get_weather"]
        assert not call.legacy

    def test_without_tools(self) -> None:
        """Choosing among no tools is fine until one is demanded."""
        assert chat_prompt(tools=[], tool_choice="auto").tools == ()
        assert chat_prompt(tool_choice="none", function_call="none").tools == ()
        with pytest.raises(BadRequest, match="needs tools"):
            chat(tool_choice="required")

    def test_a_forced_call_beats_a_format(self) -> None:
        """A schema for text does not bind an answer that must be a call."""
        form = {"type": "json_object"}
        assert (
            chat(tools=[WEATHER], tool_choice="required", response_format=form).generations[0].constraint
            is None
        )
        assert chat(tools=[WEATHER], response_format=form).generations[0].constraint is not None

    def test_model_without_tools(self) -> None:
        """A model that cannot call tools says so."""
        with pytest.raises(Unsupported) as caught:
            chat(PLAIN, tools=[WEATHER])
        assert caught.value.param == "tools"
        assert chat(PLAIN, tools=[WEATHER], tool_choice="none").n == 1

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"tools": {}}, "tools"),
            ({"tools": [5]}, "tools[0]"),
            ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].function"),
            ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
            ({"tools": [{"type": "function", "function": {"name": "a/b"}}]}, "tools[0].function.name"),
            ({"tools": [{"type": "function", "function": {"name": "a" * 129}}]}, "tools[0].function.name"),
            (
                {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
                "tools[0].function.parameters",
            ),
            (
                {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"maximum": 10**30}}}]},
                "tools[0].function.parameters",
            ),
            ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
            ({"tools": [WEATHER], "tool_choice": 5}, "tool_choice"),
            ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
            (
                {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "absent"}}},
                "tool_choice.function.name",
            ),
            (
                {
                    "tools": [WEATHER],
                    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [TIME]}},
                },
                "tool_choice.allowed_tools.tools",
            ),
            ({"functions": [{}]}, "functions[0].name"),
        ],
    )
    def test_refused(self, body: dict[str, Any], param: str) -> None:
        """A malformed tool or choice is a 400 that names the exact field."""
        with pytest.raises(BadRequest) as caught:
            chat(**body)
        assert caught.value.param == param


class TestCompletions:
    """Completion requests."""

    def test_default_length(self) -> None:
        """16 tokens unless asked otherwise."""
        assert completion().generations[0].max_tokens == 16
        assert completion(max_tokens=0).generations[0].max_tokens == 0

    def test_prompts(self) -> None:
        """A string, strings, token ids and lists of token ids; each prompt is a generation of its own."""
        assert completion(prompt="a").generations[0].prompt == TextPrompt(text="a")
        assert [each.prompt for each in completion(prompt=["a", "b"]).generations] == [
            TextPrompt(text="a"),
            TextPrompt(text="b"),
        ]
        assert completion(prompt=[1, 2]).generations[0].prompt == TokenPrompt(tokens=(1, 2))
        assert [each.prompt for each in completion(prompt=[[1], [2, 3]]).generations] == [
            TokenPrompt(tokens=(1,)),
            TokenPrompt(tokens=(2, 3)),
        ]

    def test_generations_have_their_own_ids(self) -> None:
        """Two prompts of one request can be told apart in the engine."""
        first, second = completion(prompt=["a", "b"]).generations
        assert first.id != second.id

    def test_echo(self) -> None:
        """Echo with logprobs asks for the prompt's own, unless there is a gap to fill."""
        assert completion(echo=True, logprobs=2).generations[0].prompt_logprobs == 2
        assert completion(echo=True).generations[0].prompt_logprobs is None
        assert completion(logprobs=2).generations[0].prompt_logprobs is None
        assert completion(echo=True, logprobs=0, suffix="x").generations[0].prompt_logprobs is None

    def test_logprobs_forms(self) -> None:
        """An integer, or chat's boolean with `top_logprobs`."""
        assert completion(logprobs=0).generations[0].logprobs == 0
        assert completion(logprobs=5).generations[0].logprobs == 5
        assert completion(logprobs=True, top_logprobs=3).generations[0].logprobs == 3
        assert completion(logprobs=False).generations[0].logprobs is None

    def test_suffix(self) -> None:
        """A suffix asks for the gap before it, where the model can."""
        assert completion(suffix="x").generations[0].prompt == InfillPrompt(prefix="hi", suffix="x")
        assert completion(suffix="").generations[0].prompt == TextPrompt(text="hi")
        with pytest.raises(Unsupported) as caught:
            completion(PLAIN, suffix="x")
        assert (caught.value.param, caught.value.code) == ("suffix", "unsupported_parameter")

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"prompt": None}, "prompt", "missing_required_parameter"),
            ({"prompt": 5}, "prompt", "invalid_type"),
            ({"prompt": []}, "prompt", "empty_array"),
            ({"prompt": ["a", 5]}, "prompt[1]", "invalid_type"),
            ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
            ({"prompt": [True]}, "prompt", "invalid_type"),
            ({"prompt": [1, -1]}, "prompt[1]", "invalid_value"),
            ({"prompt": [2000]}, "prompt[0]", "invalid_value"),
            ({"prompt": [[1], []]}, "prompt[1]", "empty_array"),
            ({"prompt": [[1], 2]}, "prompt[1]", "invalid_type"),
            ({"prompt": ["a"] * 257}, "prompt", "array_too_long"),
            ({"prompt": ["a"] * 16, "n": 128}, "n", "integer_above_max_value"),
            ({"prompt": [1], "suffix": "x"}, "prompt", "invalid_type"),
            ({"logprobs": 21}, "logprobs", "integer_above_max_value"),
            ({"echo": 1}, "echo", "invalid_type"),
        ],
    )
    def test_refused(self, body: dict[str, Any], param: str, code: str) -> None:
        """A malformed prompt or parameter is a 400 that names the exact field."""
        with pytest.raises(BadRequest) as caught:
            completion(**body)
        assert (caught.value.param, caught.value.code) == (param, code)


class TestEmbeddings:
    """Embedding requests."""

    def test_inputs(self) -> None:
        """Strings and token ids, one or many; nothing is ever cut."""
        assert embedding(input="a").embedding.inputs == ("a",)
        assert embedding(input=["a", "b"]).embedding.inputs == ("a", "b")
        assert embedding(input=[1, 2]).embedding.inputs == ((1, 2),)
        assert embedding(input=[[1], [2, 3]]).embedding.inputs == ((1,), (2, 3))
        assert embedding(input="a").embedding.truncate is False

    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({}, "input", "missing_required_parameter"),
            ({"input": ""}, "input", "invalid_value"),
            ({"input": []}, "input", "empty_array"),
            ({"input": ["a", ""]}, "input[1]", "invalid_value"),
            ({"input": {}}, "input", "invalid_type"),
            ({"input": [None]}, "input", "invalid_type"),
            ({"input": ["a"] * 2049}, "input", "array_too_long"),
            ({"input": "a", "encoding_format": "hex"}, "encoding_format", "unsupported_value"),
            ({"input": "a", "dimensions": 0}, "dimensions", "integer_below_min_value"),
            ({"input": "a", "dimensions": 257}, "dimensions", "integer_above_max_value"),
        ],
    )
    def test_refused(self, body: dict[str, Any], param: str, code: str) -> None:
        """A malformed input is a 400 that names the exact field."""
        with pytest.raises(BadRequest) as caught:
            embedding(**body)
        assert (caught.value.param, caught.value.code) == (param, code)
