"""Every rule: what it finds, where, and what the official validator makes of the same file."""

from __future__ import annotations

import pytest

from akashllm import sdl
from akashllm.errors import BadSdl
from tests.sdl.cases import CASES, HERE, Case
from tests.sdl.conftest import Judge
from tests.sdl.samples import GOOD, LEASED_IP, MINIMAL


def name(case: Case) -> str:
    """The rule and the blamed line: what a failing test is called."""
    marked = next((line.strip() for line in case.text.split("\n") if HERE in line), "")
    return f"{case.rule}-{marked[:24]}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_each_rule_blames_the_right_line(case: Case) -> None:
    """A broken rule is found once, at its line, with a sentence and a way to mend it."""
    found = [finding for finding in sdl.validate(case.text) if finding.rule == case.rule]
    assert [finding.line for finding in found] == [case.line], sdl.validate(case.text)
    assert found[0].severity == sdl.RULES[case.rule][0]
    assert found[0].message
    assert found[0].fix
    assert "\n" not in str(found[0])


def test_no_rule_is_untested() -> None:
    """Each rule of the catalogue has a case here, and each case a rule."""
    assert {case.rule for case in CASES} == set(sdl.RULES)


@pytest.mark.parametrize("text", [GOOD, MINIMAL, LEASED_IP], ids=["good", "minimal", "leased-ip"])
def test_nothing_is_said_about_a_good_file(text: str, official: Judge) -> None:
    """A good SDL draws no error from us, nor from the official validator."""
    assert [finding for finding in sdl.validate(text) if finding.rule != "ingress-none"] == []
    assert official(text)["ok"], official(text)


@pytest.mark.parametrize("case", [case for case in CASES if case.missed], ids=name)
def test_what_the_official_validator_misses(case: Case, official: Judge) -> None:
    """These files pass the official validator and fail on the chain; ours refuses them."""
    assert official(case.text)["ok"], official(case.text)
    with pytest.raises(BadSdl):
        sdl.load(case.text)


def test_whatever_the_official_validator_refuses_we_refuse(official: Judge) -> None:
    """No case that the official validator refuses gets past ours, but for keys that its newer releases take."""
    newer = {"newer-key", "tee", "reclamation"}
    for case in CASES:
        if case.text and not case.rule.startswith("yaml-") and not official(case.text)["ok"]:
            errors = [finding for finding in sdl.validate(case.text) if finding.severity == "error"]
            assert errors or case.rule in newer, (case.rule, official(case.text), case.text)


def test_load_carries_every_error() -> None:
    """`load` refuses a file with all of its errors, the first one in the message with its line."""
    broken = GOOD.replace("denom: uact", "denom: uakt").replace("units: 2", "units: 25")
    with pytest.raises(BadSdl, match=r"deploy\.yaml:\d+: .* \(and 1 more\)") as caught:
        sdl.load(broken, source="deploy.yaml")
    assert len(caught.value.findings) == 2
    assert caught.value.hint
