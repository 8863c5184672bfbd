"""Modelfiles are read as Ollama reads them, and written so that they can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.errors import BadRequest
from akashllm.server.models.modelfile import Command, Modelfile
from akashllm.server.models.parameters import KINDS
from akashllm.server.wire.ollama.options import OPTIONS

BLOB = "/usr/share/ollama/.ollama/models/blobs/sha256-" + "4f" * 32

LONG = '''\
# A comment
from llama3.1
 PARAMETER temperature 0.5
Parameter stop "<|im_end|>"
parameter stop <|im_start|>
parameter num_ctx 4096
parameter penalize_newline false

TEMPLATE """{{ if .System }}{{ .System }}
{{ end }}say "hi" {{ .Prompt }}"""
SYSTEM "
one
two
"
MESSAGE user hello: there
MESSAGE assistant """a
b"""
LICENSE first
LICENSE second
ADAPTER ./lora.gguf
RENDERER qwen3
PARSER qwen3
REQUIRES 0.14.0
DRAFT ./draft.gguf
'''


def test_every_command_is_read() -> None:
    """Names in any case, bare and quoted values, repeated commands, comments and blank lines."""
    found = Modelfile.read(LONG)

    assert found.last("from") == "llama3.1"
    assert found.parameters == {
        "temperature": 0.5,
        "stop": ["<|im_end|>", "<|im_start|>"],
        "num_ctx": 4096,
        "penalize_newline": False,
    }
    assert found.last("template") == '{{ if .System }}{{ .System }}\n{{ end }}say "hi" {{ .Prompt }}'
    assert found.last("system") == "\none\ntwo\n"
    assert found.messages == (("user", "hello: there"), ("assistant", "a\nb"))
    assert found.all("license") == ["first", "second"]
    assert [found.last(name) for name in ("adapter", "renderer", "parser", "requires", "draft")] == [
        "./lora.gguf",
        "qwen3",
        "qwen3",
        "0.14.0",
        "./draft.gguf",
    ]


def test_the_users_modelfile_is_read() -> None:
    """The one line of the user's document names a blob by the path it has on the server."""
    assert Modelfile.read(f"FROM {BLOB}").commands == (Command("from", BLOB, "", 1),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_are_understood(encoding: str) -> None:
    """A Modelfile saved by an editor of Windows is read all the same."""
    text = "FROM tiny\r\nSYSTEM \u732a\u516b\u6212\r\n"
    data = text.encode(encoding)
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}

    assert Modelfile.read(marks.get(encoding, b"") + data).last("system") == "\u732a\u516b\u6212"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "no FROM line"),
        ("SYSTEM you are", "no FROM line"),
        ("# FROM tiny", "no FROM line"),
        ("FROM tiny\nINVALID x", '(line 2): command must be one of "from", "license", "template", "system"'),
        ("FROM tiny\n\nFROM", "(line 3): command must be one of"),
        (
            "FROM tiny\nMESSAGE robot hi",
            '(line 2): message role must be one of "system", "user", or "assistant"',
        ),
        ("FROM tiny\nMESSAGE USER hi", "(line 2): message role must be one of"),
        ("FROM tiny\nMESSAGE user", "unexpected EOF"),
        ("FROM tiny\nPARAMETER stop", "unexpected EOF"),
        ('FROM tiny\nSYSTEM """never\nclosed', "unexpected EOF: the quote on line 2 is never closed"),
        ('FROM tiny\nSYSTEM "never closed', "unexpected EOF: the quote on line 2 is never closed"),
        ('FROM tiny\nSYSTEM """', "unexpected EOF"),
        ("FROM tiny\nREQUIRES soon", "(line 2): requires must be a valid semver (e.g. 0.14.0)"),
    ],
)
def test_faults_are_told_with_their_line(source: str, words: str) -> None:
    """What is no Modelfile is refused in Ollama's words."""
    with pytest.raises(BadRequest) as caught:
        Modelfile.read(source)

    assert caught.value.message.startswith(words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PARAMETER tempo 1", "(line 2): unknown parameter 'tempo'"),
        ("PARAMETER temperature hot", "(line 2): invalid float value [hot]"),
        ("PARAMETER top_k 1.5", "(line 2): invalid int value [1.5]"),
        ("PARAMETER use_mmap maybe", "(line 2): invalid bool value [maybe]"),
        ("PARAMETER num_ctx 99999999999999999999", "(line 2): invalid int value [99999999999999999999]"),
    ],
)
def test_parameters_are_typed(line: str, words: str) -> None:
    """Unknown names and values of another type are refused; deprecated ones are read and forgotten."""
    with pytest.raises(BadRequest) as caught:
        _ = Modelfile.read(f"FROM tiny\n{line}").parameters

    assert caught.value.message == words
    assert Modelfile.read("FROM tiny\nPARAMETER low_vram true\nPARAMETER tfs_z 1").parameters == {}


def test_parameters_and_options_are_the_same() -> None:
    """What a request may set, a Modelfile may set, with the same type."""
    assert dict(KINDS) == {option.name: option.kind for option in OPTIONS}


_VALUES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufeff", include_characters='\n\t"'),
    max_size=30,
).filter(lambda text: not any(line.rstrip().endswith('"""') for line in text.splitlines()[:-1]))


@st.composite
def _commands(draw: st.DrawFn) -> Command:
    name = draw(
        st.sampled_from(["license", "template", "system", "adapter", "renderer", "message", "parameter"])
    )
    key = ""
    if name == "message":
        key = draw(st.sampled_from(["system", "user", "assistant"]))
    elif name == "parameter":
        key = "stop"
    return Command(name, draw(_VALUES), key)


@given(st.lists(_commands(), max_size=4))
def test_what_is_written_is_read_again(commands: list[Command]) -> None:
    """A Modelfile survives being written, whatever its values."""
    written = str(Modelfile((Command("from", "tiny"), *commands)))
    found = Modelfile.read(written).commands[1:]

    assert [(one.name, one.key, one.value) for one in found] == [(c.name, c.key, c.value) for c in commands]


@given(
    st.one_of(
        st.text(max_size=200), st.binary(max_size=200), st.text("FROM tiny\n\"'# \t\rMESSAGEuser", max_size=60)
    )
)
def test_anything_is_read_or_refused(source: str | bytes) -> None:
    """No text makes the reader fail in another way than by refusing it."""
    try:
        found = Modelfile.read(source)
    except BadRequest:
        return
    assert found.all("from")
