from __future__ import annotations

import re

import pytest

from xaiseg.estimate import Estimate
from xaiseg.protocol import Requirement
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.statistics.interval import Interval


def test_rows_share_one_axis_and_keep_their_order():
    rows = [ForestRow("low", 0.2, 0.1, 0.3, "a"), ForestRow("high", 0.8, 0.7, 0.9, "b")]
    text = str(forest(rows, title="t", alt="x"))
    centres = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)]
    assert centres[0] < centres[1]
    bars = [(float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', text)]
    assert bars[0][1] == pytest.approx(bars[1][1], abs=0.2)
    assert bars[0][0] + bars[0][1] / 2 == pytest.approx(centres[0], abs=0.2)


def test_the_bad_side_of_each_sense_is_shaded():
    rows = [ForestRow("r", 0.5, 0.4, 0.6)]
    for sense, shades in (("at_least", 1), ("at_most", 1), ("within", 2)):
        text = str(forest(rows, title="t", alt="x", requirement=Requirement("c", "m", 0.45, sense)))
        assert text.count("f-shade") == shades


def test_a_row_without_interval_is_hollow_and_says_why():
    small = Interval(0.4, None, None, 0.05, "", 3, 3, reason="3 clusters; at least 5 are needed")
    row = ForestRow.of(Estimate("i", "c", "m", "proportion", 0.4, small, reason=small.reason))
    assert (row.value, row.lower, row.right) == (40.0, None, "too few clusters")
    assert "f-paper" in str(forest([row], title="t", alt="x"))


def test_texts_are_escaped():
    text = str(forest([ForestRow("<b>&", 1.0, 0.5, 1.5, "<i>")], title="<u>", alt="<s>"))
    assert "<b>" not in text
    assert all(word in text for word in ("&lt;b&gt;&amp;", "&lt;i&gt;", "&lt;u&gt;", "<title>&lt;s&gt;</title>"))
