"""Totals of drawn tiles: estimator, strata, and every way in which a sidecar falls short of one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_performance_detection import BOX, case_of, detected, estimate_of, tables_of

from xaiseg.checks.base import Tables, get_check
from xaiseg.checks.detection_totals import UNEVEN, drawn_sample, totals
from xaiseg.checks.performance_detection import ID, Params

#: Tile -> (animals, times drawn, probability of one draw, habitat).
DRAWN = {
    "a": (3, 1, 0.02, "ice"),
    "b": (0, 2, 0.05, "ice"),
    "c": (1, 3, 0.01, "rock"),
    "d": (5, 1, 0.04, "rock"),
    "e": (2, 1, 0.02, "ice"),
    "f": (1, 2, 0.03, "ice"),
}
DRAWS = 10


def declared(times, chance, **changes):
    said = {"footprint": "disjoint", "probability": "0.1", "draw_probability": f"{chance}", "drawn": f"{times}",
            "draws": f"{DRAWS}"}  # fmt: skip
    return {name: value for name, value in {**said, **changes}.items() if value}


def tables(changes=None, *, lost=()):
    """Tables of the drawn tiles; ``changes``: tile -> survey columns that are otherwise, "" = left out."""
    pairs, failed = [], []
    for name, (animals, times, chance, _) in DRAWN.items():
        survey = declared(times, chance, **(changes or {}).get(name, {}))
        # Boxes beside each other, so that each is an animal of its own.
        boxes = [(20.0 * i, 10.0, 20.0 * i + 15, 20.0) for i in range(animals)]
        case = case_of(name, *boxes, survey=survey)
        if name in lost:
            failed.append(case)
        else:
            pairs.append((case, detected((BOX, 0.9))))
    held = tables_of(pairs, lost=failed)
    habitat = [DRAWN[name][3] for name in held.cases["case"]]
    return Tables(held.rows, held.cases.assign(habitat=habitat), {**held.facts, "strata": ["habitat"]})


def quantity(held, metric="animals_total", level=""):
    every = get_check(ID).quantities(held, Params())
    return next(one for one in every if (one.metric, one.level, one.target) == (metric, level, ""))


def slow(keep=lambda habitat: True, counts=None):
    """(total, standard error) of Hansen and Hurwitz from the definition, draw by draw."""
    each = [
        (animals if counts is None else counts) * keep(habitat) / chance
        for animals, times, chance, habitat in DRAWN.values()
        for _ in range(times)
    ]
    mean = sum(each) / DRAWS
    return mean, math.sqrt(sum((one - mean) ** 2 for one in each) / (DRAWS * (DRAWS - 1)))


def test_the_total_is_that_of_the_definition_and_its_unit_is_the_draw():
    held = tables()
    found = estimate_of(quantity(held), held)
    value, error = slow()
    assert found.value == pytest.approx(value)
    assert found.interval.sd / math.sqrt(DRAWS) == pytest.approx(error)
    assert (found.kind, found.n, found.n_clusters) == ("total", DRAWS, DRAWS)
    assert found.interval.lower < value < found.interval.upper
    assert found.interval.lower >= sum(animals for animals, *_ in DRAWN.values()), "animals that were seen are there"
    assert UNEVEN in found.note
    assert "availability" in found.note
    assert estimate_of(quantity(held, "animals_total_cv"), held).value == pytest.approx(error / value)
    assert estimate_of(quantity(held, "animals_total_detected"), held).value == pytest.approx(slow(counts=1)[0])


def test_strata_add_up_and_have_errors_of_their_own():
    held = tables()
    for level in ("ice", "rock"):
        found = estimate_of(quantity(held, level=level), held)
        value, _ = slow(lambda habitat, level=level: habitat == level)
        assert found.value == pytest.approx(value)
        assert found.interval.lower is None, "fewer than five tiles with animals"
        assert f"{3 if level == 'ice' else 2} of the drawn tiles hold an animal" in found.reason
    assert slow(lambda habitat: habitat == "ice")[0] + slow(lambda habitat: habitat == "rock")[0] == pytest.approx(
        estimate_of(quantity(held), held).value
    )


def test_clusters_change_nothing_because_the_flights_are_no_sample():
    held = tables()
    joined = Tables(held.rows, held.cases.assign(cluster="one flight"), held.facts)
    assert estimate_of(quantity(held), held).interval == estimate_of(quantity(joined), joined).interval


def test_tiles_drawn_alike_without_replacement_are_horvitz_and_thompsons():
    alike = {name: {"draw_probability": "", "drawn": "1", "draws": "6", "probability": "0.25"} for name in DRAWN}
    held = tables(alike)
    found = estimate_of(quantity(held), held)
    animals = np.array([row[0] for row in DRAWN.values()])
    assert found.value == pytest.approx(animals.sum() / 0.25)
    expected = 24 * math.sqrt((1 - 0.25) * animals.var(ddof=1) / 6)
    assert found.interval.sd / math.sqrt(6) == pytest.approx(expected)
    assert found.note.startswith("Horvitz-Thompson total over 6 draws")
    assert UNEVEN not in found.note


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"a": {"footprint": ""}}, "sum of detections over images, not animals"),
        ({"a": {"footprint": "overlapping"}}, "sum of detections over images, not animals"),
        ({"a": {"probability": ""}}, "sum of detections over images, not animals"),
        ({"a": {"drawn": ""}}, "does not say of every tile how often it was drawn"),
        ({"a": {"draws": "11"}}, "several numbers of draws: 10, 11"),
        ({"a": {"drawn": "2"}}, "11 of 10 draws have a count"),
        ({"a": {"draw_probability": ""}}, "for some tiles and not for all"),
        ({name: {"draw_probability": ""} for name in DRAWN}, "needs draw_probability"),
    ],
)
def test_what_the_sidecar_must_declare(changes, why):
    found = quantity(tables(changes))
    assert why in found.missing
    assert quantity(tables(changes), "animals_total_detected").missing == found.missing


def test_a_drawn_tile_without_an_answer_leaves_no_total():
    assert "7 of 10 draws have a count" in quantity(tables(lost=("c",))).missing


def test_no_animal_at_all_has_no_coefficient_of_variation():
    survey = {name: np.array([text] * 6, dtype=object)
              for name, text in (("drawn", "1"), ("draws", "6"), ("draw_probability", "0.1"))}  # fmt: skip
    sample = drawn_sample(survey, 6, 6)
    held = SimpleNamespace(cases=np.array(list("abcdef"), dtype=object), answered=6, reference=np.zeros(6),
                           detected=np.zeros(6))  # fmt: skip
    every = list(totals(held, "", sample, Tables({}, pd.DataFrame({"case": list("abcdef")}))))
    cv = next(one for one in every if one.metric == "animals_total_cv")
    assert np.isnan(cv.values).all()
