"""Our interpreter and Go's say the same of every template."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings

from akashllm.server.chat.go.faults import GoTemplateError
from akashllm.server.chat.go.functions import FUNCTIONS
from akashllm.server.chat.go.parsing import parse
from akashllm.server.chat.go.running import run
from tests.go.conftest import Judge, Verdict
from tests.go.writing import data, fragments, templates

STEADY = settings(max_examples=200, derandomize=True, suppress_health_check=list(HealthCheck))


def ours(template: str, values: dict[str, Any]) -> Verdict:
    """Our verdict."""
    try:
        bodies = parse(template, FUNCTIONS)
    except GoTemplateError as error:
        return Verdict(str(error), "", "")
    try:
        return Verdict("", "", run(bodies, bodies[""], values, template))
    except GoTemplateError as error:
        return Verdict("", str(error), "")


@STEADY
@given(templates, data)
@example("{{ .A.B }}", {"A": None})
@example("{{ $x := .A }}{{ $x.B }}", {})
@example("{{ index .List 0 | printf `%v` }}", {"List": [None]})
def test_what_go_prints_is_printed(judge: Judge, template: str, values: dict[str, Any]) -> None:
    """Whatever the template and the data: the same text, or both refuse."""
    go, we = judge(template, values), ours(template, values)
    assert bool(we.parse) == bool(go.parse), (go, we)
    assert bool(we.run) == bool(go.run), (go, we)
    if not (go.parse or go.run):
        assert we.text == go.text


@STEADY
@given(fragments)
def test_what_go_refuses_to_read_is_refused_in_its_words(judge: Judge, template: str) -> None:
    """Malformed templates are refused with Go's message and line."""
    go, we = judge(template, {}), ours(template, {})
    assert we.parse == go.parse
