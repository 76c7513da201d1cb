"""Labels of points stand apart, near their points and inside the frame."""

from __future__ import annotations

import numpy as np
import pytest

from xaiseg.reports.placing import apart, extent

FRAME = (0.0, 0.0, 300.0, 190.0)


def boxes(points, words, frame=FRAME):
    spots = apart(points, words, frame)
    return spots, [extent(spot, 6.0 * len(text), 12) for spot, text in zip(spots, words, strict=True)]


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("seed", range(20))
def test_no_label_covers_another_or_a_point(seed):
    rng = np.random.default_rng(seed)
    # Builds lie close to one another: that is where labels collide.
    points = [(float(x), float(y)) for x, y in rng.normal((140, 90), (30, 4), (6, 2))]
    words = [f"build{index}" for index in range(6)]
    _, held = boxes(points, words)
    for index, box in enumerate(held):
        assert not any(overlap(box, other) for other in held[index + 1 :])
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)
        assert FRAME[0] <= box[0]
        assert box[2] <= FRAME[2]


def test_a_point_alone_has_its_label_at_its_right_and_points_at_one_place_have_them_stacked():
    (spot,), _ = boxes([(100.0, 100.0)], ["one"])
    assert (spot.x, spot.y, spot.anchor, spot.moved) == (108.0, 104.0, "start", False)
    spots, _ = boxes([(100.0, 100.0)] * 3, ["one", "two", "three"])
    assert len({(spot.anchor, spot.y) for spot in spots}) == 3
    (edge,), _ = boxes([(295.0, 100.0)], ["a long name"])
    assert edge.anchor == "end"


def test_a_full_frame_still_gives_every_label_a_place():
    spots, _ = boxes([(10.0, 10.0)] * 4, ["long"] * 4, frame=(0.0, 0.0, 40.0, 20.0))
    assert len(spots) == 4
