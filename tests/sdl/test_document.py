"""Reading YAML: version 1.2, places remembered, hostile files bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akashllm import sdl
from akashllm.sdl.document import BadYaml, parse
from akashllm.sdl.quantities import parse_cpu, parse_gpu_units, parse_size
from tests.sdl.samples import GOOD

HOSTILE = [
    "",
    "\x00",
    "\ufeff",
    "%YAML 1.1\n---\na: yes\n",
    "&a &b c",
    "{" * 5000,
    "- " * 5000,
    "? " * 3000,
    "a: " + "9" * 100_000,
    "a: 1e999999999",
    "a: 0x" + "f" * 100_000,
    "a: !!int x",
    "a: !!float 1.5.5",
    "a: " + "x" * 500_000,
    "'" * 10_001,
    "a: |\n" + " x\n" * 20_000,
    "*a: b",
    "<<: *a",
    "a: &x {<<: *x}",
    "\ud800: x",
    "a: [\u2028]",
    "key: " + "\\" * 1000,
    "!!map {a: b}",
    "--- !!set {a}",
    "...\n...\n",
]


def test_yaml_1_2_scalars() -> None:
    """`off`, `yes` and `012` are text or numbers as YAML 1.2 has them, not the booleans and octals of 1.1."""
    text = 'a: off\nb: yes\nc: 012\nd: 0o12\ne: ~\nf: 1.5\ng: "1"\nh: True\ni: 1_000\nj: 12:30\nk: !!str 5\n'
    assert parse(text).data == {
        "a": "off", "b": "yes", "c": 12, "d": 10, "e": None, "f": 1.5, "g": "1", "h": True, "i": "1_000",
        "j": "12:30", "k": "5",
    }  # fmt: skip


def test_lines_are_those_of_the_file() -> None:
    """Each key and list entry knows its line; what is not there has its parent's."""
    document = parse("# one\na:\n  - x\n  - b: 1\n")
    assert document.line(("a", 1, "b")) == 4
    assert document.line(("a", 0)) == 3
    assert document.line(("a", "gone", "deep")) == 2


def test_merge_keys() -> None:
    """`<<` brings what is missing, from one mapping or several, the first one winning."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 0\n"
    assert parse(text).data["c"] == {"x": 0, "y": 1, "z": 2}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_hostile_files_get_findings(text: str) -> None:
    """Nothing in a file makes the validator raise; each of these has at least one error with a line."""
    findings = sdl.validate(text)
    assert any(finding.severity == "error" and finding.line >= 1 for finding in findings)
    assert len(findings) <= 500


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_makes_the_validator_raise(data: st.DataObject) -> None:
    """A good SDL with any stretch replaced by any text is judged, never crashed on."""
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 40)))
    junk = data.draw(
        st.one_of(
            st.text(max_size=8), st.sampled_from(["null", "[]", "{}", "-1", "true", "*a", ": ", "\n", "0"])
        )
    )
    for finding in sdl.validate(GOOD[:start] + junk + GOOD[end:]):
        assert finding.rule in sdl.RULES


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_value_makes_the_validator_raise(data: st.DataObject) -> None:
    """Any JSON value in the place of any value is judged; a file without errors can be read and hashed."""
    values = [line for line in GOOD.split("\n") if ": " in line]
    line = data.draw(st.sampled_from(values))
    value = data.draw(
        st.sampled_from(["null", "[]", "{}", "[null]", "{a: null}", "-1", "1.5", "true", '""', "x", "[[]]"])
    )
    text = GOOD.replace(line, line.split(": ")[0] + ": " + value, 1)
    if not any(finding.severity == "error" for finding in sdl.validate(text)):
        assert len(sdl.manifest_hash(sdl.load(text))) == 64


def test_findings_cannot_write_to_a_terminal() -> None:
    """Control characters of the file do not reach the message."""
    text = GOOD.replace("MODEL=tiny", '"\\e[31mBAD\\n\\u202e NAME=x"')
    for finding in sdl.validate(text):
        assert str(finding).isprintable()


def test_a_file_that_is_not_yaml_says_where() -> None:
    """The parser's own position becomes the line."""
    with pytest.raises(BadYaml) as caught:
        parse("a: 1\nb: [1\nc: 2\n")
    assert caught.value.line >= 2


@pytest.mark.parametrize(
    ("value", "size"),
    [("16Gi", 16 * 2**30), ("1.5Gi", 3 * 2**29), ("512Mi", 2**29), ("1k", 1000), (5, 5), ("5", 5),
     ("16GB", None), ("16gi", None), ("-1Gi", None), ("", None), (True, None), (None, None), ("1e9", None)],
)  # fmt: skip
def test_sizes(value: object, size: int | None) -> None:
    """Sizes are read as the chain reads them, or not at all."""
    assert parse_size(value) == size


@pytest.mark.parametrize(
    ("value", "thousandths"),
    [("500m", 500), (2, 2000), ("1.5", 1500), (0.001, 1), ("x", None), ("5M", None), (True, None), (-1, None)],
)
def test_processors(value: object, thousandths: int | None) -> None:
    """CPU is in thousandths."""
    assert parse_cpu(value) == thousandths


@pytest.mark.parametrize(
    ("value", "units"), [(1, 1), ("8", 8), (0.5, None), ("1.0", None), (-1, None), (True, None)]
)
def test_gpus(value: object, units: int | None) -> None:
    """GPUs come whole."""
    assert parse_gpu_units(value) == units
