import re
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.explainers.toy_games import additive, everywhere, game_session
from xaiseg.errors import UsageError
from xaiseg.explainers.base import explain
from xaiseg.explainers.cells import grid_cells
from xaiseg.explainers.masks import Design
from xaiseg.explainers.rise import RidgeParams, averaged, regressed
from xaiseg.explainers.shapley import KernelShapParams, constrained
from xaiseg.explainers.stopping import CellMap, Stop, half_widths, painted, sampled_notes, settle, spearman
from xaiseg.explainers.targets import Region

WEIGHTS = np.array([3.0, -1.0, 0.5, 0.2, 2.0, 1.0, -2.0, 0.1, 4.0])


def bank(game=None):
    session, _ = game_session(game or additive(WEIGHTS), batch=64)
    return session, session.bank(Design("bernoulli", 3, offsets=1), "dataset-mean")


def test_looks_double_and_end_at_the_budget():
    assert list(Stop(256).looks()) == [256]
    assert list(Stop(100, first=256).looks()) == [100]
    assert list(Stop(2048).looks()) == [256, 512, 1024, 2048]
    with pytest.raises(UsageError, match="8 or more"):
        Stop(7)


def test_spearman_is_scipys_ties_included():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, 40).astype(float), random.integers(0, 9, 40).astype(float)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(40)) is None


def test_a_settled_map_is_the_estimate_of_its_masks_and_the_halves_are_those_of_its_masks():
    session, masks = bank()
    target = everywhere()
    (found,) = settle(masks, [target], lambda r: averaged(r, 0.5), Stop(1024, agreement=0.8))
    responses = masks.responses([target], found.masks)
    assert session.forwards == found.masks
    values, stderr = painted(masks, averaged(responses, 0.5))
    np.testing.assert_array_equal(found.values, values[0])
    np.testing.assert_array_equal(found.stderr, stderr[0])
    half = found.masks // 2
    halves = [averaged(responses.part(part), 0.5) for part in (slice(0, half), slice(half, None))]
    maps = [masks.cells.coarse(each.values, each.groups)[0] for each in halves]
    assert found.agreement == pytest.approx(spearmanr(*maps).statistic)
    assert (found.agreement >= 0.8) == found.early


def test_a_demand_that_cannot_be_met_ends_with_the_budget_and_says_so():
    _, masks = bank()
    stop = Stop(300, agreement=1.01)
    settled = settle(masks, [everywhere()], lambda r: regressed(r, masks.cells, 0.0), stop)
    assert not settled[0].early
    assert (
        "Spearman 1.00, below 1.01; every point lies within 0.0% of" in sampled_notes([everywhere()], settled, stop)[0]
    )


def known_map(values, variance):
    """An estimate that is the same whatever the masks say, with variances that fall with their number."""
    held = np.asarray(values, dtype=float)[None, :, None]

    def estimate(responses):
        shape = (1, held.shape[1], responses.scores.shape[1])
        spread = np.asarray(variance, dtype=float)[None, :, None] / len(responses)
        return CellMap(np.broadcast_to(held, shape), np.broadcast_to(spread, shape), np.zeros(1, dtype=int))

    return estimate


def test_precision_compares_the_widest_simultaneous_interval_with_the_range():
    session, segments = game_session(additive(WEIGHTS), batch=64)
    masks = session.bank(Design("bernoulli", segments=segments), "dataset-mean")
    values, variance = [0.0] * 8 + [2.0], [0.01] * 8 + [1.0]  # one cell alone has a wide interval
    (found,) = settle(masks, [everywhere()], known_map(values, variance), Stop(2048, agreement=2, precision=0.05))
    # z / sqrt(n) < 0.05 * 2 with z the quantile of 1 - 0.05 / 18, 2.77: from n = 769 on.
    z = NormalDist().inv_cdf(1 - 0.05 / 18)
    assert z**2 / 0.1**2 == pytest.approx(769, abs=1)
    assert (found.masks, found.early, found.agreement) == (1024, True, pytest.approx(1.0))
    assert found.width == pytest.approx(z / np.sqrt(1024) / 2)
    flat = settle(masks, [everywhere()], known_map([2.0] * 9, [0.0] * 9), Stop(2048, agreement=2, precision=0.05))[0]
    assert (flat.masks, flat.width, flat.agreement) == (2048, np.inf, None)


def test_without_a_demand_on_the_order_there_is_none_on_the_precision_either():
    assert (Stop(64).width, Stop(64, agreement=2).width, Stop(64, precision=0.0).width) == (0.05, 0.0, 0.0)
    assert Stop(64, agreement=2, precision=0.1).width == 0.1
    _, masks = bank()
    exact = known_map(np.arange(9), np.zeros(9))
    assert settle(masks, [everywhere()], exact, Stop(512, agreement=2))[0].masks == 512


@pytest.mark.parametrize("method", ["kernelshap", "ridge"])
def test_a_target_of_which_few_cells_matter_stops_early_and_noise_does_not(method):
    # Two cells and their product; the 62 others do nothing, and the order of their estimates is that of noise.
    local = lambda cells: 3 * cells[:, 9] + cells[:, 10] + 0.5 * cells[:, 9] * cells[:, 10]  # noqa: E731
    session, segments = game_session(local, cells=8, side=32, batch=64)
    noise = Region(1, np.ones((32, 32), dtype=bool), label="noise")
    toss = torch.Generator().manual_seed(0)
    noise.__dict__["score"] = lambda logits: torch.rand(len(logits), generator=toss)
    params = {
        "kernelshap": KernelShapParams(2048, "given", segments, baseline="dataset-mean"),
        "ridge": RidgeParams(2048, offsets=1, baseline="dataset-mean"),
    }[method]
    found = explain(session, method, [everywhere(32), noise], params=params)
    early, late = (next(note for note in found.notes if note.startswith(name)) for name in ("class-1", "noise"))
    assert re.match(r"class-1: stopped after (256|512) of 2,048 masks; .*within [0-4]\.\d% of the map's range$", early)
    assert re.match(r"noise: 2,048 masks; .*, below 0\.95; every point lies within (5\d|[6-9]\d|\d{3,})", late)
    if method == "kernelshap":  # its closed form: a product is shared between its two factors
        truth = np.zeros(64)
        truth[[9, 10]] = 3.25, 1.25
        np.testing.assert_allclose(found.values[0], truth[segments.labels], atol=0.05 * 3.25)


def test_rounding_is_no_range():
    session, segments = game_session(lambda cells: 1000.0 + 1e-5 * cells[:, 0], batch=64)
    masks = session.bank(Design("bernoulli", segments=segments), "dataset-mean")
    responses = masks.responses([everywhere()], 256)
    assert np.ptp(responses.scores) < 1e-3
    assert half_widths(masks, averaged(responses, 0.5), responses.scores)[0] == np.inf


@pytest.mark.parametrize("seed", range(4))
def test_a_map_that_stopped_on_its_precision_is_as_near_as_it_says(seed):
    weights = np.random.default_rng(seed).standard_normal(9)
    curved = lambda cells: cells @ torch.from_numpy(weights) + 2 * cells[:, 0] * cells[:, 1]  # noqa: E731
    session, segments = game_session(curved, batch=64, seed=seed)
    masks = session.bank(Design("shapley", segments=segments), "dataset-mean")
    whole, bare = masks.ends([everywhere()])

    def estimate(responses):
        values, variances = constrained(
            responses.rows.astype(float), responses.scores, np.ones(len(responses)), whole, bare
        )
        return CellMap(values[None], variances[None], np.zeros(1, dtype=int))

    (found,) = settle(masks, [everywhere()], estimate, Stop(2048, 32, agreement=2, precision=0.05))
    truth = weights + np.array([1.0, 1.0, 0, 0, 0, 0, 0, 0, 0])
    assert found.early
    assert np.abs(found.values[[0, 0, 0, 4, 4, 4, 8, 8, 8], [0, 4, 8] * 3] - truth).max() < 0.05 * np.ptp(truth)


def test_cells_that_sobol_masks_always_show_alike_do_not_count_as_known():
    cells = grid_cells((32, 32), 8, 1)
    rows, _ = Design("sobol", 8, offsets=1).rows(cells, 0, 0, 128)  # of the default's 512, a position gets 128
    signs = 2 * rows.astype(float) - 1
    first, second = np.argwhere(np.triu(np.abs(signs.T @ signs) == len(signs), 1))[0]
    session, _ = game_session(lambda shown: 3 * shown[:, first], cells=8, side=32, batch=64)
    masks = session.bank(Design("sobol", 8, offsets=1), "dataset-mean")
    stop = Stop(256, 128, agreement=1.01, precision=0.05)
    (found,) = settle(masks, [everywhere(32)], lambda r: regressed(r, masks.cells, 0.0), stop)
    at_first = regressed(masks.responses([everywhere(32)], 128), masks.cells, 0.0)
    ghost = np.abs(at_first.values[0, [first, second], 0])
    assert ghost[0] == pytest.approx(ghost[1])  # one effect, shared between the two
    assert ghost[1] > 0.5
    assert half_widths(masks, at_first, masks.responses([everywhere(32)], 128).scores)[0] > 0.05
    assert found.masks == 256
