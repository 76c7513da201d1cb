from __future__ import annotations

import numpy as np
import pytest

from xaiseg.editing.regions import bounds_of, free_place, moved, outlined, widened


def blob(seed, shape=(14, 17)):
    rng = np.random.default_rng(seed)
    region = np.zeros(shape, bool)
    top, left = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 5)
    region[top : top + 4, left : left + 5] = rng.random((4, 5)) < 0.6
    region[top, left] = True
    return region


def test_a_slanted_outline_is_not_its_box():
    diamond = np.array([[8.0, 0.0], [16.0, 8.0], [8.0, 16.0], [0.0, 8.0]])
    box = np.array([0, 0, 16, 16])
    region = outlined((diamond,), box, (16, 16))
    assert outlined((), box, (16, 16)).all()
    assert region.mean() == pytest.approx(0.5, abs=0.04)
    assert not region[:3, :3].any()
    assert region[6:10, 6:10].all()


def test_a_box_beyond_the_image_is_cut():
    region = outlined((), np.array([-3.0, 1.0, 2.0, 99.0]), (4, 5))
    assert region.sum() == 3 * 2
    assert bounds_of(region) == (0, 1, 2, 4)


def test_an_empty_region_has_no_bounds():
    with pytest.raises(ValueError, match="empty"):
        bounds_of(np.zeros((3, 3), bool))


@pytest.mark.parametrize("margin", [0.0, 1.0, 1.5, 3.0])
def test_widening_is_a_distance(margin):
    region = blob(3)
    points = np.argwhere(region)
    rows, columns = np.indices(region.shape)
    expected = np.zeros(region.shape, bool)
    for y, x in points:
        expected |= np.hypot(rows - y, columns - x) <= margin
    np.testing.assert_array_equal(widened(region, margin), expected)


def test_nothing_widened_is_nothing():
    assert not widened(np.zeros((4, 4), bool), 3).any()


@pytest.mark.parametrize("step", [(0, 0), (2, -1), (-30, 0), (3, 40)])
def test_moving_drops_what_leaves(step):
    region = blob(1)
    expected = np.zeros_like(region)
    for y, x in np.argwhere(region):
        to = (y + step[0], x + step[1])
        if 0 <= to[0] < region.shape[0] and 0 <= to[1] < region.shape[1]:
            expected[to] = True
    np.testing.assert_array_equal(moved(region, *step), expected)


@pytest.mark.parametrize("seed", range(6))
def test_free_places_are_all_places_that_touch_nothing(seed):
    region = blob(seed)
    taken = np.random.default_rng(seed).random(region.shape) < 0.12
    height, width = region.shape
    whole = int(region.sum())
    allowed = {
        (down, right)
        for down in range(-height, height)
        for right in range(-width, width)
        if moved(region, down, right).sum() == whole and not (moved(region, down, right) & taken).any()
    }
    drawn = {free_place(region, taken, np.random.default_rng(index)) for index in range(600)}
    assert drawn - {None} <= allowed
    assert len(drawn - {None}) > 0.8 * len(allowed)
    assert (None in drawn) == (not allowed)


def test_no_room_is_said():
    region = blob(0)
    assert free_place(region, np.ones_like(region), np.random.default_rng(0)) is None
