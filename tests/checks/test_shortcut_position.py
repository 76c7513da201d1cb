"""A model that shies at edges or needs the whole animal; and one that does neither."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks.shortcut_worlds import Bright, Habit, honest, measured, named, tile
from xaiseg.checks.shortcut_position import ID, NO_WAY, Params
from xaiseg.editing.places import SIDES
from xaiseg.errors import UsageError

EDGE = Params(hidden=(), most_objects=3)
HIDDEN = Params(edge=False)


def shy_of_edges(image, mask):
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    return 0.2 if (mask & border).any() else 0.9


def needs_all(image, mask):
    return 0.9 if mask.sum() > 40 else 0.1


def test_the_edge_is_seen_by_those_who_shy_at_it():
    cases = [tile("c0", ((20, 8), (44, 60))), tile("c1", ((8, 40),))]
    for looks, expected in ((shy_of_edges, 1.0), (lambda image, mask: 0.9, 0.0)):
        rows = [row for case in cases for row in measured(ID, Habit(looks), case, params=EDGE)]
        found = named(ID, rows, cases, EDGE)
        assert found[("edge_loss", "", "place", "edge")].values.tolist() == [expected] * 3
        drop = found[("confidence_drop", "", "place", "edge")].values
        np.testing.assert_allclose(drop, 0.7 * expected, atol=1e-6)
        assert found[("flip_rate", "", "place", "edge, sham")].values.tolist() == [0.0] * 3


def test_an_object_at_an_edge_is_left_out():
    case = tile("c0", ((0, 30),))
    found = named(ID, measured(ID, honest(), case, params=EDGE), [case], EDGE)
    assert found[("left_out", "", "", NO_WAY)].values.tolist() == [1.0]
    assert found[("edge_loss", "", "place", "edge")].missing


def test_hidden_shares_come_from_four_sides_and_meet_in_one_number():
    case = tile("c0")
    for looks, losses in ((needs_all, (0.0, 1.0, 1.0)), (lambda image, mask: 0.9, (0.0, 0.0, 0.0))):
        rows = measured(ID, Habit(looks), case, params=HIDDEN)
        assert [row["level"] for row in rows] == [f"{s} % from the {side}" for s in (25, 50, 75) for side in SIDES]
        found = named(ID, rows, [case], HIDDEN)
        for share, expected in zip(("25 %", "50 %", "75 %"), losses, strict=True):
            assert found[("hidden_loss", "", "hidden", share)].values.tolist() == [expected] * 4
            assert found[("flip_rate", "", "hidden", f"{share}, sham")].values.tolist() == [0.0] * 4


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_as_much_is_hidden_as_is_said(share):
    subject, case = honest(), tile("c0")
    measured(ID, subject, case, params=Params(edge=False, hidden=(share,)))
    visible = [int((image[0] > 0.7).sum()) for image in subject.seen[1:]]
    assert visible[::2] == [round(64 * (1 - share))] * 4
    assert visible[1::2] == [64] * 4


def test_a_segmenter_is_moved_and_hidden_too():
    case = tile("c0", ((20, 8),), masks=True)
    rows = measured(ID, Bright(), case, params=Params())
    edge = next(row for row in rows if row["factor"] == "place")
    assert (edge["overlap_edit"], edge["overlap_sham"]) == (1.0, 1.0)
    half = next(row for row in rows if row["level"] == "50 % from the left")
    assert half["overlap_edit"] == pytest.approx(0.5)
    assert half["confidence_edit"] == pytest.approx(0.5, abs=0.06)
    assert all(row["neighbour"] is None for row in rows)


@pytest.mark.parametrize("wrong", [{"hidden": (0.0,)}, {"hidden": (0.5, 0.5)}, {"hidden": (), "edge": False}])
def test_wrong_parts_are_explained(wrong):
    with pytest.raises(UsageError, match="hidden"):
        Params(**wrong)
