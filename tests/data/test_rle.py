from __future__ import annotations

import numpy as np
import pytest

from xaiseg.data.rle import decode_counts, polygon_to_mask, runs_to_mask

coco_mask = pytest.importorskip("pycocotools.mask")

# pycocotools 2.0.11 has the __array__ of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_mask(rng):
    height, width = rng.integers(1, 70, 2)
    if rng.random() < 0.3:
        stripes = np.add.outer(np.arange(height), np.arange(width)) % 17 < rng.integers(1, 17)
        return np.asfortranarray(stripes.astype(np.uint8))
    return np.asfortranarray((rng.random((height, width)) < rng.random()).astype(np.uint8))


def test_compressed_run_lengths_decode_as_pycocotools_wrote_them():
    rng = np.random.default_rng(0)
    for _ in range(400):
        mask = random_mask(rng)
        written = coco_mask.encode(mask)["counts"].decode("ascii")
        assert (runs_to_mask(decode_counts(written), mask.shape) == mask).all()


def test_uncompressed_run_lengths_decode_as_in_pycocotools():
    rng = np.random.default_rng(1)
    for _ in range(200):
        mask = random_mask(rng)
        flat = mask.T.ravel()
        change = np.flatnonzero(np.diff(flat, prepend=0))
        runs = np.diff(change, prepend=0, append=len(flat)).tolist()
        size = [int(side) for side in mask.shape]
        theirs = coco_mask.decode(coco_mask.frPyObjects({"size": size, "counts": runs}, *size))
        assert (runs_to_mask(runs, mask.shape) == theirs).all()
        assert (theirs == mask).all()


def test_long_runs_need_several_characters():
    mask = np.zeros((1200, 1000), np.uint8, order="F")
    mask[3:1100, 700:] = 1
    written = coco_mask.encode(mask)["counts"].decode("ascii")
    assert (runs_to_mask(decode_counts(written), mask.shape) == mask).all()


@pytest.mark.parametrize("kind", ["whole", "half", "real"])
def test_polygons_are_drawn_as_pycocotools_draws_them(kind):
    """Convex or not, self-crossing, and partly outside the image."""
    rng = np.random.default_rng(2)
    for _ in range(400):
        height, width = (int(side) for side in rng.integers(1, 90, 2))
        limit = 5 * max(height, width)
        corners = rng.uniform(-10, 100, (rng.integers(3, 12), 2)).clip(-limit, limit)
        corners = {"whole": np.round(corners), "half": np.round(corners * 2) / 2, "real": corners}[kind]
        flat = corners.ravel().tolist()
        theirs = coco_mask.decode(coco_mask.frPyObjects([flat], height, width))[..., 0]
        assert (polygon_to_mask(flat, (height, width)) == theirs).all(), flat


def test_a_repeated_corner_changes_nothing():
    corners = [1.5, 2, 20, 4, 12, 18.5]
    twice = [1.5, 2, 20, 4, 20, 4, 12, 18.5, 1.5, 2]
    assert (polygon_to_mask(corners, (24, 24)) == polygon_to_mask(twice, (24, 24))).all()


def test_the_area_of_a_large_polygon_is_that_of_its_corners():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    x, y = 150 + 100 * np.cos(angle), 120 + 80 * np.sin(angle)
    mask = polygon_to_mask(np.stack([x, y], axis=1).ravel(), (240, 300))
    shoelace = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert mask.sum() == pytest.approx(shoelace, rel=0.005)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_counts("0\n"), "hold the character"),
        (lambda: decode_counts("0é"), "hold the character"),
        (lambda: decode_counts("0o"), "end inside a number"),
        (lambda: runs_to_mask([3, 2], (2, 3)), "do not fill 2 x 3 pixels"),
        (lambda: runs_to_mask([-1, 7], (2, 3)), "do not fill"),
        (lambda: polygon_to_mask([0, 0, 1, 1], (5, 5)), "three corners"),
        (lambda: polygon_to_mask([0, 0, 1, 1, 2, 2, 3], (5, 5)), "three corners"),
        (lambda: polygon_to_mask([0, 0, 1, 1, 2, float("nan")], (5, 5)), "far outside"),
        (lambda: polygon_to_mask([0, 0, 1e12, 1, 2, 2], (5, 5)), "far outside"),
    ],
)
def test_impossible_outlines(call, message):
    with pytest.raises(ValueError, match=message):
        call()
