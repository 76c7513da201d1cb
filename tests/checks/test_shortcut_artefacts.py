"""A model that reads marks is caught where they stand; one that shies at them loses its object."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks.shortcut_worlds import Bright, Habit, MarkReader, honest, measured, named, tile
from xaiseg.checks.shortcut_artefacts import ID, Params
from xaiseg.checks.shortcut_asking import NO_ROOM
from xaiseg.editing.artefacts import REGISTRY
from xaiseg.errors import UsageError

ONE = Params(marks=("text",))


def values(found, metric, kind):
    return found[(metric, "", "mark", kind)].values


def test_what_appears_where_the_mark_is():
    for subject, expected in ((MarkReader(), 1.0), (honest(), 0.0)):
        cases = [tile("c0"), tile("c1", ())]  # an empty image takes part
        rows = [row for case in cases for row in measured(ID, subject, case, params=ONE)]
        found = named(ID, rows, cases, ONE)
        assert values(found, "appearance", "text").tolist() == [expected, expected]
        assert (values(found, "false_change", "text") > 0).all() == bool(expected)
        assert values(found, "suppression", "text").tolist() == [0.0]
        assert found[("appearance", "", "mark", "text")].worst == 1.0


@pytest.mark.parametrize("kind", list(REGISTRY))
def test_what_vanishes_for_fear_of_a_mark(kind):
    params = Params(marks=(kind,))
    for looks, expected in ((lambda image, mask: 0.9 - 0.6 * float((image > 0.95).any()), 1.0),
                            (lambda image, mask: 0.9, 0.0)):  # fmt: skip
        case = tile("c0")
        found = named(ID, measured(ID, Habit(looks), case, params=params), [case], params)
        assert values(found, "suppression", kind).tolist() == [expected]
        np.testing.assert_allclose(values(found, "confidence_drop", kind), 0.6 * expected, atol=1e-6)
        assert values(found, "flip_rate", f"{kind}, sham").tolist() == [0.0]


def test_a_segmenter_that_fills_calipers_is_caught():
    params = Params(marks=("calipers", "text"))
    case = tile("c0", masks=True)
    rows = measured(ID, Bright(), case, params=params)  # marks are brighter than its threshold
    found = named(ID, rows, [case], params)
    images = {row["level"]: row for row in rows if "object" not in row}
    for kind in params.marks:
        assert 0 < images[kind]["claim_edit"] <= 1
        assert images[kind]["claim_sham"] == 0
        assert values(found, "appearance", kind)[0] == images[kind]["claim_edit"]
        assert images[kind]["false_edit"] * case.image.size == pytest.approx(
            images[kind]["claim_edit"] * _area(case, kind), rel=1e-6
        )
    capped = measured(ID, Bright(lambda image: image > 0.95), case, params=params)
    assert all(row["claim_edit"] == 0 for row in capped if "object" not in row)


def _area(case, kind):
    mark = REGISTRY[kind](case.shape)
    return mark.paint.size


def test_no_room_is_counted():
    case = tile("c0", ((28, 36),))
    full = type(case)(case.ref, case.image, boxes=np.array([[36, 28, 44, 36, 0], [0, 0, 80, 64, 255]], np.float32))
    params = Params(marks=("text", "border"))
    found = named(ID, measured(ID, honest(), full, params=params), [full], params)
    assert found[("left_out", "", "", NO_ROOM)].values.tolist() == [1.0]
    assert found[("appearance", "", "mark", "text")].missing
    assert values(found, "appearance", "border").tolist() == [0.0]


@pytest.mark.parametrize("marks", [(), ("text", "text"), ("txt",)])
def test_wrong_marks_are_explained(marks):
    with pytest.raises(UsageError, match="marks"):
        Params(marks=marks)
