"""What page 1 tells somebody who counts animals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.figures import View
from xaiseg.reports.survey import (
    Mistakes,
    collection_table,
    count_words,
    mistake_words,
    mistakes,
    places,
    survey_answers,
    where_table,
)
from xaiseg.statistics.interval import Interval

CHECK = "performance.detection"


@dataclass(frozen=True)
class Held(View):
    """A view whose rows are given."""

    table: pd.DataFrame | None = field(default=None)

    def rows(self, check=""):
        return self.table


def estimate(metric, value, low=None, high=None, *, stratum="", kind="proportion", clusters=20, **more):
    interval = Interval(value, low, high, 0.05, "", 100, clusters, reason="too few") if value is not None else None
    name = f"{CHECK}/{metric}/{stratum}"
    return Estimate(name, CHECK, metric, kind, value, interval, stratum=stratum, n=100, n_clusters=clusters, **more)


def finding(requirement, verdict, *estimates, failing=(), more=""):
    ids = tuple(item.id for item in estimates)
    return Finding(requirement, verdict, "S", "because", ids[0], ids, failing, more=more)


def view(estimates, findings=(), rows=None, classes=("seal",)):
    plan = {
        "facts": {"classes": list(classes), "threshold": 0.5},
        "protocol": {"decision": {"min_clusters": 5}},
        "data": {"test": {"cluster_column": "flight"}},
    }
    run = SimpleNamespace()
    return Held(CHECK, {"least_empty_tiles": 60}, {e.id: e for e in estimates}, tuple(findings), plan, run, rows)


def row(case, target, detections, objects, ignored=()):
    """A row of the check; detections are (box, score, found)."""
    return {
        "case": case,
        "target": target,
        "score": [score for _, score, _ in detections],
        "found": [found for _, _, found in detections],
        "box": [value for box, _, _ in detections for value in box],
        "reference_box": [value for box in objects for value in box],
        "ignored_box": [value for box in ignored for value in box],
    }


SEAL, FISH, FAR = (0, 0, 10, 10), (40, 40, 50, 50), (80, 80, 90, 90)


def table():
    return pd.DataFrame([
        row("a", "seal", [
            (SEAL, 0.9, 0), ((0, 0, 10, 4), 0.8, -1), (FAR, 0.7, -1), (FAR, 0.4, -1), (FISH, 0.6, -1),
        ], [SEAL]),
        row("a", "fish", [], [FISH]),
        row("b", "seal", [(SEAL, 0.9, -1), (FAR, 0.8, -1), (FAR, 0.8, -2)], []),
        row("b", "fish", [(FISH, 0.7, -1)], []),
    ])  # fmt: skip


def slow_mistakes(rows, threshold):
    """From the definition: one wrong box after the other, with IoU by counting pixels."""

    def pixels(box):
        x0, y0, x1, y1 = (int(value) for value in box)
        return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}

    def overlap(one, other):
        return len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))

    kinds = {"on": 0, "other": 0, "nothing": {}}
    for _, one in rows.iterrows():
        real = [
            (target, np.reshape(boxes, (-1, 4)))
            for case, target, boxes in rows[["case", "target", "reference_box"]].itertuples(index=False)
            if case == one["case"]
        ]
        for box, score, found in zip(np.reshape(one["box"], (-1, 4)), one["score"], one["found"], strict=True):
            if score < threshold or found != -1:
                continue
            mine = max([overlap(box, b) for target, boxes in real for b in boxes if target == one["target"]], default=0)
            other = max(
                [overlap(box, b) for target, boxes in real for b in boxes if target != one["target"]], default=0
            )
            if other >= 0.5 and other > mine:
                kinds["other"] += 1
            elif max(mine, other) >= 0.1:
                kinds["on"] += 1
            else:
                kinds["nothing"][one["case"]] = kinds["nothing"].get(one["case"], 0) + 1
    return kinds


def test_wrong_boxes_are_sorted_by_what_lies_below_them():
    held = view([], rows=table(), classes=("seal", "fish"))
    found, slow = mistakes(held), slow_mistakes(table(), 0.5)
    assert found == Mistakes(total=6, on_animal=1, other_class=1, nothing=4, images=2, largest=3)
    assert (found.on_animal, found.other_class, found.largest) == (
        slow["on"],
        slow["other"],
        max(slow["nothing"].values()),
    )
    assert (found.nothing, found.images) == (sum(slow["nothing"].values()), len(slow["nothing"]))
    assert mistake_words(held).startswith(
        "6 boxes of those above the threshold are wrong: 4 with no animal below (in 2 "
    )


def test_no_wrong_box_is_said():
    right = pd.DataFrame([row("a", "seal", [(SEAL, 0.9, 0)], [SEAL])])
    assert mistake_words(view([], rows=right)) == ""
    assert mistakes(view([])) is None


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (
            -0.2,
            -0.5,
            0.0,
            "20.0 % too few: 100 of its boxes stand for 125 annotated animals (90 % interval 100 to 200)",
        ),
        (0.25, 0.0, 0.25, "25.0 % too many: 100 of its boxes stand for 80 annotated animals (90 % interval 80 to 100)"),
        (0.25, None, None, "25.0 % too many: 100 of its boxes stand for 80 annotated animals."),
    ],
)
def test_a_count_stands_with_its_interval(value, low, high, words):
    assert words in count_words(view([estimate("count_bias", value, low, high, kind="statistic")]))


def test_without_a_count_nothing_is_invented():
    assert count_words(view([])) == "There is no count to compare."
    assert count_words(view([estimate("count_bias", -1.0, -1.0, -1.0, kind="statistic")])) == (
        "There is no count to compare."
    )


NEED = Requirement(CHECK, "recall", 0.7, "at_least", stratum="each", severity="gate")


def groups():
    return [
        estimate("recall", 0.4, 0.3, 0.5, stratum="habitat=silt"),
        estimate("recall", 0.8, 0.6, 0.9, stratum="habitat=brash"),
        estimate("recall", 0.9, 0.8, 0.95, stratum="habitat=floes"),
        estimate("recall", 0.9, None, None, stratum="sea_state=3", clusters=3),
    ]


def test_places_follow_the_finding():
    members = groups()
    said = finding(NEED, Verdict.FAIL, *members, failing=(members[0].id,))
    held = view(members, [said])
    assert [(place.name, place.standing) for place in places(held)] == [
        ("habitat silt", "failed"), ("habitat brash", "open"), ("habitat floes", "met"), ("sea state 3", "thin"),
    ]  # fmt: skip
    shown = where_table(held)
    assert [line[0] for line in shown.rows] == ["Habitat silt", "Sea state 3", "Habitat brash"]
    assert shown.rows[0][1].startswith("animals are overlooked: 40 % (30 to 50 %) found, at least 70 % is required")
    assert "100 animals, 3 flights" in shown.rows[1][2]


def test_a_group_that_fails_alone_and_not_after_correction_says_so():
    members = groups()
    said = finding(NEED, Verdict.INSUFFICIENT, *members)
    held = view(members, [said])
    assert [place.standing for place in places(held)] == ["alone", "open", "met", "thin"]
    rows = {line[0]: line[1] for line in where_table(held).rows}
    assert rows["Habitat silt"].startswith("fails alone, not as one of 4 groups (Holm's correction): 40 %")
    collected = {line[0]: line[1] for line in collection_table(held).rows}
    assert collected["Flights with habitat silt"] == "some more (now 20): it fails alone already"
    assert not any("about 0 more" in line for line in collected.values())
    rows = pd.DataFrame([row("a", "seal", [(SEAL, 0.9, 0)], [SEAL])])
    answers = dict(survey_answers(view([*members, estimate("recall", 0.8, 0.7, 0.9)], [said], rows)))
    assert (
        "probably in habitat silt, which would fail alone but not as one of 4 groups" in answers["Where not?"].lower()
    )


def test_the_pictures_of_each_kind_of_mistake_are_named():
    rows = pd.DataFrame([row("a", "seal", [(FAR, 0.9, -1), ((0, 0, 10, 4), 0.8, -1)], [SEAL])])
    held = view([estimate("recall", 0.5, 0.3, 0.6)], rows=rows)
    assert mistake_words(held).endswith("under “Detected where there is none” and “A second or badly fitting box”.")


def test_boxes_that_meet_no_label_at_all_raise_a_question():
    rows = pd.DataFrame([row("a", "seal", [(FAR, 0.9, -1), (FISH, 0.8, -1)], [SEAL])])
    assert "see first whether the labels belong" in mistake_words(view([estimate("recall", 0.0, 0.0, 0.1)], rows=rows))
    assert "see first" not in mistake_words(view([estimate("recall", 0.1, 0.0, 0.2)], rows=rows))


def test_exact_counts_articles_and_no_mistakes_have_their_words():
    exact = estimate("count_bias", 0.0, -0.02, 0.02, kind="statistic")
    assert count_words(view([exact])).startswith(
        "Summed over all tiles it counts right: 100 of its boxes stand for 100"
    )
    rows = pd.DataFrame([row("a", "animal", [(SEAL, 0.9, 0)], [SEAL])])
    held = view([estimate("recall", 0.8, 0.7, 0.9)], [], rows, classes=("animal",))
    question, answer = survey_answers(held)[2]
    assert (question, answer) == ("What does it take for an animal?", "Nothing: no box above the threshold is wrong.")
    assert mistake_words(held) == ""


def test_a_biased_group_says_so_and_an_unbiased_one_does_not():
    members = groups()
    biased = estimate("count_bias", -0.2, -0.3, -0.11, kind="statistic", stratum="habitat=silt")
    even = estimate("count_bias", -0.2, -0.3, 0.1, kind="statistic", stratum="habitat=brash")
    held = view([*members, biased, even], [finding(NEED, Verdict.FAIL, *members, failing=(members[0].id,))])
    rows = {line[0]: line[1] for line in where_table(held).rows}
    assert rows["Habitat silt"].endswith("counts there are at least 11 % too low")
    assert "counts" not in rows["Habitat brash"]


def test_collection_names_what_is_lacking_and_nothing_that_is_settled():
    members = groups()
    held = view([*members, estimate("known_empty_tiles", 10.0, kind="fact")], [finding(NEED, Verdict.FAIL, *members)])
    rows = {line[0]: line[1] for line in collection_table(held).rows}
    assert rows["Flights with sea state 3"] == "at least 2 more"
    assert rows["Flights with habitat brash"].startswith("about ")
    assert rows["Tiles that somebody looked at and found empty"] == "50 more (now 10)"
    assert "Flights with habitat floes" not in rows
    assert list(rows)[:2] == ["Flights with sea state 3", "Flights with habitat brash"]
    assert "several rows" in collection_table(held).caption


def test_where_every_group_is_thin_none_is_an_exception():
    members = groups()
    rows = pd.DataFrame([row("a", "seal", [(SEAL, 0.9, 0)], [SEAL])])
    thin = [one for one in members if one.stratum == "sea_state=3"]
    both = [*thin, replace(thin[0], id="other", stratum="sea_state=4")]
    for held, said in ((both, "each of the 2 groups."), (thin, "sea state 3."), (members, "sea state 3;")):
        found = view([*held, estimate("recall", 0.8, 0.7, 0.9)], [finding(NEED, Verdict.INSUFFICIENT, *held)], rows)
        assert f"too little was seen of {said}" in dict(survey_answers(found))["Where not?"].lower()


def test_where_all_is_shown_there_is_no_table():
    members = [estimate("recall", 0.9, 0.8, 0.95, stratum="habitat=floes")]
    assert where_table(view(members, [finding(NEED, Verdict.PASS, *members)])) is None


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.FAIL, "Not without correction by hand: animals found lies out of bounds."),
        (Verdict.INSUFFICIENT, "Not shown yet: animals found cannot be decided."),
        (Verdict.PASS, "Yes, on ground like that of these tiles."),
    ],
)
def test_the_first_answer_follows_the_gates(verdict, words):
    recall = estimate("recall", 0.8, 0.7, 0.9)
    overall = finding(Requirement(CHECK, "recall", 0.7, "at_least", severity="gate"), verdict, recall)
    answers = survey_answers(view([recall], [overall], rows=table(), classes=("seal", "fish")))
    assert [question for question, _ in answers] == [
        "Is the count usable?", "Where not?", "What does it take for animals?",
    ]  # fmt: skip
    assert answers[0][1].startswith(words)
    assert answers[1][1].startswith("Not known: no column names habitat")


def test_without_rows_there_are_no_answers():
    assert survey_answers(view([estimate("recall", 0.8, 0.7, 0.9)])) == ()
