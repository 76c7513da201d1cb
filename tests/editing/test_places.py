from __future__ import annotations

import numpy as np
import pytest

from xaiseg.editing.places import SIDES, distances, edge_shifts, hidden_part, shifted
from xaiseg.editing.regions import moved


def square(top, left, side=4, shape=(40, 60)):
    region = np.zeros(shape, bool)
    region[top : top + side, left : left + side] = True
    return region


@pytest.mark.parametrize("step", [(0, 0), (3, -5), (-7, 2), (0, 9)])
def test_shifting_moves_every_pixel_and_mirrors_the_rest(step):
    image = np.random.default_rng(0).random((2, 12, 15))
    found = shifted(image, *step)
    for y in range(12):
        for x in range(15):
            row, column = y - step[0], x - step[1]
            row = -1 - row if row < 0 else 2 * 12 - 1 - row if row >= 12 else row
            column = -1 - column if column < 0 else 2 * 15 - 1 - column if column >= 15 else column
            np.testing.assert_array_equal(found[:, y, x], image[:, row, column])


@pytest.mark.parametrize("place", [(2, 30), (30, 20), (15, 3), (18, 52), (10, 10)])
def test_the_edit_touches_the_nearest_edge_and_the_sham_keeps_away(place):
    region = square(*place)
    reach = min(distances(region).values())
    edit, sham = edge_shifts(region)
    assert min(distances(moved(region, *edit)).values()) == 0
    assert max(map(abs, edit)) == max(map(abs, sham)) == reach
    left = [min(distances(moved(region, *step)).values()) for step in ((reach, 0), (-reach, 0), (0, reach), (0, -reach))
            if step != edit and moved(region, *step).sum() == region.sum()]  # fmt: skip
    assert min(distances(moved(region, *sham)).values()) == max(left)
    assert moved(region, *edit).sum() == moved(region, *sham).sum() == region.sum()


def test_no_shift_where_there_is_no_fair_sham():
    assert edge_shifts(square(0, 20)) is None
    assert edge_shifts(square(8, 8, side=4, shape=(20, 20))) is None  # in the middle each shift reaches an edge


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_hidden_part_comes_from_its_side_and_is_as_large_as_asked(side, share):
    rows, columns = np.ogrid[:40, :60]
    region = ((rows - 20) / 12) ** 2 + ((columns - 30) / 20) ** 2 <= 1
    hidden = hidden_part(region, side, share)
    axis = 1 if side in ("left", "right") else 0
    places = np.argwhere(region)[:, axis]
    cuts = [np.mean(places <= cut if side in ("left", "top") else places >= cut) for cut in np.unique(places)]
    got = hidden.sum() / region.sum()
    assert abs(got - share) == pytest.approx(min(abs(cut - share) for cut in cuts))
    assert not (hidden & ~region).any()
    inside, outside = np.argwhere(hidden)[:, axis], np.argwhere(region & ~hidden)[:, axis]
    assert inside.max() < outside.min() if side in ("left", "top") else inside.min() > outside.max()


def test_something_always_shows_where_it_can():
    region = square(5, 5, side=2)
    for side in SIDES:
        assert hidden_part(region, side, 0.99).sum() == 2
        assert hidden_part(region, side, 0.01).sum() == 2
