"""The sections on other builds' masks and boxes: one sentence a build, bars against the margin, what each build is."""

import pytest

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.figures import View, story
from xaiseg.statistics.interval import Interval

MASKS, BOXES = "equivalence.segmentation", "equivalence.detection"
BUILDS = {
    "int8": {"sentence": "Another build: onnx int8.onnx.", "remains": [], "calibration": None, "convolutions": None},
    "six": {
        "sentence": "Integers on units.", "remains": ["a", "b"], "convolutions": 7,
        "calibration": {"entry": "validation", "cases": ["x", "y"]},
    },
}  # fmt: skip


def estimate(check, metric, value, subject, kind="mean", half=0.004):
    spread = Interval(value, value - half, value + half, 0.05, "m", 40, 40)
    return Estimate(f"{check}/{metric}/{subject}", check, metric, kind, value, spread, subject=subject, n=40)


def view(check, estimates, findings=(), params=None):
    return View(check, params or {}, {one.id: one for one in estimates}, findings, {"variants": BUILDS}, None)


def masks():
    for name, change in (("int8", 0.002), ("six", -0.03)):
        yield estimate(MASKS, "dice_change", change, name)
        yield estimate(MASKS, "flips", 0.00021, name)
        yield estimate(MASKS, "agreement", 0.98, name)
        yield estimate(MASKS, "vanished", 0.02, name, "proportion")
        yield estimate(MASKS, "ece_change", 0.001, name)


def finding(name, verdict):
    requirement = Requirement(MASKS, "dice_change", 0.01, "within", subject=name, severity="gate", why="w")
    return Finding(requirement, verdict, "s", "r")


def test_every_build_is_named_with_its_change_and_its_verdict():
    told = story(view(MASKS, masks(), (finding("int8", Verdict.PASS), finding("six", Verdict.FAIL))))
    assert told.answer.startswith("No: build int8: Dice changes by 0.0020 (−0.0020 to 0.0060)")
    assert "0.021 % of the pixels change sides" in told.answer
    assert "build six: Dice changes by −0.0300" in told.answer
    assert "(40 images, 90 % intervals)" in told.answer
    first, second = told.plots
    assert "within ±0.01" in first.how
    assert 'class="shade"' in first.picture or "f-shade" in first.picture
    assert "outlined lesions that vanish" in second.picture
    assert "Dice moves by more" not in second.picture  # it was not measured


def test_the_tables_hold_every_build_and_what_it_is():
    told = story(view(MASKS, masks()))
    overview, what = told.tables
    assert overview.head == ("figure", "int8", "six")
    assert (
        "calibration error (ECE), change",
        "0.0010 (−0.0030 to 0.0050)",
        "0.0010 (−0.0030 to 0.0050)",
    ) in overview.rows
    assert what.rows == (
        ("int8", "Another build: onnx int8.onnx.", *["not known here"] * 3),
        ("six", "Integers on units.", "2 images of validation", "7 convolutions", "a; b"),
    )


def test_boxes_have_a_section_of_their_own():
    held = [estimate(BOXES, metric, 0.02, "six", "proportion") for metric in ("vanished", "appeared", "loose")]
    told = story(view(BOXES, [*held, estimate(BOXES, "recall_change", -0.01, "six")]))
    assert told.answer.startswith("Build six: boxes that vanish 2.00 % (1.60 to 2.40 %)")
    assert [row[0] for row in told.tables[0].rows] == ["boxes that vanish or move", "animals found, change"]


@pytest.mark.parametrize("check", [MASKS, BOXES])
def test_without_values_the_section_says_so(check):
    told = story(view(check, []))
    assert not told.plots
    assert told.answer
