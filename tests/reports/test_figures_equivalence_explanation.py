"""The section on the maps of other builds: the sentence, the forest beside its ceiling, the maps and the tables."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from xaiseg.checks.equivalence_explanation import ID, Params
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.figures import View, story
from xaiseg.run import EvidenceItem, plain
from xaiseg.statistics.interval import Interval

CEILINGS = {"ridge": 0.8, "occlusion": 1.0}
SPEARMAN = {("ridge", "int8"): 0.95, ("ridge", "six"): 0.45, ("occlusion", "int8"): 0.9, ("occlusion", "six"): 0.6}
GATE = Requirement(
    ID, "spearman_to_ceiling", -0.25, "at_least", target="ridge", subject="six", severity="gate", why="w"
)
WARN = Requirement(ID, "deletion_change", -0.15, "at_least", target="ridge", subject="int8", severity="warn", why="w")


def estimate(metric, target, value, subject="reference", kind="mean", **more):
    spread = Interval(value, value - 0.05, value + 0.05, 0.05, "m", 25, 25)
    id = "/".join([metric, target, subject])
    return Estimate(
        id, ID, metric, kind, value, spread, target=target, subject=subject, n=25, n_clusters=25, **more
    )  # fmt: skip


def every(variants=("int8", "six")):
    for method, ceiling in CEILINGS.items():
        yield estimate("spearman_ceiling", method, ceiling)
        yield estimate("pointing_agreement_ceiling", method, 1.0, kind="proportion")
        yield estimate("deletion", method, 0.71)
        for name in variants:
            value = SPEARMAN[method, name]
            yield estimate("spearman", method, value, name)
            yield estimate("spearman_to_ceiling", method, value - ceiling, name)
            yield estimate("pointing_agreement", method, 0.92, name, kind="proportion")
            yield estimate("deletion", method, 0.7, name)
            yield estimate("deletion_change", method, -0.01, name)


def item(case, *, score=None, kind=(), draw=0, maps=True):
    arrays = {"image": np.full((12, 16), 90, np.uint8), "prediction": np.eye(12, 16, dtype=np.uint8)}
    if maps:
        names = [f"{method}: {name}" for method in CEILINGS for name in ("audited", "int8", "six")]
        arrays |= {f"map:{name}": np.eye(64, dtype=np.float16) * (1 + place) for place, name in enumerate(names)}
    return EvidenceItem(case, kind, {} if score is None else {ID: score}, draw, arrays)


def view_of(estimates=None, *, findings=(), evidence=(), params=None):
    held = {one.id: one for one in (every() if estimates is None else estimates)}
    run = SimpleNamespace(evidence=lambda: list(evidence))
    plan = {"seed": 0, "variants": {"int8": {}, "six": {}}}
    return View(ID, plain(params or Params()), held, tuple(findings), plan, run)


def finding(requirement, verdict):
    return Finding(requirement, verdict, "sentence", "reason", "0")


def words(plot) -> str:
    return " ".join(re.findall(">([^<>]+)<", str(plot.picture)))


def test_the_answer_names_every_build_beside_the_ceiling():
    told = story(view_of(findings=[finding(GATE, Verdict.FAIL)]))
    assert told.answer == (
        "No: rank agreement with the audited build's maps (25 images). By ridge: int8 0.950 and six 0.450; the audited "
        "build with other masks 0.800. By occlusion: int8 0.900 and six 0.600; it draws no masks, so its ceiling is 1."
    )


def test_a_forest_for_each_method_with_the_bound_where_it_holds():
    ridge, occlusion, deletion = story(
        view_of(findings=[finding(GATE, Verdict.FAIL), finding(WARN, Verdict.PASS)])
    ).plots
    assert "ridge: rank correlation" in words(ridge)
    assert "0.150 (0.100 to 0.200)" in words(ridge)
    assert "−0.350" in words(ridge)
    assert "at least -0.25" in ridge.how
    assert "f-shade" in str(ridge.picture)
    assert "f-shade" not in str(occlusion.picture)
    assert "draws no masks" in occlusion.how
    assert "Required" not in occlusion.how
    assert "ridge at least -0.15" in deletion.how
    assert "f-shade" not in str(deletion.picture)  # the bound is on one of the two methods that are drawn


def test_verdicts_mark_their_own_rows_alone():
    plain_rows = story(view_of()).plots[0].picture
    marked = story(view_of(findings=[finding(GATE, Verdict.FAIL)])).plots
    assert str(marked[0].picture).count("<circle") == str(plain_rows).count("<circle") - 1
    assert str(marked[1].picture) == str(story(view_of()).plots[1].picture)


def test_the_table_holds_the_ceiling_beside_the_builds():
    first, second = story(view_of()).tables
    assert first.head == ("measure", "audited, again", "int8", "six")
    assert first.rows == (
        ("rank correlation ↑", "0.80", "0.95", "0.45"),
        ("both or neither point into the region ↑", "100 %", "92 %", "92 %"),
        ("own map, deletion, all pixels", "0.71", "0.70", "0.70"),
    )
    assert second.caption.startswith("occlusion")


def test_the_case_that_agrees_least_stands_above_one_drawn_at_random():
    evidence = [
        item("fine", score=0.1, kind=("random",), draw=2), item("worst", score=-0.9, kind=(f"worst:{ID}",)),
        item("drawn", score=0.0, kind=("random",), draw=1), item("bare", kind=("random",), maps=False),
    ]  # fmt: skip
    plot = story(view_of(evidence=evidence)).plots[-1]
    assert "the case that agrees least (worst); then one drawn at random (drawn)" in plot.how
    shown = words(plot)
    assert [shown.count(name) for name in ("audited", "int8", "six")] == [4 + 1, 4 + 1, 4 + 1]  # pictures, alternative
    assert str(plot.picture).count("<image") == 2 * 2 * (1 + 3)


def test_without_kept_maps_there_is_no_picture_of_maps():
    assert len(story(view_of(evidence=[item("bare", maps=False)])).plots) == 3


def test_a_run_without_maps_says_why():
    none = Estimate("a", ID, "spearman", "mean", None, None, target="ridge", missing=True, reason="no foreground")
    told = story(view_of([none]))
    assert told.plots == ()
    assert "no foreground" in told.answer


@pytest.mark.parametrize("name", ["<script>", "a&b"])
def test_names_of_builds_are_escaped(name):
    found = [one for one in every() if one.subject != "six"]
    found += [estimate("spearman", "ridge", 0.9, name), estimate("spearman_to_ceiling", "ridge", 0.1, name)]
    view = view_of(found)
    view.plan["variants"][name] = {}
    picture = str(story(view).plots[0].picture)
    assert "<script>" not in picture
    assert "a&b" not in picture
