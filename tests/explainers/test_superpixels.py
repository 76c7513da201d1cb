import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.superpixels import grid_segments, segments_of, slic_segments


@pytest.mark.parametrize("shape", [(1, 40, 60), (3, 33, 20), (4, 16, 16), (1, 1, 9), (1, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_superpixels_are_bounded_and_cover_the_image(shape, count):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1)).numpy() * 300 - 50
    found = slic_segments(image, count)
    assert 1 <= found.count <= count
    assert found.labels.shape == shape[1:]
    assert sorted(np.unique(found.labels)) == list(range(found.count))
    assert found == slic_segments(image, count)


def test_superpixels_follow_edges():
    image = bright_square(48, 64, top=10, left=13, side=22).numpy()
    labels = slic_segments(image, 24).labels
    inside = np.zeros((48, 64), dtype=bool)
    inside[10:32, 13:35] = True
    share = np.array([inside[labels == k].mean() for k in range(labels.max() + 1)])
    mixed = np.minimum(share, 1 - share) @ np.bincount(labels.ravel()) / labels.size
    assert mixed < 0.02


def test_rectangles_are_about_square():
    found = grid_segments((20, 40), 8)
    assert found.count == 8
    assert np.bincount(found.labels.ravel()).tolist() == [100] * 8
    assert grid_segments((1, 3), 64).count == 3


def test_a_cut_and_segments_go_together():
    session = Session(small_unet(), bright_square())
    mine = Segments.of(np.arange(24 * 32).reshape(24, 32) // 200)
    assert segments_of(session, "given", 3, mine) is mine
    assert segments_of(session, "grid", 3, None).count == 3
    for cut, given in (("given", None), ("slic", mine)):
        with pytest.raises(UsageError, match="do not fit"):
            segments_of(session, cut, 3, given)
    with pytest.raises(UsageError, match="no such cut"):
        segments_of(session, "voronoi", 3, None)
    with pytest.raises(UsageError, match="no segments are left"):
        segments_of(session, "slic", 0, None)
