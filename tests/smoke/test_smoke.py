"""The smoke test against an endpoint that keeps every promise, and against one for each that it breaks."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from akashllm.errors import UsageError
from akashllm.smoke import CHECKS, Report, Result, run
from akashllm.smoke.client import MAX_BODY, Client, base_url, clean
from akashllm.testing.endpoint import FAULTS, KEY, ScriptedEndpoint

BREAKS = {
    "echo": {"generate", "chat", "stream", "json-mode", "json-schema", "large-body"},
    "no-auth": {"no-key-refused", "wrong-key-refused"},
    "any-key": {"wrong-key-refused"},
    "no-models": {"models-listed"},
    "million-models": {"reachable"},
    "lump": {"stream"},
    "unfinished": {"stream"},
    "no-json": {"json-mode", "json-schema"},
    "no-schema": {"json-schema"},
    "tool-words": {"tool-call"},
    "tool-junk": {"tool-call"},
    "tool-other": {"tool-call"},
    "embed-drift": {"embeddings"},
    "embed-dims": {"embeddings"},
    "embed-same": {"embeddings"},
    "half-deaf": {"transcription"},
    "dice": {"seed"},
    "no-usage": {"usage"},
    "bad-sum": {"usage"},
    "cuts": {"overlong-prompt"},
    "413": {"large-body"},
    "reset": {"large-body"},
    "silence": {"slow-first-token"},
    "wrong-answer": {"chat"},
}
"""What each fault must turn red; everything else must stay as it is."""


def judge(*faults: str, **options: object) -> Report:
    """The report on an endpoint with these faults."""
    with ScriptedEndpoint(*faults) as endpoint:
        return run(endpoint.url, **({"api_key": KEY} | options))  # type: ignore[arg-type]


def broken(report: Report) -> set[str]:
    """The names of the broken promises."""
    return {result.name for result in report.broken}


def test_an_endpoint_that_keeps_every_promise_passes_every_check() -> None:
    """All checks run in both dialects, and none is skipped but TLS, which this machine does not need."""
    report = judge()

    assert report.lines()[-1].startswith("31 hold, 0 broken, 1 skipped")
    assert {r.name for r in report.results} == set(CHECKS)
    assert [r.name for r in report.results if r.verdict == "skipped"] == ["tls"]
    assert report.ok


@pytest.mark.parametrize("fault", BREAKS)
def test_each_fault_breaks_its_own_promise_and_no_other(fault: str) -> None:
    """A check is red exactly when its promise is broken, and the reason says more than its name."""
    report = judge(fault)

    assert broken(report) == BREAKS[fault]
    assert all(len(result.reason) > 15 for result in report.broken)
    assert not report.ok


@pytest.mark.parametrize("fault", ["catch-all", "html-404", "redirect"])
def test_a_server_that_is_no_model_server_is_found_out_at_once(fault: str) -> None:
    """Anything that answers without listing models in a dialect is broken; the rest is skipped."""
    report = judge(fault)

    assert broken(report) == {"reachable"}
    assert {r.verdict for r in report.results[1:]} == {"skipped"}


def test_the_key_does_not_follow_a_redirect() -> None:
    """A redirect is reported with its target; nothing is sent there."""
    report = judge("redirect")

    assert "169.254.169.254" in report.results[0].reason


@pytest.mark.parametrize(("fault", "dialect"), [("only-ollama", "ollama"), ("only-openai", "openai")])
def test_an_endpoint_with_one_dialect_is_judged_in_that_one(fault: str, dialect: str) -> None:
    """What is not spoken is not judged, what is spoken is judged in full."""
    report = judge(fault)

    assert {r.dialect for r in report.results} == {"", dialect}
    assert report.ok


def test_a_model_without_embeddings_is_skipped_with_the_servers_words() -> None:
    """What a model cannot do is skipped and says why, never green."""
    report = judge("no-embed")

    results = [r for r in report.results if r.name == "embeddings"]
    assert {r.verdict for r in results} == {"skipped"}
    assert "does not support embeddings" in results[0].reason


def test_a_service_without_ears_is_not_blamed_for_it() -> None:
    """A service that transcribes nothing is skipped with its own words."""
    (result,) = [r for r in judge("no-ears").results if r.name == "transcription"]

    assert result.verdict == "skipped"
    assert "404" in result.reason


def test_terminal_escapes_of_the_server_never_reach_a_reason() -> None:
    """Reasons hold no control, format or bidirectional characters, whatever the server says."""
    report = judge("escapes")

    text = "\n".join(report.lines()) + report.junit() + json.dumps(report.as_dict(), ensure_ascii=False)
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}


@pytest.mark.parametrize("fault", ["endless", "drip"])
def test_a_reply_without_end_costs_bounded_time_and_memory(fault: str) -> None:
    """Each request ends at its time-out, whatever dribbles in, and reads a bounded number of bytes."""
    started = time.monotonic()
    with ScriptedEndpoint(fault) as endpoint:
        reply = Client(endpoint.url, key=KEY, timeout=1.0).call("GET", "/v1/models")

    assert reply.cut
    assert len(reply.body) <= MAX_BODY + 65_536
    assert time.monotonic() - started < 30


def test_a_list_where_an_object_should_be_breaks_checks_but_not_the_run() -> None:
    """Every check says what it saw instead, and the next one runs."""
    report = judge("not-an-object")

    assert {"generate", "chat", "stream", "json-mode", "usage"} <= broken(report)


def test_nobody_there_is_unreachable() -> None:
    """A closed port is told apart from a broken promise."""
    with ScriptedEndpoint() as endpoint:
        url = endpoint.url
    report = run(url, api_key=KEY)

    assert report.unreachable
    assert "refused" in report.results[0].reason


def test_a_self_signed_certificate_is_named_and_accepted_only_on_request(tmp_path: Path) -> None:
    """TLS that nobody vouches for is unreachable with the reason; --insecure goes on and says so."""
    pem = tmp_path / "both.pem"
    argv = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=elsewhere -keyout k.pem -out c.pem"
    subprocess.run(argv.split(), cwd=tmp_path, check=True, capture_output=True)
    pem.write_text((tmp_path / "k.pem").read_text() + (tmp_path / "c.pem").read_text())

    with ScriptedEndpoint(certificate=pem) as endpoint:
        strict = run(endpoint.url, api_key=KEY)
        lax = run(endpoint.url, api_key=KEY, insecure=True, only=["tls", "chat"])

    assert strict.unreachable
    assert "self-signed" in strict.results[0].reason
    assert lax.ok
    assert [r.verdict for r in lax.results] == ["skipped", "pass", "pass"]


def test_the_key_is_not_sent_in_clear_to_another_machine() -> None:
    """Plain http to anything but this machine refuses before the first byte."""
    with pytest.raises(UsageError, match="in clear"):
        run("http://198.51.100.7", api_key=KEY)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("example.org/", "https://example.org"),
        ("https://example.org/v1/", "https://example.org"),
        ("https://example.org/openai/v1", "https://example.org"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_an_address_is_understood_as_people_give_it(text: str, base: str) -> None:
    """A missing scheme, a trailing slash and a base URL with /v1 are all the same address."""
    assert base_url(text) == base


@pytest.mark.parametrize(
    "text", ["ftp://x", "https://u:p@x", "https://x/?k=1", "http://a b", "https://x\n", "http://", "http:\\\\x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Passwords, queries, control characters and other schemes are a usage error."""
    with pytest.raises(UsageError):
        base_url(text)


def test_the_junit_report_is_valid_xml_with_a_case_a_result() -> None:
    """CI systems read failures and skips with their reasons."""
    report = judge("dice")

    suite = ET.fromstring(report.junit())
    assert suite.get("failures") == str(len(report.broken)) == "2"
    assert len(suite.findall("testcase")) == len(report.results)


def test_results_are_told_as_they_come() -> None:
    """The callback sees each result once, in the order of the report."""
    seen: list[Result] = []
    report = judge(only=["chat", "seed"], on_result=seen.append)

    assert tuple(seen) == report.results
    assert {r.name for r in seen} == {"chat", "seed"}


def test_an_unknown_check_is_refused_with_the_known_ones() -> None:
    """A typo in --only does not silently check nothing."""
    with pytest.raises(UsageError, match="no such check: chta"):
        run("http://127.0.0.1:1", only=["chta"])


def test_every_fault_is_tried_by_some_test() -> None:
    """No fault of the sparring partner is dead code."""
    source = Path(__file__).read_text()

    assert [fault for fault in FAULTS if f'"{fault}"' not in source] == []


def test_cleaning_keeps_text_and_bounds_it() -> None:
    """Ordinary words of any language survive; length is bounded."""
    assert clean("你好 wörld\n  again") == "你好 wörld again"
    assert len(clean("x" * 10_000)) == 200
