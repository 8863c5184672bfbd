"""What a model writes becomes text, thinking and calls, in each family's own notation."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm.server.chat.formats import ChatFormat
from akashllm.server.chat.harmony import HarmonyParser
from akashllm.server.chat.pieces import join
from akashllm.server.chat.stream import SPACE, StreamParser
from akashllm.server.domain import Tool
from tests.chat.templates import SIGNS

CITY = Tool(
    name="get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["c", "f"]},
            "tags": {"type": "array"},
            "note": {"type": ["string", "null"]},
        },
    },
)
ADD = Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
TOOLS = (CITY, ADD)
HARMONY_CALL = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"


def form(family: str) -> ChatFormat:
    """The format of a template with the signs of that family."""
    return ChatFormat.detect(SIGNS[family])


def parse(
    family: str, text: str, *, tools: tuple[Tool, ...] = TOOLS, tail: str = "", cut: list[int] | None = None
) -> list[tuple[str, ...]]:
    """Kind and content of each piece, calls as name and arguments; fed in parts of the sizes in `cut`."""
    parser = form(family).parser(tools=tools, prompt_tail=tail, rng=random.Random(1))
    pieces = []
    at = 0
    for size in cut or []:
        pieces += parser.feed(text[at : at + size])
        at += size
    pieces += [*parser.feed(text[at:]), *parser.end()]
    return [
        (piece.kind, piece.text) if piece.call is None else ("call", piece.call.name, piece.call.arguments)
        for piece in join(pieces)
    ]


ONE = ("call", "add", '{"a": 1}')
PARIS = ("call", "get_weather", '{"city": "Paris", "days": 2}')

CASES = [
    (
        "hermes",
        'Hi.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        [("text", "Hi."), ONE],
    ),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' * 2, [ONE, ONE]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call> ok', [ONE, ("text", "ok")]),
    ("hermes", '<tool_call>{"name": "add"}', [("call", "add", "{}")]),
    ("hermes", '<tool_call>[{"name": "add", "arguments": {"a": 1}}]</tool_call>', [ONE]),
    ("hermes", '<tool_call>{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}', [ONE]),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call>\\"{"}}</tool_call>',
        [("call", "get_weather", '{"city": "</tool_call>\\"{"}')],
    ),
    ("hermes", "<think>\nLet me see.\n</think>\n\nYes.", [("thinking", "Let me see."), ("text", "Yes.")]),
    ("hermes", "\n<think>\n\n</think>\n\nYes.", [("text", "Yes.")]),
    ("hermes", "<think>no end", [("thinking", "no end")]),
    ("generic", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', [ONE]),
    ("llama3", '{"name": "add", "parameters": {"a": 1}}', [ONE]),
    ("llama3", '<|python_tag|>{"name": "add", "parameters": {"a": 1}}<|eom_id|>', [ONE]),
    (
        "llama3",
        ' {"type": "function", "name": "add", "parameters": {"a": 1}}; {"name": "add"}',
        [ONE, ("call", "add", "{}")],
    ),
    ("llama3", '{"answer": {"name": "add"}}', [("text", '{"answer": {"name": "add"}}')]),
    ("llama3", '{"name": "Bob", "age": 5}', [("text", '{"name": "Bob", "age": 5}')]),
    ("llama3", "<|python_tag|>print(1)", [("text", "<|python_tag|>print(1)")]),
    ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]', [ONE]),
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}', [ONE]),
    (
        "mistral-args",
        'Well[TOOL_CALLS]add[CALL_ID]abc[ARGS]{"a": 1}[TOOL_CALLS]add{"a": 1}',
        [("text", "Well"), ONE, ONE],
    ),
    ("mistral-args", "[THINK]Hm.[/THINK]Yes.", [("thinking", "Hm."), ("text", "Yes.")]),
    (
        "deepseek",
        "<think>a</think>b<｜tool▁calls▁begin｜>"
        + '<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>\n' * 2
        + "<｜tool▁calls▁end｜>",
        [("thinking", "a"), ("text", "b"), ONE, ONE],
    ),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>',
        [ONE],
    ),
    (
        "kimi",
        (
            '<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}'
            "<|tool_call_end|><|tool_calls_section_end|>"
        ),
        [ONE],
    ),
    (
        "command",
        (
            '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n {"tool_call_id": "0", "tool_name":"add", '
            '"parameters": {"a": 1}}\n]<|END_ACTION|>'
        ),
        [("thinking", "Hm."), ONE],
    ),
    ("command", "<|START_RESPONSE|>Hello.<|END_RESPONSE|>", [("text", "Hello.")]),
    ("phi4", '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>', [ONE]),
    ("granite3", '<|tool_call|>[{"arguments": {"a": 1}, "name": "add"}]', [ONE]),
    ("nemotron", '<TOOLCALL>[{"name": "add", "arguments": {"a": 1}}]</TOOLCALL>', [ONE]),
    ("functools", 'functools[{"name": "add", "arguments": {"a": 1}}]', [ONE]),
    (
        "qwen3-coder",
        (
            "Ok.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n"
            "</parameter>\n</function>\n</tool_call>\nBye."
        ),
        [("text", "Ok."), PARIS, ("text", "Bye.")],
    ),
    ("qwen3-coder", "<function=add>\n<parameter=a>\n1\n</parameter>\n</function>", [ONE]),
    ("qwen3-coder", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', [ONE]),
    (
        "qwen3-coder",
        "Mark it <tool_call> so: <tool_call>\n<function=add>\n</function>\n</tool_call>",
        [("text", "Mark it <tool_call> so:"), ("call", "add", "{}")],
    ),
    (
        "seed",
        "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
        [ONE],
    ),
    (
        "minimax",
        (
            '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n'
            '<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n</minimax:tool_call>'
        ),
        [ONE, ONE],
    ),
    (
        "glm",
        (
            "<think>x</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
        ),
        [("thinking", "x"), PARIS],
    ),
    (
        "gemma4",
        '<|channel>thought\nHm.<channel|><|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>',
        [("thinking", "Hm."), PARIS],
    ),
    (
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>a"b, c:d<|"|>,tags:[<|"|>x<|"|>,{k:1}]}<tool_call|>',
        [("call", "get_weather", '{"city": "a\\"b, c:d", "tags": ["x", {"k": 1}]}')],
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" + HARMONY_CALL + '{"a": 1}<|call|>',
        [("thinking", "Hm."), ONE],
    ),
    ("harmony", "<|channel|>final<|message|>Yes.<|return|>", [("text", "Yes.")]),
    ("harmony", " to=functions.add<|channel|>commentary json<|message|>" + '{"a": 1}', [ONE]),
    ("harmony", "Just text <|", [("text", "Just text <|")]),
    ("harmony", "<|channel|>" + "x" * 600, [("text", "<|channel|>" + "x" * 600)]),
    ("harmony", HARMONY_CALL + '{"a": ', [("text", HARMONY_CALL + '{"a": ')]),
]

NO_CALLS = [
    ("hermes", "<tool_call>"),
    ("hermes", "A <tool_call> is a mark."),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": ["add"], "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": ' + "[" * 1000),
    ("hermes", '<tool_call>[{"name": "add"}, 5]</tool_call>'),
    ("mistral", "[TOOL_CALLS] nothing"),
    ("mistral", "[TOOL_CALLS]" + "n" * 600 + "{}"),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
    ("qwen3-coder", "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
    ("qwen3-coder", "<tool_call> words <function=add>\n<parameter=a"),
    ("glm", "<tool_call>add words\n</tool_call>"),
    ("glm", "<tool_call>add\n<arg_key>a</arg_key>words<arg_value>1</arg_value></tool_call>"),
    ("minimax", '<minimax:tool_call>words<invoke name="add"></invoke></minimax:tool_call>'),
    ("gemma4", "<|tool_call>call:add{a:}<tool_call|>"),
    ("harmony", "<|channel|>commentary to=functions.unknown<|message|>{}"),
]


@pytest.mark.parametrize("family", SIGNS)
def test_a_family_is_known_by_its_markers(family: str) -> None:
    """Each family is told from its template, the specific before the general."""
    assert form(family).name == family


@pytest.mark.parametrize(("family", "text", "expected"), CASES)
def test_an_output_is_read(family: str, text: str, expected: list[tuple[str, ...]]) -> None:
    """Calls come out whole with their arguments, thinking apart from text, markers gone; also byte by byte."""
    assert parse(family, text) == expected
    assert parse(family, text, cut=[1] * len(text)) == expected


@pytest.mark.parametrize(("family", "text"), NO_CALLS)
def test_what_is_no_call_is_text(family: str, text: str) -> None:
    """A broken call, or one of a tool nobody gave, comes out exactly as it was written."""
    assert parse(family, text) == [("text", text)]
    assert parse(family, text, cut=[1] * len(text)) == [("text", text)]


@pytest.mark.parametrize(("family", "text", "expected"), [case for case in CASES if ("call" in str(case[2]))])
def test_without_tools_calls_are_text(family: str, text: str, expected: list[tuple[str, ...]]) -> None:
    """A request that gave no tools gets no calls."""
    assert not any(kind == "call" for kind, *_ in parse(family, text, tools=()))


@pytest.mark.parametrize("tail", ["<|im_start|>assistant\n<think>\n", "<think>", "<think>\n\n "])
def test_thinking_that_the_prompt_opened_goes_on(tail: str) -> None:
    """An answer to a prompt that ends inside thinking begins as thinking."""
    assert parse("hermes", "Hm.\n</think>\n\nYes.", tail=tail) == [("thinking", "Hm."), ("text", "Yes.")]
    assert parse("hermes", "Yes.", tail="<think>\n\n</think>\n\n") == [("text", "Yes.")]


def test_a_harmony_prompt_may_have_opened_a_channel() -> None:
    """A message whose header is in the prompt goes on in its channel."""
    tail = "<|start|>assistant<|channel|>analysis<|message|>"
    assert parse("harmony", "Hm.<|end|>", tail=tail) == [("thinking", "Hm.")]


def test_thinking_is_only_at_the_beginning() -> None:
    """A model that speaks about the marks later on is not thinking."""
    text = "The tag <think> opens it and </think> closes it."
    assert parse("hermes", text) == [("text", text)]


def test_text_flows_without_delay() -> None:
    """Without tools and thinking nothing is held back; with tools only what may become a marker."""
    parser = form("phi4").parser()
    assert [piece.text for piece in parser.feed("a <|tool_call|> ")] == ["a <|tool_call|> "]
    parser = form("hermes").parser(tools=TOOLS)
    assert [piece.text for piece in parser.feed("Sure, ")] == ["Sure,"]
    assert [piece.text for piece in parser.feed("a < b <tool")] == [" a < b"]
    assert [piece.text for piece in parser.feed("box")] == [" <toolbox"]


def test_ids_are_ollamas() -> None:
    """Each call gets an id of its own: call_ and eight letters or digits."""
    parser = form("hermes").parser(tools=TOOLS, rng=random.Random(7))
    pieces = parser.feed('<tool_call>{"name": "add"}</tool_call>' * 3)
    ids = [piece.call.id for piece in pieces if piece.call]
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"call_[a-z0-9]{8}", one) for one in ids)


def test_arguments_can_always_be_encoded() -> None:
    """Half a surrogate pair stays an escape, so that no answer fails on its way out."""
    [(_, _, arguments)] = parse("hermes", '<tool_call>{"name": "add", "arguments": {"x": "\\ud800é"}}')
    assert json.loads(arguments.encode()) == {"x": "\ud800é"}


def test_values_between_tags_follow_the_schema() -> None:
    """Strings stay strings though they look like numbers; the rest is JSON, and text where it is not."""
    fields = {
        "city": "12",
        "days": "12",
        "unit": "c",
        "tags": "[1]",
        "note": "null",
        "other": "{x",
        "more": "1.5",
    }
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in fields.items())
    [(_, _, arguments)] = parse("qwen3-coder", f"<function=get_weather>\n{body}</function>")
    assert json.loads(arguments) == {
        "city": "12",
        "days": 12,
        "unit": "c",
        "tags": [1],
        "note": None,
        "other": "{x",
        "more": 1.5,
    }


@pytest.mark.parametrize("family", SIGNS)
def test_special_tokens_the_parser_needs_are_listed(family: str) -> None:
    """Every marker in the family's own examples is among `markers`, so that the engine shows it."""
    one = form(family)
    texts = [text for name, text, _ in CASES if name == family]
    tokens = {token for text in texts for token in re.findall(r"<[|｜][^|｜<>]+[|｜]>|\[[A-Z_]+\]", text)}
    assert tokens <= one.markers | {"<|eom_id|>"}


WORDS = sorted(
    {part for _, text, _ in CASES for part in re.findall(r"<[^<>\s]{1,40}>|\[/?[A-Z_]+\]", text)}
    | {
        "add",
        "{",
        "}",
        '{"name": "add"',
        ', "arguments": {"a": 1}}',
        '"',
        "\\",
        " ",
        "\n",
        "x",
        "[",
        "]",
        "to=functions.add",
    }
    | {
        " " * 70,
        "functools",
        "```",
        ";",
        ":",
        "a",
        "<",
        "<|",
        "{}",
        '{"name": "add"}',
        "\n<function=add>\n</function>\n",
    }
)
OUTPUT = st.lists(st.sampled_from(WORDS), max_size=25).map("".join)


@settings(max_examples=400)
@given(family=st.sampled_from(sorted(SIGNS)), text=OUTPUT, data=st.data())
def test_parts_do_not_matter(family: str, text: str, data: st.DataObject) -> None:
    """However an output is cut into deltas, the same pieces come out."""
    cut = data.draw(st.lists(st.integers(1, 9), max_size=60))
    tools = data.draw(st.sampled_from([(), TOOLS]))
    tail = data.draw(st.sampled_from(["", "<think>\n"]))
    whole = parse(family, text, tools=tools, tail=tail)
    assert parse(family, text, tools=tools, tail=tail, cut=cut) == whole
    assert parse(family, text, tools=tools, tail=tail, cut=[1] * len(text)) == whole


@settings(max_examples=300)
@given(family=st.sampled_from(sorted(set(SIGNS) - {"harmony", "command"})), text=OUTPUT, data=st.data())
def test_nothing_but_markers_is_lost(family: str, text: str, data: st.DataObject) -> None:
    """An output that has no calls comes out whole but for marks of thinking and white space around them."""
    one = form(family)
    pieces = parse(family, text, tools=data.draw(st.sampled_from([(), (Tool(name="other"),)])))
    shown = "".join(content for _, content, *_ in pieces)
    expected = text.lstrip()
    if one.thinking and expected.startswith(one.thinking.open) and len(text) - len(expected) <= SPACE:
        expected = expected.removeprefix(one.thinking.open).replace(one.thinking.close, "", 1)
    assert "".join(shown.split()) == "".join(expected.split())


HOSTILE = [
    "<tool_call>",
    "<tool_call>{",
    '<tool_call>{"',
    '<tool_call>{"a":"\\',
    "<tool_call>[",
    '<tool_call>{"name":"add"}',
    "<function=add><parameter=a>",
    "<arg_key>",
    '<invoke name="add"><parameter name="a">',
    "<|tool_call>call:add{",
    "[TOOL_CALLS]",
    "[TOOL_CALLS]a",
    "<｜tool▁calls▁begin｜>",
    "<|channel|>",
    HARMONY_CALL,
    "<think>",
    "{",
    '{"name',
    " ",
    " <",
    "\n",
    "<|",
    "a",
]


@pytest.mark.parametrize("depth", [300, 700, 940, 980, 2000])
def test_an_argument_nested_beyond_reason_is_text(depth: int) -> None:
    """What is nested deeper than readers of JSON go is an argument of text, and nothing breaks of it."""
    value = "[" * depth + "]" * depth
    inner = f"<function=get_weather>\n<parameter=tags>\n{value}\n</parameter>\n</function>"
    text = f"<tool_call>\n{inner}\n</tool_call>"
    assert parse("qwen3-coder", text) == [("call", "get_weather", json.dumps({"tags": value}))]
    shallow = text.replace(value, "[[1]]")
    assert parse("qwen3-coder", shallow) == [("call", "get_weather", '{"tags": [[1]]}')]


FAMILIES = ("hermes", "qwen3-coder", "glm", "mistral", "deepseek", "llama3", "gemma4", "harmony", "minimax")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, under "characters", what every step of a parser has before it: the work it may do."""
    counted: Counter[str] = Counter()

    def counting(step: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def counted_step(parser: Any) -> bool:
            counted["characters"] += len(parser._buffer) + len(parser._header or "") + 1
            return step(parser)

        return counted_step

    stream = ("_start", "_think_lead", "_thinking", "_answer_lead", "_answer", "_text", "_bare", "_call_header")
    for name in (*stream, "_call_json", "_span", "_after"):
        monkeypatch.setattr(StreamParser, name, counting(getattr(StreamParser, name)))
    for name in ("_in_header", "_in_body"):
        monkeypatch.setattr(HarmonyParser, name, counting(getattr(HarmonyParser, name)))
    return counted


@pytest.mark.parametrize("text", HOSTILE)
def test_work_is_linear(text: str, work: Counter[str]) -> None:
    """Any beginning repeated costs per character what it cost before, fed in one part or in many small ones."""
    for family in FAMILIES:
        for size in (7, 1 << 20):
            costs = []
            for length in (1 << 13, 1 << 15):
                work.clear()
                parse(family, text * (length // len(text)), cut=[size] * (length // size + 1))
                costs.append(work["characters"])
            assert costs[1] < 5 * costs[0] + 20_000, (family, size, costs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["<tool_call>", '<tool_call>{"', "[TOOL_CALLS]a", "<function=a>", " <"])
def test_a_mebibyte_comes_through(family: str, text: str) -> None:
    """A mebibyte that begins calls over and over comes out whole."""
    hostile = text * ((1 << 20) // len(text))
    pieces = parse(family, hostile)
    assert "".join("".join(content for _, content in pieces).split()) == "".join(hostile.split())
