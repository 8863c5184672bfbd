"""Templates and data for Hypothesis: most make sense, some do not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_TEXTS = st.text("ab<>&'\"\n {}-é\u4e16\u2028", max_size=6)
_NUMBERS = st.one_of(
    st.integers(-5, 2_000_000), st.floats(-1e25, 1e25, allow_nan=False), st.floats(-2, 2, allow_nan=False)
)
KEYS = ("A", "B", "C", "List")

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _TEXTS, _NUMBERS.map(float)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
data = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)

_FIELDS = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(lambda names: "." + ".".join(names))
_VARIABLES = st.sampled_from(["$", "$x", "$y"])
_LITERALS = st.sampled_from(
    [
        '"a"',
        '"b\\n\\"\\u00e9"',
        "`raw`",
        "0",
        "1",
        "-2",
        "1.5",
        "1e3",
        "0x1F",
        "017",
        "'a'",
        "true",
        "false",
        "nil",
    ]
)


def _sentence(parts: list[str]) -> str:
    return " ".join(parts)


@st.composite
def _calls(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    name = draw(
        st.sampled_from(
            "and or not eq ne lt le gt ge len index slice print println printf html json".split()  # noqa: SIM905
        )
    )
    count = {"not": 1, "len": 1, "json": 1, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2}.get(name)
    args = draw(st.lists(inner, min_size=count or 1, max_size=count or 3))
    if name == "printf":
        args = [draw(st.sampled_from(['"%v"', '"%s-%d"', '"%q %5v|"', '"%-4s|%t"', '"%06.2f"', '"%x"'])), *args]
    return _sentence([name, *args])


_operands: st.SearchStrategy[str] = st.recursive(
    st.one_of(_FIELDS, _LITERALS, _VARIABLES, st.just(".")),
    lambda inner: st.one_of(
        _calls(inner).map(lambda text: f"({text})"),
        _calls(inner).map(lambda text: f"({text}).A"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=4,
)


@st.composite
def _pipelines(draw: st.DrawFn) -> str:
    first = draw(st.one_of(_operands, _calls(_operands)))
    stages = draw(
        st.lists(st.sampled_from(["len", "not", "print", "json", 'printf "%v"', "html", 'eq "a"']), max_size=2)
    )
    return " | ".join([first, *stages])


@st.composite
def _actions(draw: st.DrawFn, inside: str) -> str:
    left = draw(st.sampled_from(["{{", "{{- ", "{{ "]))
    right = draw(st.sampled_from(["}}", " -}}", " }}"]))
    return f"{left}{inside}{right}"


@st.composite
def _blocks(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    kind = draw(st.sampled_from(["if", "with", "range"]))
    head = draw(_pipelines())
    if kind == "range":
        head = draw(st.sampled_from(["", "$x := ", "$x, $y := "])) + draw(
            st.sampled_from([".List", ".A", "$", ".B", head])
        )
    elif draw(st.booleans()):
        head = f"$x := {head}"
    parts = [draw(_actions(f"{kind} {head}")), draw(inner)]
    if kind == "range" and draw(st.booleans()):
        parts.append(draw(st.sampled_from(["{{break}}", "{{ continue }}", "{{ if . }}{{ break }}{{ end }}"])))
        parts.append(draw(inner))
    if kind == "if" and draw(st.booleans()):
        parts += [draw(_actions(f"else if {draw(_pipelines())}")), draw(inner)]
    if draw(st.booleans()):
        parts += [draw(_actions("else")), draw(inner)]
    return "".join([*parts, draw(_actions("end"))])


_SIMPLE = st.one_of(
    _TEXTS,
    st.sampled_from(["{{/* a comment */}}", "{{- /* trimmed */ -}}", " \n ", "}}", '{{ template "t" . }}']),
    _pipelines().flatmap(_actions),
    _pipelines().flatmap(lambda text: _actions(f"$x := {text}")),
    _pipelines().flatmap(lambda text: _actions(f"$x = {text}")),
)

_pieces: st.SearchStrategy[str] = st.recursive(
    _SIMPLE, lambda inner: st.one_of(_blocks(inner), st.lists(inner, max_size=3).map("".join)), max_leaves=8
)

templates = st.one_of(
    st.lists(_pieces, max_size=4).map("".join),
    st.lists(_pieces, max_size=3).map(
        lambda parts: "{{ $x := 1 }}{{ $y := .A }}" + "".join(parts) + '{{ define "t" }}<{{ .A }}>{{ end }}'
    ),
)

_WORDS = (
    "{{ }} {{- -}} ( ) | := = , $x $ .A . . if else end range with define block template break continue nil "
    r"""true false "a" ` 'x' '\n' 1 0x1p-2 1_000 .5 1. 09 +3 - foo len eq /* */ \ @ # é"""
)
fragments = st.lists(st.sampled_from([*_WORDS.split(" "), "\n", " "]), max_size=14).map("".join)
"""Nonsense made of what templates are made of."""
