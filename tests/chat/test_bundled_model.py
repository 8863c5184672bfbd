"""Template, segments, formats and grammars on the bundled model's own vocabulary and weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_cpp import Llama, LogitsProcessorList
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from akashllm.errors import BadRequest
from akashllm.server.chat.capabilities import capabilities
from akashllm.server.chat.formats import ChatFormat
from akashllm.server.chat.pieces import Piece, join
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import Constraint, Message, Tool, ToolChoice
from tests.chat.conftest import Vocabulary
from tests.chat.templates import SIGNS

WEATHER = Tool(
    name="get_weather",
    description="Get the current weather for a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
ADD = Tool(
    name="add",
    description="Add two numbers",
    parameters={
        "$defs": {"number": {"type": "integer"}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"enum": ["x", "y"]}},
        "required": ["a"],
    },
)
REQUIRED = ToolChoice(mode="required")


@pytest.fixture(scope="session")
def tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """Llguidance's view of the vocabulary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # llguidance calls llama.cpp by an old name
        return lltokenizer_from_vocab(vocabulary.vocab)


@pytest.fixture(scope="session")
def model() -> Iterator[Llama]:
    """The model itself, on one thread."""
    one = Llama(str(files("akashllm.models") / "tiny-q8_0.gguf"), n_ctx=1024, n_threads=1, verbose=False)
    yield one
    one.close()


@settings(max_examples=150)
@given(
    st.lists(
        st.text(max_size=40) | st.sampled_from(["a < b", "<|", "im_start|>", " \n", "tool_call>"]), min_size=1
    )
)
def test_ordinary_text_keeps_its_tokens(vocabulary: Vocabulary, contents: list[str]) -> None:
    """Texts without control tokens are tokenised exactly as the whole prompt would be."""
    if any(token in content for content in contents for token in vocabulary.special):
        return
    template = ChatTemplate(vocabulary.template, control=vocabulary.special)
    messages = [Message(role="user", content=content.replace("\x00", "")) for content in contents]
    [segment] = template.render_segments(messages)
    assert segment.special
    plain = "".join(f"<|im_start|>user\n{message.content}<|im_end|>\n" for message in messages)
    assert vocabulary.tokenize(segment.text) == vocabulary.tokenize(plain + "<|im_start|>assistant\n")


def test_injected_tokens_are_not_tokens(vocabulary: Vocabulary) -> None:
    """Control tokens in a user's words become many plain tokens; the template's own stay what they are."""
    content = "".join(vocabulary.special) * 2
    template = ChatTemplate(vocabulary.template, control=vocabulary.special)
    segments = template.render_segments([Message(role="user", content=content)])
    ids = [one for part in segments for one in vocabulary.tokenize(part.text, special=part.special)]
    special = [one for one in ids if one in vocabulary.special.values()]
    names = ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert special == [vocabulary.special[name] for name in names]


def test_the_bundled_template_is_hermes_with_thinking(vocabulary: Vocabulary) -> None:
    """The bundled model can call tools and think, and its format is known."""
    assert capabilities(vocabulary.template) == {"tools", "thinking"}
    one = ChatFormat.detect(vocabulary.template)
    assert (one.name, one.thinking and one.thinking.close) == ("hermes", "</think>")


EXAMPLES = {
    "harmony": "<|channel|>commentary to=functions.add <|constrain|>json<|message|>@",
    "minimax": '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n'
    "</minimax:tool_call>",
    "seed": "<seed:tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</seed:tool_call>",
    "glm": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "qwen3-coder": "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add"
    "\n```json\n@\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>@"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "mistral-args": "[TOOL_CALLS]add[ARGS]@",
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": @}]',
    "command": '<|START_ACTION|>[\n    {"tool_name": "add", "parameters": @}\n]<|END_ACTION|>',
    "gemma4": "<|tool_call>call:add@<tool_call|>",
    "nemotron": '<TOOLCALL>[{"name": "add", "arguments": @}]</TOOLCALL>',
    "phi4": '<|tool_call|>[{"name": "add", "arguments": @}]<|/tool_call|>',
    "granite3": '<|tool_call|>[{"name": "add", "arguments": @}]',
    "hermes": '<tool_call>\n{"name": "add", "arguments": @}\n</tool_call>',
    "llama3": '{"name": "add", "parameters": @}',
    "functools": 'functools[{"name": "add", "arguments": @}]',
    "generic": '<tool_call>{"name": "add", "arguments": @}</tool_call>',
}


def accepted(constraint: Constraint | None, text: str, vocabulary: Vocabulary, tokenizer: LLTokenizer) -> bool:
    """Whether the grammar is valid and accepts the text, token by token, as a whole answer."""
    assert constraint is not None
    grammar = LLMatcher.grammar_from_lark(constraint.value)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer)
    assert not failed, messages
    matcher = LLMatcher(tokenizer, grammar)
    tokens = vocabulary.tokenize(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())


def read(one: ChatFormat, text: str, tail: str = "") -> list[Piece]:
    """The pieces of a whole output."""
    parser = one.parser(tools=(WEATHER, ADD), prompt_tail=tail)
    return join([*parser.feed(text), *parser.end()])


@pytest.mark.parametrize("family", SIGNS)
def test_a_grammar_and_its_parser_agree(family: str, vocabulary: Vocabulary, tokenizer: LLTokenizer) -> None:
    """What a family's grammar accepts, its parser reads; arguments against the schema are refused."""
    one = ChatFormat.detect(SIGNS[family], vocabulary.special)
    constraint = one.constraint((WEATHER, ADD), REQUIRED)
    good = EXAMPLES[family].replace("@", '{"a": 1}')
    assert accepted(constraint, good, vocabulary, tokenizer)
    [piece] = read(one, good)
    assert piece.call is not None
    assert (piece.call.name, json.loads(piece.call.arguments)) == ("add", {"a": 1})
    bad = good.replace("1", '"one"')
    assert not accepted(constraint, bad, vocabulary, tokenizer)
    assert not accepted(constraint, "I would rather not.", vocabulary, tokenizer)
    named = one.constraint((WEATHER, ADD), ToolChoice(mode="named", name="get_weather"))
    assert not accepted(named, good, vocabulary, tokenizer)


def test_several_calls_only_when_allowed(vocabulary: Vocabulary, tokenizer: LLTokenizer) -> None:
    """`parallel_tool_calls` false and a named tool mean one call."""
    one = ChatFormat.detect(vocabulary.template, vocabulary.special)
    twice = "\n".join(['<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'] * 2)
    assert accepted(one.constraint((ADD,), REQUIRED), twice, vocabulary, tokenizer)
    assert not accepted(one.constraint((ADD,), REQUIRED, parallel=False), twice, vocabulary, tokenizer)
    named = ToolChoice(mode="named", name="add")
    assert not accepted(one.constraint((ADD,), named), twice, vocabulary, tokenizer)


def test_without_a_demand_there_is_no_constraint() -> None:
    """Auto and none leave the model free; a named tool that is not there is refused."""
    one = ChatFormat.detect(SIGNS["hermes"])
    assert one.constraint((ADD,), ToolChoice()) is None
    assert one.constraint((ADD,), ToolChoice(mode="none")) is None
    with pytest.raises(BadRequest, match="nope"):
        one.constraint((ADD,), ToolChoice(mode="named", name="nope"))
    with pytest.raises(BadRequest, match="asks for a tool"):
        one.constraint((), REQUIRED)


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (Constraint(kind="json_object"), '{"a": [1, "x"]}'),
        (Constraint(kind="json_schema", value='{"type": "object", "required": ["a"]}'), '{"a": 1}'),
        (Constraint(kind="regex", value="a/b\\d\n|c"), "a/b7\n"),
        (Constraint(kind="lark", value='start: "a" rest\nrest: B | "{" B "}"\nB: /b+/'), "a{bb}"),
    ],
)
def test_a_shape_applies_after_thinking(
    constraint: Constraint, answer: str, vocabulary: Vocabulary, tokenizer: LLTokenizer
) -> None:
    """Thinking is free text, the answer after it has the shape; nobody must think who did not begin."""
    one = ChatFormat.detect(vocabulary.template, vocabulary.special)
    inside = one.wrap_after_thinking(constraint, prompt_tail="<think>\n")
    assert accepted(inside, f"I {{think</think>\n\n{answer}", vocabulary, tokenizer)
    assert not accepted(inside, answer, vocabulary, tokenizer)
    maybe = one.wrap_after_thinking(constraint, think=True)
    assert accepted(maybe, f"<think>\nHm.\n</think>\n\n{answer}", vocabulary, tokenizer)
    assert accepted(maybe, answer, vocabulary, tokenizer)
    assert not accepted(maybe, f"Well, {answer}", vocabulary, tokenizer)
    plain = ChatFormat.detect(SIGNS["mistral-args"], vocabulary.special)
    wrapped = plain.wrap_after_thinking(constraint, prompt_tail="[THINK]")
    assert accepted(wrapped, f"I [think[/THINK]{answer}", vocabulary, tokenizer)
    assert one.wrap_after_thinking(constraint, think=False) == constraint
    harmony = ChatFormat.detect(SIGNS["harmony"]).wrap_after_thinking(constraint)
    final = f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{answer}"
    assert accepted(harmony, final, vocabulary, tokenizer)


def test_a_gbnf_grammar_is_not_wrapped() -> None:
    """GBNF has to be turned into Lark first; silently dropping it would break the promise of shape."""
    one = ChatFormat.detect(SIGNS["hermes"])
    with pytest.raises(BadRequest, match="GBNF"):
        one.wrap_after_thinking(Constraint(kind="gbnf", value='root ::= "a"'), think=True)


def answer(
    model: Llama, vocabulary: Vocabulary, *, constraint: Constraint | None = None, **asked: Any
) -> list[Piece]:
    """The pieces of the model's greedy answer."""
    one = ChatFormat.detect(vocabulary.template, vocabulary.special)
    template = ChatTemplate(vocabulary.template, control=vocabulary.special)
    tokenizer = asked.pop("tokenizer", None)
    segments = template.render_segments(**asked)
    tail = segments[-1].text
    prompt = [token for part in segments for token in vocabulary.tokenize(part.text, special=part.special)]
    matcher = None
    if constraint is not None:
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(constraint.value))

    def masked(_: Any, scores: Any) -> Any:
        if matcher is not None:
            mask = matcher.compute_bitmask()
            for token in range(len(scores)):
                if not mask[token >> 3] >> (token & 7) & 1:
                    scores[token] = float("-inf")
        return scores

    parser = one.parser(tools=asked.get("tools", ()), prompt_tail=tail)
    pieces: list[Piece] = []
    ends = {model.token_eos(), vocabulary.special["<|endoftext|>"]}
    shown = {vocabulary.special[name] for name in one.markers if name in vocabulary.special}
    for count, token in enumerate(
        model.generate(prompt, temp=0.0, repeat_penalty=1.0, logits_processor=LogitsProcessorList([masked]))
    ):
        if token in ends or count > 100:
            break
        if matcher is not None:
            matcher.consume_token(token)
        pieces += parser.feed(model.detokenize([token], special=token in shown).decode())
    return join([*pieces, *parser.end()])


@pytest.mark.engine
def test_the_model_calls_a_tool(model: Llama, vocabulary: Vocabulary) -> None:
    """Asked about the weather with a tool at hand, the model calls it for the right city."""
    messages = [Message(role="user", content="What is the weather in Paris?")]
    [piece] = answer(model, vocabulary, messages=messages, tools=[WEATHER])
    assert piece.call is not None
    assert (piece.call.name, piece.call.arguments) == ("get_weather", '{"city": "Paris"}')
    call = Message(role="assistant", tool_calls=(piece.call,))
    result = Message(role="tool", content='{"temperature": 20, "sky": "clear"}', tool_call_id=piece.call.id)
    [piece] = answer(model, vocabulary, messages=[*messages, call, result], tools=[WEATHER])
    assert "20" in piece.text


@pytest.mark.engine
def test_the_model_thinks(model: Llama, vocabulary: Vocabulary) -> None:
    """With thinking switched on, thinking and answer come apart."""
    messages = [Message(role="user", content="What is the capital of Japan?")]
    thinking, text = answer(model, vocabulary, messages=messages, think=True)
    assert (thinking.kind, text.kind) == ("thinking", "text")
    assert "Tokyo" in text.text
    assert [piece.kind for piece in answer(model, vocabulary, messages=messages)] == ["text"]


@pytest.mark.engine
def test_the_model_can_be_made_to_call(model: Llama, vocabulary: Vocabulary, tokenizer: LLTokenizer) -> None:
    """A required call comes, well-formed, though the question asks for none."""
    messages = [Message(role="user", content="Tell me a story.")]
    one = ChatFormat.detect(vocabulary.template, vocabulary.special)
    constraint = one.constraint((WEATHER,), REQUIRED, parallel=False)
    asked = {"messages": messages, "tools": [WEATHER], "tokenizer": tokenizer}
    [piece] = answer(model, vocabulary, constraint=constraint, **asked)
    assert piece.call is not None
    assert set(json.loads(piece.call.arguments)) == {"city"}
