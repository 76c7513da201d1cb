from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xaiseg.errors import UsageError
from xaiseg.explainers.cells import Segments, grid_cells
from xaiseg.explainers.masks import BLOCK, Design, shapley_sizes

SHAPE = (24, 33)
LABELS = Segments.of(np.arange(24 * 33).reshape(24, 33) // 100)
DESIGNS = [
    Design(),
    Design("antithetic", grid=4),
    Design("sobol", grid=4, keep=0.3),
    Design("bernoulli", offsets="random"),
    Design("shapley", segments=LABELS),
    Design("subsets", segments=LABELS),
    Design("jansen", grid=3, offsets=1),
]
NAMES = [f"{design.sampling}-{design.offsets}" for design in DESIGNS]


@pytest.mark.parametrize("design", DESIGNS, ids=NAMES)
def test_a_row_is_the_same_however_it_is_asked_for(design):
    cells = design.cells(SHAPE)
    count = min(2**cells.count - 2, 2 * BLOCK + 30)
    rows, groups = design.rows(cells, 3, 0, count)
    assert rows.shape == (count, cells.count)
    assert rows.dtype == np.float32
    assert 0 <= rows.min() < rows.max() <= 1
    for start, stop in ((0, 5), (7, 8), (count - 40, count)):
        part, places = design.rows(cells, 3, start, stop)
        np.testing.assert_array_equal(part, rows[start:stop])
        np.testing.assert_array_equal(places, groups[start:stop])
    if design.sampling != "subsets":
        assert (design.rows(cells, 4, 0, count)[0] != rows).any()


@pytest.mark.parametrize("sampling", ["bernoulli", "sobol"])
def test_cells_are_shown_as_often_as_asked(sampling):
    design = Design(sampling, grid=4, keep=0.25)
    rows, groups = design.rows(design.cells(SHAPE), 0, 0, 4096)
    assert set(np.unique(rows)) == {0, 1}
    np.testing.assert_array_equal(groups, np.arange(4096) % 4)
    error = np.abs(rows.mean(axis=0) - 0.25).max()
    assert error < (0.005 if sampling == "sobol" else 0.04)


def test_sobol_masks_are_balanced_within_each_group():
    design = Design("sobol", grid=4)
    rows, groups = design.rows(design.cells(SHAPE), 0, 0, 1024)
    for group in range(4):
        np.testing.assert_array_equal(rows[groups == group].mean(axis=0), 0.5)


@pytest.mark.parametrize("sampling", ["antithetic", "shapley"])
def test_pairs_are_complements_in_one_group(sampling):
    design = Design(sampling, grid=4)
    rows, groups = design.rows(design.cells(SHAPE), 0, 0, 64)
    for group in range(4):
        mine = rows[groups == group]
        np.testing.assert_array_equal(mine[0::2] + mine[1::2], 1)


def test_shapley_masks_follow_the_kernel_by_its_definition():
    def kernel(d, k):
        return (d - 1) / (comb(d, k) * k * (d - k))

    weights = np.array([sum(kernel(7, k) for _ in combinations(range(7), k)) for k in range(1, 7)])
    np.testing.assert_allclose(shapley_sizes(7), weights / weights.sum())
    design = Design("shapley", segments=Segments.of(np.arange(7).reshape(1, 7)))
    rows, _ = design.rows(design.cells((1, 7)), 0, 0, 20_000)
    shares = np.bincount(rows.sum(axis=1).astype(int), minlength=7)[1:] / 20_000
    np.testing.assert_allclose(shares, shapley_sizes(7), atol=0.015)


def test_all_subsets_once():
    design = Design("subsets", segments=Segments.of(np.arange(4).reshape(2, 2)))
    rows, _ = design.rows(design.cells((2, 2)), 0, 0, 14)
    assert len({tuple(row) for row in rows}) == 14
    assert set(rows.sum(axis=1)) == {1, 2, 3}
    with pytest.raises(UsageError, match="no more masks"):
        design.rows(design.cells((2, 2)), 0, 0, 15)


def test_jansen_blocks_are_a_b_and_their_mixtures():
    design = Design("jansen", grid=2, offsets=1)
    rows, _ = design.rows(design.cells(SHAPE), 0, 0, 12)
    for a, b, *mixed in rows.reshape(2, 6, 4):
        for cell, row in enumerate(mixed):
            expected = a.copy()
            expected[cell] = b[cell]
            np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampling": "halton"}, "sampling"),
        ({"grid": 0}, "grid"),
        ({"keep": 1.0}, "keep"),
        ({"offsets": 3}, "offsets"),
        ({"sampling": "antithetic", "keep": 0.3}, "0.5 with antithetic"),
    ],
)
def test_designs_that_make_no_masks_are_refused(options, match):
    with pytest.raises(UsageError, match=match):
        Design(**options)


def test_too_many_cells_for_sobol_masks_are_refused():
    design = Design("sobol", grid=200, offsets=1)
    with pytest.raises(UsageError, match="21201"):
        design.rows(grid_cells((400, 400), 200, 1), 0, 0, 1)


def test_designs_are_keys():
    assert Design(segments=LABELS) == Design(segments=Segments.of(LABELS.labels * 3 + 1))
    assert len({Design(), Design(), Design(grid=4)}) == 2


def test_one_centred_grid_is_pytorchs_bilinear_upsampling():
    design = Design(grid=4, offsets=1)
    cells = design.cells((24, 32))
    rows, groups = design.rows(cells, 0, 0, 5)
    expected = F.interpolate(torch.from_numpy(rows).reshape(5, 1, 4, 4), (24, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(cells.masks(rows, groups, torch.device("cpu")), expected, atol=1e-6, rtol=0)


def test_few_sobol_masks_do_not_tell_all_cells_apart_and_enough_of_them_balance_every_pair():
    """What docs/explainers/perturbation.md says of the default grid; the same for every seed and position."""
    cells = grid_cells((64, 64), 8, 4)
    for count, alike in ((256, 40), (512, 9), (1024, 0), (2048, 0)):
        for seed in (0, 5):
            rows, groups = Design("sobol", 8).rows(cells, seed, 0, count)
            for group in range(4):
                signs = 2 * rows[groups == group].astype(float) - 1
                together = np.abs(signs.T @ signs / len(signs))[np.triu_indices(64, 1)]
                assert (together == 1).sum() == alike
                assert alike or (together == 0).all()
