"""A model that draws a box wherever there is a floe keeps it when the animal is gone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks.shortcut_worlds import Bright, FloeOnly, Habit, honest, measured, named, tile
from xaiseg.checks.shortcut_asking import NO_ROOM
from xaiseg.checks.shortcut_object import ID, Params
from xaiseg.errors import UsageError

KINDS = ("mean", "blur", "telea")


def values(found, metric, kind):
    return found[(metric, "", "removal", kind)].values


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_stays_without_its_object_is_seen(kind):
    params = Params(fills=(kind,))
    for subject, expected in ((FloeOnly, 0.0), (honest, 1.0)):
        case = tile("c0")
        found = named(ID, measured(ID, subject(), case, params=params), [case], params)
        assert values(found, "removal_effect", kind).tolist() == [expected]
        assert values(found, "flip_rate", f"{kind}, sham").tolist() == [0.0]
        drop = values(found, "confidence_drop", kind)
        np.testing.assert_allclose(drop, 0.9 * expected, atol=1e-6)


def test_the_sham_fills_an_equal_region_of_the_background():
    subject, case = honest(), tile("c0", ((28, 36), (5, 5)))
    measured(ID, subject, case, params=Params(fills=("mean",), most_objects=1))
    _, edit, sham = subject.seen
    noise = np.random.default_rng(0).normal(0, 0.001, case.image.shape).astype(np.float32)
    textured = type(case)(case.ref, case.image + noise, boxes=case.boxes)
    again = honest()
    measured(ID, again, textured, params=Params(fills=("mean",), most_objects=1))
    _, edit, sham = again.seen
    gone, elsewhere = (edit != textured.image)[0], (sham != textured.image)[0]
    assert gone.sum() == elsewhere.sum() > 64
    assert not (gone & elsewhere).any()
    assert np.ptp(np.argwhere(gone), axis=0).tolist() == np.ptp(np.argwhere(elsewhere), axis=0).tolist()
    animals = textured.image[0] > 0.7
    assert not (elsewhere & animals).any()
    assert (gone & animals).sum() == 64


def test_neighbours_are_watched():
    """Each animal is less certain while it has company: removing one raises the other, as was seen with seals."""

    def shy(image, mask):
        return 0.9 - 0.3 * float((image[~mask] > 0.7).sum() > 40)

    case = tile("c0", ((10, 10), (38, 56)))
    params = Params(fills=("telea",))
    found = named(ID, measured(ID, Habit(shy), case, params=params), [case], params)
    np.testing.assert_allclose(values(found, "neighbour_effect", "telea"), [0.3, 0.3], atol=1e-6)
    indifferent = named(ID, measured(ID, honest(), case, params=params), [case], params)
    np.testing.assert_allclose(values(indifferent, "neighbour_effect", "telea"), 0.0, atol=1e-6)
    # With its margin each takes a part of the other away, which says nothing about company.
    touching = tile("c2", ((20, 20), (20, 29)))
    close = named(ID, measured(ID, Habit(shy), touching, params=params), [touching], params)
    assert "two objects" in close[("neighbour_effect", "", "removal", "telea")].missing
    alone = tile("c1")
    lonely = named(ID, measured(ID, honest(), alone, params=params), [alone], params)
    assert "two objects" in lonely[("neighbour_effect", "", "removal", "telea")].missing


def test_no_room_for_a_sham_leaves_the_object_out():
    case = tile("c0")
    boxes = np.array([[36, 28, 44, 36, 0], [0, 0, 80, 27, 255], [0, 37, 80, 64, 255]], np.float32)
    crowded = type(case)(case.ref, case.image, boxes=boxes)
    params = Params(fills=("mean", "blur"))
    wide = np.array([[0, 0, 80, 64, 255]], np.float32)
    full = type(case)(case.ref, case.image, boxes=np.concatenate([boxes[:1], wide]))
    found = named(ID, measured(ID, honest(), full, params=params), [full], params)
    assert found[("left_out", "", "", NO_ROOM)].values.tolist() == [2.0]
    assert found[("removal_effect", "", "removal", "mean")].missing
    assert len(measured(ID, honest(), crowded, params=params)) == 2


def test_a_segmenter_answers_with_its_mask():
    case = tile("c0", masks=True)
    params = Params(fills=("telea",))
    rows = measured(ID, Bright(), case, params=params)
    (row,) = rows
    assert row["overlap_sham"] == 1.0
    assert row["overlap_edit"] == 0.0
    assert row["confidence_sham"] > 0.9 > 0.1 > row["confidence_edit"]
    found = named(ID, rows, [case], params)
    assert values(found, "removal_effect", "telea").tolist() == [1.0]


def test_the_worst_is_that_nothing_goes():
    found = named(ID, [{"case": "a", "status": "failed", "reason": "cut short"}], [tile("a")])
    effect = found[("removal_effect", "", "removal", "mean")]
    assert (effect.worst, effect.better, effect.missing) == (-1.0, "higher", "")


@pytest.mark.parametrize("fills", [(), ("mean", "mean"), ("paint",)])
def test_wrong_fillings_are_explained(fills):
    with pytest.raises(UsageError, match=r"fills|filling"):
        Params(fills=fills)
