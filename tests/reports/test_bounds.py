from __future__ import annotations

import re
from dataclasses import replace

import pytest

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.bounds import interval_mark, threshold_plot
from xaiseg.statistics.interval import Interval


def pair(sense, bound, value, lower, upper, verdict=Verdict.PASS, kind="mean"):
    estimate = Estimate("c/m", "c", "m", kind, value, Interval(value, lower, upper, 0.05, "x", 9, 9))
    return Finding(Requirement("c", "m", bound, sense), verdict, "S", "r", "c/m"), {"c/m": estimate}


def places(text: str) -> tuple[float, tuple[float, float]]:
    """Place of the bound and ends of the interval, in px."""
    bar = re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="5.0"[^>]*opacity', text)
    left, width = float(bar.group(1)), float(bar.group(2))
    line = re.search(r'<line x1="([\d.]+)" y1="[\d.]+" x2="\1"[^>]*stroke-width="1.[34]"', text)
    return float(line.group(1)), (left, left + width)


@pytest.mark.parametrize(
    ("sense", "bound", "value", "lower", "upper", "side"),
    [
        ("at_least", 0.7, 0.8, 0.75, 0.85, 1),
        ("at_least", 0.7, 0.6, 0.55, 0.65, -1),
        ("at_least", 0.7, 0.7, 0.65, 0.75, 0),
        ("at_most", 0.1, 0.05, 0.02, 0.08, -1),
        ("at_most", 0.1, 0.2, 0.15, 0.3, 1),
    ],
)
def test_the_interval_lies_on_the_side_of_its_bound_where_the_numbers_do(sense, bound, value, lower, upper, side):
    finding, estimates = pair(sense, bound, value, lower, upper)
    line, (left, right) = places(str(interval_mark(finding, estimates["c/m"])))
    assert (side == 1) == (left > line)
    assert (side == -1) == (right < line)


@pytest.mark.parametrize(
    ("sense", "bound", "value", "ends", "good"),
    [
        ("at_least", 0.7, 0.85, (0.8, 0.9), True),
        ("at_least", 0.7, 0.6, (0.5, 0.65), False),
        ("at_most", 0.1, 0.02, (0.0, 0.05), True),
        ("at_most", 0.1, 0.2, (0.15, 0.25), False),
        ("within", 0.1, 0.0, (-0.05, 0.05), True),
        ("within", 0.1, -0.15, (-0.19, -0.12), False),
    ],
)
def test_on_the_common_axis_good_is_right(sense, bound, value, ends, good):
    finding, estimates = pair(sense, bound, value, *ends)
    line, (left, right) = places(str(threshold_plot([finding], estimates)))
    assert left >= line if good else right <= line


def test_the_common_axis_is_the_room_between_bound_and_ideal():
    finding, estimates = pair("at_least", 0.7, 0.85, 0.7, 1.0)
    line, (left, right) = places(str(threshold_plot([finding], estimates)))
    assert left == pytest.approx(line, abs=0.2), "an end on the bound lies on the line"
    middle = float(re.search(r'<g transform="translate\(([\d.]+)', str(threshold_plot([finding], estimates))).group(1))
    assert middle - line == pytest.approx((right - line) / 2, abs=0.5), "0.85 is half way from 0.7 to 1"


def test_a_bound_of_zero_is_met_or_missed():
    for value, word in ((0.0, Verdict.PASS), (2.0, Verdict.FAIL)):
        fact = Estimate("c/m", "c", "m", "fact", value, None)
        finding = Finding(Requirement("c", "m", 0.0, "at_most"), word, "S", "r", "c/m")
        text = str(threshold_plot([finding], {"c/m": fact}))
        place = float(re.search(r'<g transform="translate\(([\d.]+)', text).group(1))
        line = float(re.search(r'<line x1="([\d.]+)" y1="2.0"', text).group(1))
        assert (place > line) == (word is Verdict.PASS)


def test_nothing_measured_is_said_in_words():
    finding = Finding(Requirement("c", "m", 0.5, "at_least"), Verdict.NOT_RUN, "S", "no data")
    assert interval_mark(finding, None) == ""
    assert threshold_plot([finding], {}) is None
    other, estimates = pair("at_least", 0.7, 0.8, 0.75, 0.85)
    assert ">not run</text>" in threshold_plot([finding, other], estimates)


def test_the_build_stands_first_and_a_long_label_is_not_cut():
    finding, estimates = pair("at_least", 0.7, 0.8, 0.75, 0.85)
    requirement = Requirement(
        "equivalence.explanation", "spearman_to_ceiling", 0.7, "at_least", target="ridge", subject="msdf8"
    )
    held = str(threshold_plot([replace(finding, requirement=requirement)], estimates))
    texts = re.findall(r">([^<]+)</text>", held)
    assert texts[0].startswith("msdf8: rank agreement of maps")
    assert f"{texts[0]} {texts[1]}" == "msdf8: rank agreement of maps, minus the noise ceiling, ridge"


def test_what_does_not_apply_is_not_struck_through():
    held, estimates = pair("at_least", 0.7, 0.8, 0.75, 0.85)
    absent = Finding(Requirement("c", "n", 0.5, "at_least", subject="each"), Verdict.NOT_APPLICABLE, "S", "no boxes")
    text = str(threshold_plot([held, absent], estimates))
    assert text.count('stroke-width="0.6"') == 1, "the axis is drawn for the row that has a value alone"
    assert ">each build: n</text>" in text


def test_alternative_text_says_what_is_drawn():
    finding, estimates = pair("at_most", 0.1, 0.0, 0.0, 0.05, kind="proportion")
    text = interval_mark(finding, estimates["c/m"])
    assert "<title>0 % (90 % interval 0 to 5.0 %); bound at most 10 %: met</title>" in text
