import numpy as np
import pytest
import torch

from tests.explainers.toy_games import Game, additive, everywhere
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.sobol import HsicParams, SobolParams, dependence, jansen
from xaiseg.explainers.targets import Region

WEIGHTS = np.array([3.0, -1.0, 0.5, 0.0, 2.0, 1.0, -2.0, 0.0, 4.0])


def test_total_indices_of_an_additive_score_are_their_closed_form():
    random = np.random.default_rng(0)
    a, b = random.random((2, 4000, 9))
    mixed = np.where(np.eye(9, dtype=bool), b[:, None], a[:, None])
    scores = np.concatenate([a[:, None], b[:, None], mixed], axis=1) @ WEIGHTS
    values, variances = jansen(scores[:, :, None])
    expected = WEIGHTS**2 / (WEIGHTS**2).sum()
    np.testing.assert_allclose(values[:, 0], expected, atol=0.02)
    assert (np.abs(values[:, 0] - expected) < 5 * np.sqrt(variances[:, 0]) + 0.01).all()


def test_interactions_count_in_every_cell_that_takes_part():
    random = np.random.default_rng(1)
    a, b = random.random((2, 4000, 3)) - 0.5
    mixed = np.where(np.eye(3, dtype=bool), b[:, None], a[:, None])
    z = np.concatenate([a[:, None], b[:, None], mixed], axis=1)
    values, _ = jansen((z[:, :, 0] * z[:, :, 1])[:, :, None])  # x y with zero means: all variance is shared
    np.testing.assert_allclose(values[:, 0], [1, 1, 0], atol=0.05)


def grid_session(game, side=24):
    """A game whose segments are the middles of a 3 x 3 grid, where a bilinear mask is the cell's own value."""
    labels = np.zeros((side, side), dtype=int)
    for k in range(9):
        labels[(k // 3) * 8 + 3 : (k // 3) * 8 + 5, (k % 3) * 8 + 3 : (k % 3) * 8 + 5] = k + 1
    subject = ToySegmenter(Game(labels, lambda cells: game(cells[:, 1:])), offers=frozenset({"scores"}))
    return Session(subject, torch.ones(1, side, side), budget=Budget(64), dataset_mean=torch.zeros(1, 1, 1))


def centres(values):
    return np.array(
        [values[(k // 3) * 8 + 3 : (k // 3) * 8 + 5, (k % 3) * 8 + 3 : (k % 3) * 8 + 5].mean() for k in range(9)]
    )


def test_the_explainer_finds_the_closed_form_on_a_segmenter():
    params = SobolParams(256, grid=3, baseline="dataset-mean")
    found = explain(grid_session(additive(WEIGHTS)), "sobol", [everywhere(24)], params=params)
    assert found.cost.forwards == 256 * 11
    np.testing.assert_allclose(centres(found.values[0]), WEIGHTS**2 / (WEIGHTS**2).sum(), atol=0.06)
    assert (found.stderr >= 0).all()


def slow_hsic(z, scores):
    n = len(scores)
    distances = np.abs(scores[:, None] - scores)
    median = np.median([distances[i, j] for i in range(n) for j in range(i + 1, n)])
    k = np.array([[0.5 - (a - b) ** 2 for b in z] for a in z])
    kernel = np.exp(-(distances**2) / (2 * median**2))
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ kernel @ h) / (n - 1) ** 2


def test_dependence_is_the_trace_of_the_definition():
    random = np.random.default_rng(2)
    rows = (random.random((30, 4)) < 0.5).astype(float)
    scores = rows @ [2.0, 0.0, -1.0, 0.5] + 0.1 * random.standard_normal(30)
    np.testing.assert_allclose(dependence(rows, scores), [slow_hsic(z, scores) for z in rows.T], atol=1e-12)
    assert (dependence(rows, np.ones(30)) == 0).all()


def test_hsic_ranks_cells_by_the_size_of_their_weight():
    session = grid_session(additive(WEIGHTS))
    found = explain(session, "hsic", [everywhere(24)], params=HsicParams(grid=3, baseline="dataset-mean"))
    values = centres(found.values[0])
    assert np.argmax(values) == 8
    assert values[[3, 7]].max() < 0.1 * values.max()
    assert np.corrcoef(values, WEIGHTS**2)[0, 1] > 0.95
    assert found.stderr.max() > 0


@pytest.mark.parametrize(("method", "params"), [("sobol", SobolParams(8, grid=3)), ("hsic", HsicParams(64, grid=3))])
def test_many_targets_batches_and_tiny_images(method, params):
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:16, 10:18] = True
    targets = [Region(1, mask), Region(1, ~mask)]
    maps = [
        explain(Session(small_unet(), bright_square(), budget=Budget(b)), method, targets, params=params).values
        for b in (3, 32)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-2, atol=1e-3 * np.abs(maps[0]).max())
    tiny = Session(small_unet(), torch.rand(1, 2, 5))
    found = explain(tiny, method, [Region(1, np.ones((2, 5), dtype=bool))], params=params)
    assert np.isfinite(found.values).all()


def test_too_few_forwards_are_refused():
    with pytest.raises(UsageError, match="sobol.designs"):
        SobolParams(2)
    with pytest.raises(UsageError, match="hsic.masks"):
        HsicParams(10)
