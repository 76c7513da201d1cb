"""The total in words: with its interval, without one, and where there is no total."""

from __future__ import annotations

from xaiseg.checks.detection_totals import UNEVEN
from xaiseg.estimate import Estimate
from xaiseg.reports.survey import total_words
from xaiseg.statistics.interval import Interval


def one(metric, value, kind="fact", **more):
    return Estimate(f"c/{metric}", "c", metric, kind, value, more.pop("interval", None), **more)


INTERVAL = Interval(271.4, 217.0, 402.0, 0.05, "bootstrap-t over draws (2000)", 100, 100)


def test_a_total_says_what_it_stands_for():
    total = one("animals_total", 271.4, "total", interval=INTERVAL, note=f"x; {UNEVEN}")
    said = total_words([one("detections_sum", 101.0), total, one("animals_total_cv", 0.154)])
    assert said.startswith("The annotators' counts stand for 271 (90 % interval 217 to 402) animals in the surveyed")
    assert "coefficient of variation 0.15" in said
    assert said.endswith(UNEVEN)


def test_a_total_without_an_interval_says_why():
    bare = Interval(30.0, None, None, 0.05, "", 50, 50, reason="2 of the drawn tiles hold an animal")
    said = total_words([one("animals_total", 30.0, "total", interval=bare, reason=bare.reason, note="x")])
    assert said.endswith("no interval: 2 of the drawn tiles hold an animal")
    assert UNEVEN not in said


def test_without_a_total_the_sum_is_no_number_of_animals():
    strata = one("animals_total", 3.0, "total", factor="habitat", level="ice")
    said = total_words([one("detections_sum", 101.0), one("animals_total", None, missing=True), strata])
    assert said == "The sum of 101 detections over images is no number of animals"
    assert total_words([one("dice", 0.9, "mean")]) == ""
