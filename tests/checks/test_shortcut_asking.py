"""What the shortcut checks share: batches, shams that serve several edits, and what is asked of whom."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks.fake import FACTS
from tests.checks.shortcut_worlds import honest, tile
from xaiseg.checks.shortcut_asking import Asked, Asker, Trial
from xaiseg.context import CaseContext, Counter, Predictor
from xaiseg.errors import UsageError

ANIMALS = ((10, 10), (10, 50), (40, 10), (40, 50))


def asker(batch, subject=None, most=3):
    case, subject = tile("c0", ANIMALS), subject or honest()
    predictor = Predictor(subject, batch)
    predictor.fill({case.id: case}, Counter())
    plan = {"seed": 3, "facts": {**FACTS, "threshold": 0.5, "batch": batch, "classes": ["seal"]}}
    context = CaseContext("c", None, plan, subject, case, predictor, {}, lambda ref, entry: case)
    return Asker(context, case, Asked(most_objects=most))


def trials(case, count, *, same_sham):
    shams = [case.image.copy() for _ in range(count)]
    for index in range(count):
        edit = case.image.copy()
        edit[0, 10:18, 10:18] = 0.2 + 0.1 * index
        yield Trial("f", str(index), edit, shams[0 if same_sham else index])


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_rows_do_not_depend_on_batches(batch):
    held = asker(batch)
    rows = list(held.rows(trials(held.case, 5, same_sham=False)))
    assert [(row["level"], row["object"]) for row in rows] == [
        (str(index), f"object {number + 1}") for index in range(5) for number in held.chosen()
    ]
    assert held.context.counter.forwards == 10
    whole = asker(64)
    assert rows == list(whole.rows(trials(whole.case, 5, same_sham=False)))


def test_a_sham_that_serves_several_edits_is_predicted_once_a_batch():
    held = asker(64)
    rows = list(held.rows(trials(held.case, 5, same_sham=True)))
    assert held.context.counter.forwards == 6
    other = asker(64)
    assert rows == list(other.rows(trials(other.case, 5, same_sham=False)))


def test_objects_are_drawn_by_seed_from_those_that_are_found():
    drawn = {tuple(asker(2, most=2).chosen()) for _ in range(3)}
    assert len(drawn) == 1
    assert len(next(iter(drawn))) == 2
    assert asker(2, most=9).chosen() == [0, 1, 2, 3]


def test_a_detector_names_the_class_and_the_confidence_as_it_was():
    held = asker(8, most=4)
    rows = list(held.rows(trials(held.case, 1, same_sham=True)))
    assert {row["target"] for row in rows} == {"seal"}
    np.testing.assert_allclose([row["confidence"] for row in rows], 0.9, atol=1e-6)
    assert [row["lost_edit"] for row in rows] == [True, False, False, False]
    assert all(row["neighbour"] is None for row in rows)


@pytest.mark.parametrize("wrong", [{"match_iou": 1.5}, {"most_objects": 0}, {"margin_px": 101.0}, {"match": "dice"}])
def test_wrong_parameters_name_themselves(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Asked(**wrong)
