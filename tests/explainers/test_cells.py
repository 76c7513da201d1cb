import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.cells import SegmentCells, Segments, grid_cells

CPU = torch.device("cpu")


def bilinear(values, cells, group, i, j):
    """A pixel of a mask straight from the definition: interpolation between the centres of the cells."""
    grid = values.reshape(cells.rows, cells.columns)
    down, across = (cells.starts[axis][cells.places[group][axis]] for axis in (0, 1))
    y = min(max((i + 0.5 - down) / cells.pitch[0] - 0.5, 0), cells.rows - 1)
    x = min(max((j + 0.5 - across) / cells.pitch[1] - 0.5, 0), cells.columns - 1)
    top, left = int(y), int(x)
    total = 0.0
    for row, weight_y in ((top, 1 - (y - top)), (min(top + 1, cells.rows - 1), y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (min(left + 1, cells.columns - 1), x - left)):
            total += weight_y * weight_x * grid[row, column]
    return total


@pytest.mark.parametrize("offsets", [1, 2, 4, "random"])
@pytest.mark.parametrize(("shape", "grid"), [((12, 19), 4), ((3, 20), 8), ((1, 1), 8), ((5, 7), 1)])
def test_masks_are_bilinear_and_painting_is_their_sum(shape, grid, offsets):
    cells = grid_cells(shape, grid, offsets)
    random = np.random.default_rng(0)
    rows = random.random((6, cells.count)).astype(np.float32)
    groups = random.integers(cells.groups, size=6)
    masks = cells.masks(rows, groups, CPU).numpy()
    expected = [
        [[bilinear(row, cells, group, i, j) for j in range(shape[1])] for i in range(shape[0])]
        for row, group in zip(rows, groups, strict=True)
    ]
    np.testing.assert_allclose(masks, expected, atol=1e-5)
    weights = random.standard_normal((6, 2))
    painted = cells.paint(rows[:, :, None] * weights[:, None], groups)
    np.testing.assert_allclose(painted, np.einsum("nt,nhw->thw", weights, masks), atol=1e-5)


def test_grids_lie_half_a_cell_apart_and_cover_the_image():
    cells = grid_cells((32, 32), 4, 4)
    ones = np.ones((4, 16), dtype=np.float32)
    np.testing.assert_allclose(cells.masks(ones, np.arange(4), CPU).numpy(), 1, atol=1e-6)
    assert np.diff(cells.starts[0]) * 2 == cells.pitch[0] == 8


def test_coarse_points_are_points_of_the_painted_map():
    cells = grid_cells((32, 48), 4, 4)
    values = np.random.default_rng(1).random((4, 16, 3))
    whole = cells.paint(values, np.arange(4))
    np.testing.assert_array_equal(cells.coarse(values, np.arange(4)), whole[:, ::4, ::6].reshape(3, -1))


def test_segments_are_gathered():
    labels = np.array([[5, 5, 2], [9, 2, 2]])
    cells = SegmentCells(Segments.of(labels), (2, 3))
    rows = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)  # labels 2, 5, 9
    zero = np.zeros(1, dtype=np.int64)
    assert cells.masks(rows, zero, CPU).tolist() == [[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]
    assert cells.paint(rows[:, :, None], zero).tolist() == [[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]]
    with pytest.raises(UsageError, match="another size"):
        SegmentCells(Segments.of(labels), (3, 2))
    with pytest.raises(UsageError, match="whole numbers"):
        Segments.of(labels / 2)
