"""Messages become the text the model was trained on, whatever its template can and cannot do."""

from __future__ import annotations

import json

import pytest

from akashllm.errors import BadRequest
from akashllm.server.chat import builtin
from akashllm.server.chat.capabilities import capabilities
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import Message, Tool, ToolCall
from tests.chat import templates

USER = Message(role="user", content="Hi")
SYSTEM = Message(role="system", content="Be brief.")
TOOL = Tool(
    name="add", description="Add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}}
)
CALL = Message(
    role="assistant", tool_calls=(ToolCall(id="call_x1y2z3a4", name="add", arguments='{"a": 1, "b": "é<"}'),)
)
RESULT = Message(role="tool", content="3", tool_call_id="call_x1y2z3a4")


def test_past_calls_go_in_as_objects() -> None:
    """A template that writes arguments as JSON gets an object, not a text to quote again."""
    text = ChatTemplate(templates.LLAMA3).render([USER, CALL, RESULT], tools=[TOOL])
    assert '{"name": "add", "parameters": {"a": 1, "b": "é<"}}' in text


def test_past_calls_go_in_as_text_where_the_template_wants_text() -> None:
    """A template that appends the arguments to a text gets JSON text, and null for empty content."""
    text = ChatTemplate(templates.DEEPSEEK).render([USER, CALL])
    assert '```json\n{"a": 1, "b": "é<"}\n```' in text


def test_empty_content_beside_calls_is_text_where_it_can_be() -> None:
    """A template that only asks whether content is null still gets text, if it builds on text elsewhere."""
    source = (
        "{% for m in messages %}{{ m.content + ('' if m.content is not none else 'null') }}{{ m.tool_calls }}"
    )
    text = ChatTemplate(source + "{% endfor %}").render([USER, CALL])
    assert text.startswith("Hi[{")


def test_no_tools_are_a_list_where_a_template_counts_on_one() -> None:
    """A template written for tools only still renders a chat without, system message and all."""
    template = ChatTemplate("{% for t in tools %}{{ t.function.name }}{% endfor %}{{ messages[0].content }}")
    assert template.render([SYSTEM, USER]) == "Be brief."


def test_mistral_gets_the_short_ids_it_insists_on() -> None:
    """A call's id becomes nine letters and digits, and always the same ones."""
    template = ChatTemplate(templates.MISTRAL, bos="<s>", eos="</s>")
    assert template.render([USER, CALL]).startswith('<s>[INST]Hi[/INST][TOOL_CALLS][{"name": "add"')


def test_a_result_without_a_name_takes_the_name_of_its_call() -> None:
    """The tool's name is found through the id of the call it answers."""
    template = ChatTemplate("{% for m in messages %}{{ m.role }}={{ m.name }} {% endfor %}")
    assert template.render([USER, CALL, RESULT]) == "user= assistant= tool=add "


def test_tools_go_in_in_openai_shape() -> None:
    """A template sees each tool as OpenAI writes it, an empty schema filled up."""
    text = ChatTemplate("{{ tools | tojson }}").render([USER], tools=[Tool(name="now")])
    assert json.loads(text) == [
        {
            "type": "function",
            "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
        }
    ]


def test_no_tools_are_none() -> None:
    """Templates ask `tools is none`: an empty list would be something else."""
    assert ChatTemplate("{{ tools is none }}").render([USER]) == "True"


def test_a_refused_system_message_goes_into_the_first_user_message() -> None:
    """A template that raises on system messages still gets their words."""
    text = ChatTemplate(builtin.GEMMA, bos="<bos>").render([SYSTEM, USER])
    assert text == "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"


def test_a_silently_dropped_system_message_is_not_lost() -> None:
    """A template that skips system messages without a word still gets theirs."""
    assert ChatTemplate(templates.SILENT_SYSTEM).render([SYSTEM, USER]) == "user: Be brief.\n\nHi"


def test_turns_are_merged_where_a_template_insists_on_alternation() -> None:
    """Two user messages in a row become one rather than an error."""
    text = ChatTemplate(templates.MISTRAL).render([SYSTEM, USER, Message(role="user", content="there")])
    assert text == "[INST]Be brief.\n\nHi\n\nthere[/INST]"


def test_thinking_beside_calls_is_left_out_where_it_is_refused() -> None:
    """A history that the template refuses for its thinking is rendered without."""
    message = Message(role="assistant", content="Wait.", thinking="hm", tool_calls=CALL.tool_calls)
    assert "Wait." in ChatTemplate(templates.HARMONY).render([USER, message, RESULT])


def test_a_chat_no_template_takes_is_the_clients_error() -> None:
    """When every way is refused, the first refusal is what the client reads."""
    with pytest.raises(BadRequest, match="must alternate"):
        ChatTemplate(templates.MISTRAL).render([Message(role="assistant", content="a"), USER])


def test_developer_is_system_where_unknown() -> None:
    """The developer role becomes system, unless the template knows it."""
    message = Message(role="developer", content="x")
    assert ChatTemplate("{{ messages[0].role }}{{ messages[0].content }}").render([message, USER]) == "systemx"
    known = ChatTemplate("{# developer #}{{ messages[0].role }}{{ messages[0].content }}{{ messages[1].role }}")
    assert known.render([message, USER]).startswith("developerx")


@pytest.mark.parametrize(
    ("think", "expected"),
    [(None, "--"), (True, "True-"), (False, "False-"), ("high", "True-high")],
)
def test_thinking_is_switched_by_the_names_templates_read(think: bool | str | None, expected: str) -> None:
    """A bool switches thinking, a string is an effort as well, None leaves the template alone."""
    source = "{{ enable_thinking if enable_thinking is defined else '-' }}-{{ reasoning_effort }}"
    assert ChatTemplate(source).render([USER], think=think) == expected


def test_the_last_message_can_be_continued() -> None:
    """Everything after the assistant's last words is cut off, white space in them kept."""
    text = ChatTemplate(templates.QWEN3).render(
        [USER, Message(role="assistant", content="Once upon ")], continue_final=True
    )
    assert text.endswith("<|im_start|>assistant\nOnce upon ")


def test_only_the_assistant_can_be_continued() -> None:
    """To continue a user's message is refused."""
    with pytest.raises(BadRequest, match="continue"):
        ChatTemplate(templates.QWEN3).render([USER], continue_final=True)


def test_no_messages_are_refused() -> None:
    """An empty list is the client's error, not an index error of the template."""
    with pytest.raises(BadRequest, match="no messages"):
        ChatTemplate(templates.QWEN3).render([])


def test_a_model_without_template_gets_one_of_its_architecture() -> None:
    """ChatML where nothing better is known; Gemma's turns for Gemma."""
    assert ChatTemplate.from_metadata({}).render([USER]).startswith("<|im_start|>user\nHi<|im_end|>")
    gemma = ChatTemplate.from_metadata({"general.architecture": "gemma2"})
    assert "<start_of_turn>model" in gemma.render([USER])


@pytest.mark.parametrize("source", [builtin.CHATML, builtin.PHI3, builtin.COMMAND_R, builtin.GEMMA])
def test_built_in_templates_show_every_word(source: str) -> None:
    """Each built-in template renders system, user and assistant messages."""
    text = ChatTemplate(source).render([SYSTEM, USER, Message(role="assistant", content="Yes."), USER])
    assert all(word in text for word in ("Be brief.", "Hi", "Yes."))


def test_a_tool_template_is_taken_for_tools() -> None:
    """A file with a template named tool_use uses it when there are tools."""
    metadata = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "with tools"}
    assert ChatTemplate.from_metadata(metadata).render([USER]) == "plain"
    assert ChatTemplate.from_metadata(metadata, tools=True).render([USER]) == "with tools"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (templates.QWEN3, {"tools", "thinking"}),
        (templates.LLAMA3, {"tools"}),
        (templates.MISTRAL, {"tools"}),
        (templates.HARMONY, {"thinking"}),
        (builtin.CHATML, set()),
        (builtin.GEMMA, set()),
        ("{# tools #}{{ messages[0].content }}", set()),
        ("{% for tools in (", set()),
    ],
)
def test_capabilities_are_what_the_template_shows(source: str, expected: set[str]) -> None:
    """Tools count when a tool shows up in the prompt, thinking when its marks are there."""
    assert capabilities(source) == expected
