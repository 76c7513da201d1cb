"""Annotations cut at the border of a tile: what lies in the tile is there, nothing else is, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from xaiseg.data.cutting import area, centre, clipped, cut_things
from xaiseg.errors import UsageError

TILE = (40, 50)


def star(rng, corners=9):
    """A simple polygon, mostly concave, around the border of the tile."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(4, 30, corners)
    centre = rng.uniform(-5, 55, 2)
    return centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def holds(polygon, points):
    """Even-odd rule, ray by ray."""
    odd = np.zeros(len(points), dtype=bool)
    for one, other in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
        crosses = (one[1] > points[:, 1]) != (other[1] > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            x = one[0] + (points[:, 1] - one[1]) * (other[0] - one[0]) / (other[1] - one[1])
        odd ^= crosses & (points[:, 0] < x)
    return odd


@pytest.mark.parametrize("seed", range(40))
def test_a_point_of_the_tile_lies_in_the_cut_outline_where_it_lay_in_the_whole(seed):
    rng = np.random.default_rng(seed)
    whole = star(rng)
    points = rng.uniform((0, 0), (TILE[1], TILE[0]), (500, 2))
    part = clipped(whole, TILE)
    inside = holds(part, points) if len(part) else np.zeros(len(points), dtype=bool)
    assert (inside == holds(whole, points)).all()
    assert ((part >= 0) & (part <= (TILE[1], TILE[0]))).all()


@pytest.mark.parametrize("seed", range(10))
def test_areas_of_the_tiles_sum_to_that_of_the_whole(seed):
    whole = star(np.random.default_rng(seed))
    starts = range(-100, 150, 50)
    parts = [clipped(whole - (x, y), (50, 50)) for x in starts for y in starts]
    assert sum(area(part) for part in parts) == pytest.approx(area(whole))


def thing(bbox=None, *polygons, **more):
    held = {"id": 3, "category_id": 1, **more}
    held |= {"bbox": list(bbox)} if bbox else {}
    return held | ({"segmentation": [list(part) for part in polygons]} if polygons else {})


def test_boxes_are_cut_and_halves_are_ignored():
    things = [{"category_id": 1, "bbox": [90, 0, 40, 10]}, {"category_id": 1, "bbox": [10, 10, 5, 5], "iscrowd": 1}]
    left, right = (list(cut_things(things, 0, x, (100, 100))) for x in (0, 100))
    assert [(box["bbox"], box["iscrowd"]) for box in left] == [([90, 0, 10, 10], 1), ([10, 10, 5, 5], 1)]
    assert [(box["bbox"], box["iscrowd"]) for box in right] == [([0, 0, 30, 10], 0)]


def test_the_area_of_the_outline_decides_what_is_ignored():
    # The box lies by 60 % in the left tile; of the triangle, whose tip points there, 36 %.
    triangle = thing((40, 10, 100, 20), (40, 20, 140, 10, 140, 30))
    left, right = (next(cut_things([triangle], 0, x, (100, 100))) for x in (0, 100))
    assert (left["iscrowd"], right["iscrowd"]) == (1, 0)
    assert left["bbox"] == [40, 14, 60, 12]  # around what is left, not the cut of the whole box
    assert right["bbox"] == [0, 10, 40, 20]


def test_a_corner_of_a_box_without_any_of_the_object_is_nothing():
    slanted = thing((90, 0, 40, 40), (90, 40, 130, 0, 130, 40))
    assert list(cut_things([slanted], 0, 0, (20, 100))) == []
    assert len(list(cut_things([thing((90, 0, 40, 40))], 0, 0, (20, 100)))) == 1


def test_an_object_inside_keeps_its_own_box():
    kept = next(cut_things([thing((10, 10, 20, 20), (11, 11, 29, 11, 29, 29))], 0, 0, (100, 100)))
    assert kept["bbox"] == [10, 10, 20, 20]
    assert kept["segmentation"] == [[11, 11, 29, 11, 29, 29]]


@pytest.mark.parametrize(
    "outline",
    [
        [[60, 60, 90, 60, 90, 90]],  # of another object
        [[10, 10, 20]],
        [[10, 10, 20, "x", 20, 20]],
        {"size": [100, 100], "counts": [0, 10000]},
        [],
    ],
)
def test_an_outline_that_is_none_leaves_the_box(outline):
    kept = next(cut_things([thing((10, 10, 20, 20), segmentation=outline)], 0, 0, (100, 100)))
    assert (kept["bbox"], "segmentation" in kept) == ([10, 10, 20, 20], False)


def test_outlines_alone_have_a_box_and_nothing_at_all_is_refused():
    kept = next(cut_things([thing(None, (10, 10, 20, 10, 20, 30))], 0, 0, (100, 100)))
    assert kept["bbox"] == [10, 10, 10, 20]
    with pytest.raises(UsageError, match="annotation 3: an annotation has neither bbox nor polygons"):
        list(cut_things([thing()], 0, 0, (100, 100)))


PICTURE = (230, 330)


def counted(one, size=100):
    """(top, left) of the tiles in which it counts, and of those in which it is a region to ignore."""
    found = {}
    for top in range(0, PICTURE[0], size):
        for left in range(0, PICTURE[1], size):
            shape = min(size, PICTURE[0] - top), min(size, PICTURE[1] - left)
            for kept in cut_things([one], top, left, shape, PICTURE):
                found[top, left] = kept["iscrowd"]
    return sorted(tile for tile in found if not found[tile]), sorted(tile for tile in found if found[tile])


@pytest.mark.parametrize(
    ("box", "owner", "others"),
    [
        ((90, 90, 20, 20), (100, 100), [(0, 0), (0, 100), (100, 0)]),  # a quarter in each
        ((90, 10, 20, 20), (0, 100), [(0, 0)]),  # half and half
        ((80, 10, 30, 20), (0, 0), [(0, 100)]),
        ((60, 10, 140, 20), (0, 100), [(0, 0)]),
        ((20, 10, 280, 20), (0, 100), [(0, 0), (0, 200)]),  # less than half in each
        ((310, 10, 40, 20), (0, 300), []),  # half of it sticks out of the picture, and its middle lies on the border
        ((-20, -10, 40, 20), (0, 0), []),
    ],
)
def test_without_overlap_an_animal_counts_once(box, owner, others):
    assert counted(thing(box)) == ([owner], others)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("size", [17, 40, 100])
def test_without_overlap_any_outline_counts_once(seed, size):
    rng = np.random.default_rng(seed)
    whole = star(rng, corners=int(rng.integers(3, 12))) * (1.0, float(rng.uniform(0.2, 2))) + rng.uniform(20, 200, 2)
    seen = clipped(whole, PICTURE)
    if not area(seen):
        return
    mine, others = counted(thing(None, whole.ravel().tolist()), size)
    assert len(mine) == 1
    for top in range(0, PICTURE[0], size):
        for left in range(0, PICTURE[1], size):
            tile = min(size, PICTURE[0] - top), min(size, PICTURE[1] - left)
            part = area(clipped(whole - (left, top), tile))
            assert (part > 0) == ((top, left) in [*mine, *others])


def test_a_hollow_outline_counts_where_some_of_it_lies():
    horseshoe = (0, 0, 198, 0, 198, 9, 9, 9, 9, 189, 198, 189, 198, 198, 0, 198)
    assert counted(thing((0, 0, 198, 198), horseshoe)) == ([(0, 0)], [(0, 100), (100, 0), (100, 100)])
    bars = [(0, 0, 150, 0, 150, 4, 0, 4), (0, 30, 150, 30, 150, 34, 0, 34)]
    assert counted(thing((0, 0, 150, 34), *bars)) == ([(0, 0)], [(0, 100)])


def test_regions_to_ignore_stay_so_and_crossed_outlines_have_a_centre():
    assert counted(thing((90, 10, 20, 20), iscrowd=1)) == ([], [(0, 0), (0, 100)])
    bow = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10.5]])
    x, y = centre((0, 0, 10, 10.5), [bow], PICTURE)
    assert 0 <= x <= 10
    assert 0 <= y <= 10.5
