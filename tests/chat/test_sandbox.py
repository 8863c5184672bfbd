"""A template is a program that came with the weights: it reaches nothing and ends soon."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from akashllm.errors import BadRequest, EngineFailed
from akashllm.server.chat import bounds
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import Message

HELLO = (Message(role="user", content="Hi"),)

ESCAPES = [
    "{{ cycler.__init__.__globals__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ (messages|attr('__class__')).__base__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ ''['__class__']['__base__'] }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.extend([1]) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages.clear() }}",
]

TWICE = "{% set ns = namespace(v=START) %}{% for i in range(64) %}{% set ns.v = STEP %}{% endfor %}{{ ns.v }}"

BOMBS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ [1] * 10**10 }}",
    "{{ 10**(10**10) }}",
    "{% set a = [] %}{% set _ = a.append(a) %}{{ a }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ 'x' | indent(10**10) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%10000000000d' | format(1) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**10) }}",
    "{{ ('x' * 4000000).replace('x', 'y' * 4000000) | length }}",
    "{{ ('x' * 4000000) | replace('x', 'y' * 4000000) | length }}",
    "{{ (['x' * 4000000] * 10000) | join | length }}",
    "{{ ''.join(['x' * 4000000] * 10000) | length }}",
    "{{ 'x'.encode().ljust(10**10) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ 1.5 | round(10**10, 'ceil') }}",
    "{{ [1] | slice(10**10) | list }}",
    "{{ 'x'.translate({120: 'y' * 4000000}) }}",
    "{{ messages | tojson(indent=10**10) }}",
    TWICE.replace("START", "'x'").replace("STEP", "ns.v ~ ns.v"),
    TWICE.replace("START", "'x'").replace("STEP", "ns.v + ns.v"),
    TWICE.replace("START", "[1]").replace("STEP", "ns.v + ns.v"),
    TWICE.replace("START", "[1]").replace("STEP", "[ns.v, ns.v]"),
    TWICE.replace("START", "[1]").replace("STEP", "(ns.v, ns.v)"),
    TWICE.replace("START", "{}").replace("STEP", "{'a': ns.v, 'b': ns.v}"),
    TWICE.replace("START", "{}").replace("STEP", "dict(a=ns.v, b=ns.v)"),
    TWICE.replace("START", "10").replace("STEP", "ns.v * ns.v"),
    TWICE.replace("START", "[1]").replace("STEP", "[ns.v, ns.v]").replace("{{ ns.v }}", "{{ ns.v | tojson }}"),
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
]

ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in range(99999) %}{{ range(99999) | map('upper') | list | length }}{% endfor %}",
    "{% for i in range(99999) %}{{ range(99999) | select('odd') | list | length }}{% endfor %}",
]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.2)


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_reaches_nothing_of_the_process(source: str) -> None:
    """Internals, files and the caller's own messages are out of a template's reach."""
    try:
        text = ChatTemplate(source).render(HELLO)
    except EngineFailed:
        return
    assert not any(word in text for word in ("class", "object", "module", "root:", "built-in"))


@pytest.mark.parametrize("source", BOMBS)
def test_a_bomb_is_refused(source: str) -> None:
    """Whatever multiplies texts, values, numbers, widths or calls ends in an error that names the template."""
    with pytest.raises(EngineFailed, match="chat template"):
        ChatTemplate(source).render(HELLO)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_that_does_not_end_is_ended(source: str) -> None:
    """When the processor time is used up the rendering stops, though nothing it builds is large."""
    with pytest.raises(EngineFailed, match="takes too long"):
        ChatTemplate(source).render(HELLO)


@pytest.mark.usefixtures("_short")
def test_a_thread_pays_for_itself_only() -> None:
    """While threads render a template without end, others render theirs."""
    endless = ChatTemplate(ENDLESS[0])
    with ThreadPoolExecutor(3) as pool:
        ended = [pool.submit(endless.render, HELLO) for _ in range(2)]
        texts = list(pool.map(ChatTemplate("{{ messages[0].content }}").render, [HELLO] * 50))
        assert all(isinstance(one.exception(), EngineFailed) for one in ended)
    assert texts == ["Hi"] * 50


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 50000 + "1 }}",
        "{% for",
        "{{ x" * 9,
        "{% nope %}",
    ],
)
def test_a_source_that_does_not_compile_is_an_error(source: str) -> None:
    """Broken and absurd sources are refused when the template is made, not when the first request comes."""
    with pytest.raises(EngineFailed, match="cannot be used"):
        ChatTemplate(source)


def test_an_oversized_source_is_refused() -> None:
    """A source of more than half a million characters is not compiled."""
    with pytest.raises(EngineFailed, match="more than"):
        ChatTemplate("x" * 600_000)


def test_a_long_chat_is_no_bomb() -> None:
    """A thousand long messages render within the bounds."""
    source = "{% for m in messages %}{{ m.role ~ ': ' + m.content | trim }}\n{% endfor %}"
    text = ChatTemplate(source).render([Message(role="user", content="word " * 500)] * 1000)
    assert text.count("user: ") == 1000


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'b': '<é>', 'a': [1, none]} | tojson }}", '{"b": "<é>", "a": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"a":2,"b":1}'),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% generation %}a{% endgeneration %}b", "ab"),
        ("  {% if true %}\n  a\n  {% endif %}\n", "  a\n"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ 'a,b'.split(',')[::-1] | join('+') }}{{ '%s-%02d' | format('x', 7) }}", "b+ax-07"),
        ("{{ '{}:{:>3}'.format('k', 5) }}{{ 'ab' | upper }}{{ 'x' * 3 }}", "k:  5ABxxx"),
        (
            "{% set a = namespace(n=0) %}{% for m in messages %}{% set a.n = a.n + 1 %}{% endfor %}{{ a.n }}",
            "1",
        ),
        (
            "{% set a = [] %}{% for m in messages %}{% set _ = a.append(m.role) %}{% endfor %}{{ a }}",
            "['user']",
        ),
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') ~ f('b') }}", "<a><b>"),
        ("{{ messages | map(attribute='role') | list }}{{ missing }}", "['user']"),
        ("{% set a, b = 1, 2 %}{{ a + b }}{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "3x1"),
    ],
)
def test_templates_mean_what_they_mean_elsewhere(source: str, expected: str) -> None:
    """The language is the one Hugging Face transformers renders: same white space, filters and extensions."""
    assert ChatTemplate(source).render(HELLO) == expected


def test_what_a_template_raises_reaches_the_client() -> None:
    """`raise_exception` is a refusal of the messages, in the template's own words."""
    template = ChatTemplate("{{ raise_exception('Only <b>one</b> message, please') }}")
    with pytest.raises(BadRequest, match="Only <b>one</b> message, please"):
        template.render(HELLO)
