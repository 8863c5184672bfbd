"""Ollama's answers, byte for byte: order of fields, what is left out, how times are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from akashllm.errors import BadRequest, EngineDied
from akashllm.gguf import read_header
from akashllm.models import TINY
from akashllm.names import ModelName
from akashllm.server.domain import (
    Alternative,
    Delta,
    Done,
    Embeddings,
    Finish,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from akashllm.server.models.details import describe
from akashllm.server.models.identity import ModelFile
from akashllm.server.models.stored import StoredModel
from akashllm.server.wire.ollama import catalogue, responses, showing
from akashllm.server.wire.ollama.responses import Answer, timestamp

STAMP = "2026-11-21T06:56:56.758230384Z"
DONE = Done(
    usage=Usage(prompt_tokens=26, completion_tokens=290),
    timings=Timings(load=3, queue=2, prompt=325, decode=4709),
    context=(1, 2, 3),
)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is written at `STAMP` and 1,000 ns after its request came."""
    monkeypatch.setattr(responses, "timestamp", lambda: STAMP)
    monkeypatch.setattr("time.perf_counter_ns", lambda: 1000)


def test_a_generated_stream_reads_as_ollamas() -> None:
    """Deltas carry four fields, the last line the reason, the context and six figures, in this order."""
    answer = Answer("llama3", 0, chat=False)
    first = answer.delta(Delta(text="The", tokens=1))
    thought = answer.delta(Delta(thinking="Hm", tokens=1))
    answer.finish(Finish(reason="length"))

    assert first == b'{"model":"llama3","created_at":"%s","response":"The","done":false}\n' % STAMP.encode()
    assert thought == (
        b'{"model":"llama3","created_at":"%s","response":"","thinking":"Hm","done":false}\n' % STAMP.encode()
    )
    assert answer.last(DONE) == (
        b'{"model":"llama3","created_at":"%s","response":"","done":true,"done_reason":"length","context":[1,2,3],'
        b'"total_duration":1000,"load_duration":5,"prompt_eval_count":26,"prompt_eval_duration":325,'
        b'"eval_count":290,"eval_duration":4709}\n' % STAMP.encode()
    )


def test_a_chat_stream_reads_as_ollamas() -> None:
    """The text is in `message`; there is no context; a tool call is whole and ends with `stop`."""
    answer = Answer("llama3", 0, chat=True)
    first = answer.delta(Delta(text="The", tokens=1))
    call = answer.delta(Delta(tool_calls=(ToolCall(id="call_1", name="f", arguments='{"b":1, "a":2}'),)))
    answer.finish(Finish(reason="tool_calls"))

    assert first == (
        b'{"model":"llama3","created_at":"%s","message":{"role":"assistant","content":"The"},"done":false}\n'
        % STAMP.encode()
    )
    assert call == (
        b'{"model":"llama3","created_at":"%s","message":{"role":"assistant","content":"","tool_calls":'
        b'[{"id":"call_1","function":{"index":0,"name":"f","arguments":{"b":1,"a":2}}}]},"done":false}\n'
        % STAMP.encode()
    )
    assert answer.last(DONE) == (
        b'{"model":"llama3","created_at":"%s","message":{"role":"assistant","content":""},"done":true,'
        b'"done_reason":"stop","total_duration":1000,"load_duration":5,"prompt_eval_count":26,'
        b'"prompt_eval_duration":325,"eval_count":290,"eval_duration":4709}\n' % STAMP.encode()
    )


@pytest.mark.parametrize("chat", [False, True])
def test_one_object_says_what_the_stream_said(chat: bool) -> None:
    """Text, thinking and tool calls of the single object are those of the stream put together."""
    deltas = [
        Delta(thinking="Hm. "),
        Delta(thinking="Yes."),
        Delta(text="A\u2028"),
        Delta(text="\U0001f600"),
        Delta(tool_calls=(ToolCall(id="1", name="f", arguments="{}"),)),
        Delta(tool_calls=(ToolCall(id="2", name="g", arguments="{}"),)),
    ]
    streamed, single = Answer("m", 0, chat=chat), Answer("m", 0, chat=chat)
    lines = [json.loads(line) for line in map(streamed.delta, deltas)]
    for delta in deltas:
        single.add(delta)
    body = json.loads(single.whole(DONE))

    def text(line: dict[str, Any]) -> tuple[str, str]:
        part = line["message"] if chat else line
        return part["content" if chat else "response"], part.get("thinking", "")

    assert text(body) == ("A\u2028\U0001f600", "Hm. Yes.")
    assert tuple(map("".join, zip(*map(text, lines), strict=True))) == text(body)
    if chat:
        calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
        assert body["message"]["tool_calls"] == calls
        assert [call["function"]["index"] for call in calls] == [0, 1]


def test_nothing_is_sent_for_nothing() -> None:
    """A delta without text, thinking, calls or log probabilities is no line."""
    assert Answer("m", 0, chat=True).delta(Delta(tokens=1)) == b""


def test_zero_figures_are_left_out() -> None:
    """As Go's omitempty has it: no load time, no field."""
    line = json.loads(Answer("m", 1000, chat=True).last(Done(usage=Usage())))

    assert list(line) == ["model", "created_at", "message", "done", "done_reason"]


def test_log_probabilities_have_tokens_bytes_and_alternatives() -> None:
    """Bytes of half a character are given as they are; alternatives only where there are some."""
    half = TokenLogprob(
        token=7, data=b"\xe2\x82", logprob=-0.25, top=(Alternative(token=8, data=b"x", logprob=-1.5),)
    )
    line = json.loads(Answer("m", 0, chat=False).delta(Delta(logprobs=(half,))))
    bare = json.loads(
        Answer("m", 0, chat=False).delta(Delta(logprobs=(TokenLogprob(token=1, data=b"a", logprob=-1.0),)))
    )

    assert line["logprobs"] == [
        {
            "token": "\ufffd",
            "logprob": -0.25,
            "bytes": [0xE2, 0x82],
            "top_logprobs": [{"token": "x", "logprob": -1.5, "bytes": [120]}],
        }
    ]
    assert bare["logprobs"] == [{"token": "a", "logprob": -1.0, "bytes": [97]}]


@pytest.mark.parametrize("arguments", ["[1]", "{", ""])
def test_a_tool_call_without_an_object_breaks_the_answer_not_the_framing(arguments: str) -> None:
    """Arguments are put into the line as they are, so they are checked before."""
    with pytest.raises(EngineDied):
        Answer("m", 0, chat=True).delta(Delta(tool_calls=(ToolCall(id="1", name="f", arguments=arguments),)))


def test_loading_is_answered_with_its_reason() -> None:
    """The object for an empty prompt or an empty list of messages."""
    stamp = STAMP.encode()
    assert Answer("m", 0, chat=False).loaded("load") == (
        b'{"model":"m","created_at":"%s","response":"","done":true,"done_reason":"load"}' % stamp
    )
    assert Answer("m", 0, chat=True).loaded("unload") == (
        b'{"model":"m","created_at":"%s","message":{"role":"assistant","content":""},"done":true,'
        b'"done_reason":"unload"}' % stamp
    )


def test_embeddings_keep_every_bit_of_a_float() -> None:
    """Vectors are written shortly and read back as the same 32-bit numbers; figures follow."""
    vector = tuple(msgspec.json.decode(b"[0.10000000149011612,-1.1754943508222875e-38,1.0]"))
    found = Embeddings(vectors=(vector, vector), prompt_tokens=4, timings=Timings(load=7))

    assert responses.embed_response("m", found, 0) == (
        b'{"model":"m","embeddings":[[0.100000001,-1.17549435e-38,1],[0.100000001,-1.17549435e-38,1]],'
        b'"total_duration":1000,"load_duration":7,"prompt_eval_count":4}'
    )
    assert responses.embedding_response(found) == b'{"embedding":[0.100000001,-1.17549435e-38,1]}'
    assert responses.embed_response("m", None, 0) == b'{"model":"m","embeddings":[]}'
    assert responses.embedding_response(None) == b'{"embedding":[]}'


def test_a_broken_vector_is_an_error() -> None:
    """NaN is no JSON and no embedding."""
    found = Embeddings(vectors=((float("nan"),),), prompt_tokens=1)
    with pytest.raises(BadRequest, match="embedding contains NaN or Inf values"):
        responses.embedding_response(found)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_691_139_139_385_406_455, "2023-08-04T08:52:19.385406455Z"),
        (1_691_139_130_000_000_000, "2023-08-04T08:52:10Z"),
        (1_691_139_130_000_000_010, "2023-08-04T08:52:10.00000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    """RFC 3339 in UTC, nine digits at most, no zeros at the end."""
    assert timestamp(nanoseconds) == text


INFO = describe(TINY, "tiny:latest")
TOLD = StoredModel(
    name=ModelName.parse("tiny"),
    digest="d" * 64,
    size=INFO.size,
    modified=0,
    weights=Path(TINY.name),
    licenses=("apache-2.0",),
)


def test_a_listing_has_every_field_in_order() -> None:
    """One entry for each name, with the details clients read."""
    body = json.loads(
        catalogue.tags(
            ("tiny:latest", "llama3:latest"), INFO, size=INFO.size, digest="d" * 64, modified_at=STAMP
        )
    )

    assert [entry["name"] for entry in body["models"]] == ["tiny:latest", "llama3:latest"]
    assert body["models"][0] == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "modified_at": STAMP,
        "size": 3_806_528,
        "digest": "d" * 64,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.52M",
            "quantization_level": "Q8_0",
            "context_length": 2048,
            "embedding_length": 256,
        },
        "capabilities": ["completion", "tools", "insert", "thinking"],
    }
    assert list(body["models"][0])[:5] == ["name", "model", "modified_at", "size", "digest"]


def test_a_running_model_has_every_field() -> None:
    """Nothing is left out of `/api/ps`, and never is three centuries away."""
    now = datetime(2026, 2, 28, 12, tzinfo=UTC)
    entry = catalogue.running("tiny:latest", INFO, digest="d" * 64, expires_at=catalogue.expiry(None, now))

    assert list(msgspec.json.decode(msgspec.json.encode(entry))) == [
        "name",
        "model",
        "size",
        "digest",
        "details",
        "expires_at",
        "size_vram",
        "context_length",
    ]
    assert entry.expires_at == "2318-02-28T12:00:00Z"
    assert catalogue.expiry(now, now) == "2026-02-28T12:00:00Z"
    assert datetime.fromisoformat(entry.expires_at).year == 2318


def test_show_leaves_arrays_out_unless_asked() -> None:
    """Arrays are null without `verbose` and whole with it; everything else is the same."""
    header = read_header(TINY)
    short = json.loads(showing.show(TOLD, INFO, header, None))
    long = json.loads(showing.show(TOLD, INFO, header, None, verbose=True))

    assert list(short) == [
        "license",
        "modelfile",
        "template",
        "details",
        "model_info",
        "tensors",
        "capabilities",
        "modified_at",
    ]
    info = short["model_info"]
    assert list(info) == sorted(info)
    assert info["general.parameter_count"] == 3_517_952
    assert info["llama.context_length"] == 2048
    assert info["tokenizer.ggml.tokens"] is None
    assert "tokenizer.chat_template" not in info
    assert "general.name" not in info
    assert len(long["model_info"]["tokenizer.ggml.tokens"]) == 1957
    assert [key for key in info if info[key] != long["model_info"][key]] == [
        "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.tokens",
    ]
    assert short["tensors"][0] == {"name": "token_embd.weight", "type": "Q8_0", "shape": [256, 1957]}
    assert "tools" in short["template"]


def test_show_writes_a_modelfile_with_what_the_request_adds() -> None:
    """System and options show where a Modelfile has them; the file's folder does not show."""
    body = json.loads(
        showing.show(
            TOLD,
            INFO,
            None,
            None,
            system='Say "x"\nor y',
            options={"stop": ["b ", "a"], "num_ctx": 1048576, "use_mmap": True, "temperature": 1.0},
        )
    )

    assert body["modelfile"] == (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        "# FROM tiny:latest\n\n"
        "FROM tiny-q8_0.gguf\n"
        'SYSTEM """Say "x"\nor y"""\n'
        'PARAMETER num_ctx 1048576\nPARAMETER stop "b "\nPARAMETER stop a\n'
        "PARAMETER temperature 1\nPARAMETER use_mmap true\nLICENSE apache-2.0\n"
    )
    assert body["parameters"] == (
        f'{"num_ctx":<30} 1048576\n{"stop":<30} "b "\n{"stop":<30} "a"\n'
        f"{'temperature':<30} 1\n{'use_mmap':<30} true"
    )


def test_show_takes_options_of_any_shape() -> None:
    """What a request adds is shown as it is, also a list whose items no one could put into an order."""
    body = json.loads(showing.show(TOLD, INFO, None, None, options={"stop": ["a", 1, None], "x": {"y": [2]}}))

    assert body["parameters"].splitlines() == [
        f'{"stop":<30} "a"',
        f"{'stop':<30} 1",
        f"{'stop':<30} null",
        f'{"x":<30} {{"y":[2]}}',
    ]


async def test_a_file_has_a_digest_that_changes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal content has an equal digest; a changed file a new one; a large file is told by size and time."""
    path, twin = tmp_path / "a.gguf", tmp_path / "b.gguf"
    path.write_bytes(b"weights")
    twin.write_bytes(b"weights")
    file = ModelFile(path, "m:latest")
    first = await file.identity()

    assert first == await file.identity()
    assert first.digest == (await ModelFile(twin, "n:latest").identity()).digest
    assert (len(first.digest), first.size, first.modified) == (64, 7, path.stat().st_mtime_ns)
    path.write_bytes(b"other weights")
    assert (await file.identity()).digest != first.digest
    monkeypatch.setattr("akashllm.server.models.identity.HASHED_WHOLE", 3)
    assert (await ModelFile(twin, "n:latest").identity()).digest != first.digest
    for nowhere in (None, tmp_path / "gone", tmp_path):
        unknown = await ModelFile(nowhere, "m:latest").identity()
        assert len(unknown.digest) == 64
        assert unknown.modified > 0, "what has no file is as old as the service, not of 1970"


def test_no_character_of_an_answer_ends_its_line() -> None:
    """A line is the unit of the stream also for readers that split at every Unicode line break."""
    line = responses.error("a\u2028b\u2029c\u0085d\n")

    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"error": "a\u2028b\u2029c\u0085d\n"}
