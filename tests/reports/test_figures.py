from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from xaiseg.checks.base import load_checks
from xaiseg.estimate import Estimate
from xaiseg.judge import Verdict
from xaiseg.reports.figures import FIGURES, Story, View, figure, load_figures, plain_story, story
from xaiseg.statistics.interval import Interval


@pytest.fixture(scope="module")
def views(material):
    return {
        item["id"]: View(item["id"], item["params"], material.estimates, material.findings, material.plan, material.run)
        for item in material.plan["checks"]
    }


def alts(told: Story) -> str:
    return " ".join(re.search("<title>(.*?)</title>", str(plot.picture)).group(1) for plot in told.plots)


def test_every_check_of_the_package_has_its_own_story():
    assert set(load_checks()) <= set(load_figures())


def test_registration_refuses_a_second_figure():
    load_figures()
    with pytest.raises(ValueError, match="already has a figure"):
        figure("performance.segmentation")(plain_story)
    assert FIGURES["performance.segmentation"] is not plain_story


def test_stories_answer_in_one_sentence_and_read_their_figures(views):
    for check, view in views.items():
        told = story(view)
        assert told.answer[0].isupper() or told.answer[0].isdigit(), check
        assert told.answer.endswith("."), check
        assert all(plot.how.endswith(".") for plot in told.plots), check
        assert not re.search(r"\bnan\b|None", told.answer + alts(told)), check


def test_performance_counts_what_the_rows_hold(views):
    view = views["performance.segmentation"]
    rows = view.rows()
    dice = rows[(rows["object"] == "") & rows["dice"].notna()]["dice"]
    below = int((dice < 0.5).sum()) + 2
    told = story(view)
    assert f"{below} of {len(dice) + 2} images fall below 0.5" in told.answer
    drawn = str(told.plots[0].picture)
    assert drawn.count('r="2.4"') == len(dice)
    lesions = rows[rows["object"] != ""]
    missed = int((~lesions["found"].astype(bool)).sum())
    assert f"{missed} missed" in alts(told)
    assert str(told.plots[1].picture).count('width="6.4"') == missed


def test_calibration_draws_the_pooled_histogram(views):
    view = views["calibration.pixels"]
    rows = view.rows()
    count, p, y = (np.sum(np.stack(rows[name].to_list()), axis=0) for name in ("count", "sum_p", "sum_y"))
    error = np.abs(p - y).sum() / count.sum()
    assert f"whole image: pooled error {error:.3f}" in alts(story(view))


def test_subgroups_show_every_group(views):
    told = story(views["subgroups.declared"])
    text = str(told.plots[0].picture)
    assert all(f">{level} (" in text for level in "ABCD1234")
    assert str(story(views["subgroups.coverage"]).plots[0].picture).count("patients, ") >= 8


def test_no_claim_without_a_verdict(views):
    view = views["performance.segmentation"]
    open_ones = tuple(dataclasses.replace(f, verdict=Verdict.INSUFFICIENT) for f in view.findings)
    assert story(dataclasses.replace(view, findings=open_ones)).plots[0].claim == ""
    failed = tuple(dataclasses.replace(f, verdict=Verdict.FAIL) for f in view.findings)
    assert story(dataclasses.replace(view, findings=failed)).plots[0].claim.startswith("The mean fails its bound")


@pytest.mark.parametrize(
    ("verdicts", "begin"),
    [
        ({Verdict.PASS}, "Yes: "),
        ({Verdict.PASS, Verdict.INSUFFICIENT}, "Cannot tell yet: "),
        ({Verdict.PASS, Verdict.NOT_RUN}, "Not known in full, since not everything was run: "),
        ({Verdict.PASS, Verdict.INSUFFICIENT, Verdict.FAIL}, "No: "),
        ({Verdict.ERROR, Verdict.PASS}, "Not known, since the check crashed: "),
    ],
)
def test_the_answer_follows_the_worst_gate(views, verdicts, begin):
    view = views["performance.segmentation"]
    gates = [f for f in view.findings if f.requirement.severity == "gate"]
    chosen = tuple(dataclasses.replace(f, verdict=v) for f, v in zip(gates, verdicts, strict=False))
    assert dataclasses.replace(view, findings=chosen).lead("so") == f"{begin}so"


def test_a_later_check_needs_no_figure(views):
    interval = Interval(0.4, 0.3, 0.5, 0.05, "m", 40, 20)
    held = {
        "new.one/a": Estimate("new.one/a", "new.one", "a", "mean", 0.4, interval, n=40, n_clusters=20),
        "new.one/b": Estimate("new.one/b", "new.one", "b", "fact", 3.0, None),
    }
    view = dataclasses.replace(views["explanation"], check="new.one", estimates=held, findings=())
    told = story(view)
    assert told.answer == "A 0.40 (90 % interval 0.30 to 0.50) and b 3."
    assert len(told.plots) == 1
    assert "0.40 (0.30 to 0.50)" in str(told.plots[0].picture)


def test_a_check_without_numbers_says_why(views):
    for check in load_figures():
        absent = Estimate(f"{check}/m", check, "m", "fact", None, None, reason="no scores", missing=True)
        view = dataclasses.replace(views["explanation"], check=check, estimates={absent.id: absent}, findings=())
        if check not in ("provenance", "data.integrity"):
            assert "no scores" in story(view).answer, check
