"""Placeholders: named in the file, filled in memory, exact and safe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm import sdl
from akashllm.errors import UsageError
from tests.sdl.samples import GOOD

VALUES = {"API_KEY": "one", "REGISTRY_PASSWORD": "two-two"}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))


def test_placeholders_are_found() -> None:
    """Environment and registry login are searched; the order is by name."""
    assert sdl.placeholders(GOOD) == ("API_KEY", "REGISTRY_PASSWORD")


@settings(deadline=None)
@given(TEXT)
def test_any_secret_arrives_exactly(secret: str) -> None:
    """Whatever text a secret holds, the container gets exactly that, and no other value changes."""
    filled = sdl.load(sdl.fill(GOOD, {**VALUES, "API_KEY": secret}))
    assert sdl.environment(filled, "llm") == {"MODEL": "tiny", "API_KEY": secret}


def test_filling_changes_nothing_else() -> None:
    """Comments, order and every other line keep their bytes."""
    text = GOOD.replace("  llm:\n    image", "  llm: # a comment\n    image")
    before, after = text.split("\n"), sdl.fill(text, VALUES).split("\n")
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert [new.strip() for _, new in changed] == ['- "API_KEY=one"', 'password: "two-two"']


def test_a_missing_value_is_named() -> None:
    """The error names the placeholder that has no value."""
    with pytest.raises(UsageError, match="REGISTRY_PASSWORD"):
        sdl.fill(GOOD, {"API_KEY": "one"})


@pytest.mark.parametrize("value", ["hunter2\x00", "hunter2\ud800"])
def test_an_impossible_value_is_refused_without_showing_it(value: str) -> None:
    """NUL and lone surrogates cannot reach a container; the value stays out of the message."""
    with pytest.raises(UsageError) as caught:
        sdl.fill(GOOD, {**VALUES, "API_KEY": value})
    assert "hunter2" not in str(caught.value)


def test_a_secret_in_a_shared_list_is_filled_once() -> None:
    """An environment that two services share by an alias is one place in the file."""
    text = GOOD.replace("    env:\n", "    env: &common\n").replace(
        "profiles:\n", "  two: {image: a:1, env: *common}\nprofiles:\n", 1
    )
    assert sdl.placeholders(sdl.fill(text, VALUES)) == ()


def test_shell_text_is_no_placeholder() -> None:
    """Only a whole value is a placeholder: `${HOME}/x` and arguments stay as they are."""
    text = GOOD.replace("MODEL=tiny", "'MODEL=${HOME}/x'").replace('"--port"', '"${API_KEY}"')
    assert sdl.placeholders(text) == ("API_KEY", "REGISTRY_PASSWORD")
    assert '"${API_KEY}"' in sdl.fill(text, VALUES)


def test_sealed_references_fill_like_values() -> None:
    """The Console's sealed form goes where the secret would, and needs no secret in the file."""
    text = sdl.fill(GOOD, {name: sdl.sealed(name) for name in sdl.placeholders(GOOD)})
    assert "API_KEY=ac-secret://API_KEY" in text
    assert [finding for finding in sdl.validate(text) if finding.rule == "env-secret"] == []
