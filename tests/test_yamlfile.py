"""YAML: plain data with lines, and nothing that hides or multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaiseg.errors import UsageError
from xaiseg.yamlfile import parse_yaml, read_yaml, where

MINE = Path("mine.yaml")


def test_values_are_plain_and_dates_stay_text():
    text = "a: [1, 2.5, true, null, x, '7', 2026-11-24, 10(3), yes]\nb: {c: 1e-3}\n"
    held = parse_yaml(text, path=MINE)
    assert held.data == {"a": [1, 2.5, True, None, "x", "7", "2026-11-24", "10(3)", "yes"], "b": {"c": 0.001}}
    assert held.text == text


def test_every_place_has_its_line():
    held = parse_yaml("a:\n  - x\n  -\n    b: 1\n    c: [\n      2]\n", path=MINE)
    places = [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("a", 1, "c"), ("a", 1, "c", 0)]
    assert [held.where(*place) for place in places] == [f"mine.yaml:{line}" for line in (1, 2, 4, 4, 5, 6)]
    assert held.where("a", 1, "b", "unknown") == "mine.yaml:4"
    assert where(MINE, held.lines, ("nothing",)) == "mine.yaml"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(text):
    assert not parse_yaml(text, path=MINE).data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "mine.yaml:2: 'a' stands twice, first in line 1. Keep one of them."),
        ("a: &x [1]\nb: *x\n", "mine.yaml:1: anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['x']\n", "mine.yaml:1: the tag tag:yaml.org,2002:python/object/apply"),
        ("a: !secret x\n", "mine.yaml:1: the tag !secret is not allowed"),
        ("a: [1\nb: 2\n", "mine.yaml:2: the YAML is broken"),
        ("a: \t- x\n\tb", "mine.yaml:1: the YAML is broken"),
        ("a: 1\n--- \nb: 1\n", "the YAML is broken"),
        ("a: \x01\n", "the YAML is broken"),
        ("- a\n- b\n", "not a mapping of keys to values. Got: list."),
        ("a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a: " + "[" * 400_000, "nested too deeply"),
        ("? [1, 2]\n: 3\n", "mine.yaml:1: a key must be text"),
        ("a: .nan\n", "mine.yaml:1: the number is not finite"),
        ("a: 1\nb: -.inf\n", "mine.yaml:2: the number is not finite"),
    ],
)
def test_yaml_that_hides_or_multiplies_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, path=MINE)
    assert said in str(caught.value)


def test_a_file_must_be_there_small_and_utf_8(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(path)
    path.write_bytes(b"protocol: caf\xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_yaml(path)
    path.write_text("a: " + "x" * 1_000_001, encoding="utf-8")
    with pytest.raises(UsageError, match="too large"):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: caf\xc3\xa9\r\n")
    assert read_yaml(path).data == {"a": "caf\u00e9"}
