"""The fence around Jinja."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, meta
from ruamel.yaml import YAML

from akashllm.assets import templates
from akashllm.errors import UsageError
from akashllm.render import environment
from akashllm.render.deployment import _context
from tests.render.plans import TEXT, plan


def render(tmp_path: Path, text: str, context: dict[str, Any]) -> str:
    """Render a template that a person supplies."""
    (tmp_path / "mine.j2").write_text(text)
    return environment.render("mine.j2", context, overrides=tmp_path)


@settings(deadline=None)
@given(
    st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False))
)
def test_yaml_values_read_back_exactly(value: Any) -> None:
    """The YAML filter's text is the same value in a YAML 1.2 parser, alone and in a list."""
    text = environment.yaml_value(value)
    loaded = YAML(typ="safe", pure=True).load(f"- {text}\n- [{text}, 1]\n")
    assert loaded == [value, [value, 1]]
    assert type(loaded[0]) is type(value)


@pytest.mark.parametrize(
    "value",
    ["{{7*7}}", '{% include "/etc/passwd" %}', "{{ ''.__class__ }}", "a: b", "- a", "#", "&a", "*a",
     "!!python/object", "---", "yes", "off", "1e3", "0x10", "012", " x ", "\U0001f600",
     "$(id)", "`id`", "\r\n", "\x85\u2028\ufeff", "x" * 1_000_000],
    ids=lambda value: repr(value[:12]),
)  # fmt: skip
def test_hostile_values_stay_values(value: str) -> None:
    """Template syntax, YAML syntax and a megabyte of text are only text."""
    data = YAML(typ="safe", pure=True).load(f"a: {environment.yaml_value(value)}\nb: 1\n")
    assert data == {"a": value, "b": 1}


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_docker_values_are_one_word(value: str) -> None:
    """A Dockerfile value is one quoted word on one line that unquotes to itself."""
    text = environment.docker_value(value)
    assert re.fullmatch(r'"(?:[^"\\$]|\\["\\$])*"', text)
    assert re.sub(r"\\(.)", r"\1", text[1:-1]) == value


@pytest.mark.parametrize("value", ["hunter2\nRUN id", "hunter2\r", "hunter2\x00", "hunter2é"])
def test_docker_values_refuse_newlines_silently(value: str) -> None:
    """A value that could start another instruction is refused and not shown."""
    for escape in (environment.docker_value, lambda text: environment.docker_list([text])):
        with pytest.raises(UsageError) as caught:
            escape(value)
        assert "hunter2" not in str(caught.value)


def test_an_undefined_name_says_where(tmp_path: Path) -> None:
    """A missing value is an error with the template's name."""
    with pytest.raises(UsageError, match=r"mine\.j2.*nothing"):
        render(tmp_path, "{{ nothing | yaml }}", {})


def test_a_syntax_error_says_where(tmp_path: Path) -> None:
    """A broken template is an error with its line and the folder to mend it in."""
    with pytest.raises(UsageError, match=r"mine\.j2:2") as caught:
        render(tmp_path, "a\n{% if %}", {})
    assert str(tmp_path) in caught.value.hint


def test_a_value_without_a_filter_is_refused(tmp_path: Path) -> None:
    """Nothing is printed that no filter has escaped."""
    with pytest.raises(UsageError, match="escaped"):
        render(tmp_path, "{{ name }}", {"name": "x"})


@pytest.mark.parametrize(
    "text",
    ["{{ ''.__class__.__mro__ | yaml }}", "{{ range(10) | yaml }}", "{{ cycler | yaml }}",
     "{{ name.__init__ | yaml }}", "{% for i in lipsum() %}{% endfor %}"],
)  # fmt: skip
def test_the_sandbox_holds(tmp_path: Path, text: str) -> None:
    """Attributes with underscores and Jinja's global functions are not there."""
    with pytest.raises(UsageError):
        render(tmp_path, text, {"name": "x"})


@pytest.mark.parametrize(
    "value",
    [Path(), object(), (1,), {1: 2}, {"a": {3}}, [b"x"], {"a": [{"b": print}]}],
    ids=lambda v: type(v).__name__,
)
def test_templates_see_plain_data_only(value: Any) -> None:
    """Anything richer than JSON is refused before a template sees it."""
    with pytest.raises(UsageError):
        environment.check_plain({"value": value})


def test_every_value_of_the_context_is_used() -> None:
    """What the templates of a deployment are given is what they read, no more."""
    read: set[str] = set()
    for name in ("sdl.yaml.j2", "mounts.yaml.j2", "resources.yaml.j2", "compose.yaml.j2"):
        tree = Environment(autoescape=True).parse((templates() / name).read_text().replace("|", "~"))
        read |= meta.find_undeclared_variables(tree)
    assert set(_context(plan())) <= read


def test_overrides_may_not_leave_their_directory(tmp_path: Path) -> None:
    """A link out of the template directory is refused, wherever it stands; the directory must exist."""
    inside = tmp_path / "mine"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "link.j2").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="leaves"):
        environment.render("sdl.yaml.j2", {}, overrides=inside)
    with pytest.raises(UsageError, match="does not exist") as caught:
        environment.render("sdl.yaml.j2", {}, overrides=tmp_path / "gone")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["../secret.j2", "/etc/passwd", "gone.j2"])
def test_includes_stay_inside(tmp_path: Path, name: str) -> None:
    """An include by `..` or an absolute path finds nothing."""
    (tmp_path / "secret.j2").write_text("secret")
    inside = tmp_path / "mine"
    inside.mkdir()
    with pytest.raises(UsageError, match="no template"):
        render(inside, f"{{% include {name!r} %}}", {})


def test_overrides_come_first(tmp_path: Path) -> None:
    """A template of the same name in the override directory is the one that is used."""
    (tmp_path / "sdl.yaml.j2").write_text("mine: {{ name | yaml }}\n")
    assert environment.render("sdl.yaml.j2", {"name": "x"}, overrides=tmp_path) == 'mine: "x"\n'
