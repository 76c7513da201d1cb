import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.explainers.toy_games import additive, everywhere, game_session
from xaiseg.errors import UsageError
from xaiseg.explainers.masks import Design
from xaiseg.explainers.rise import averaged, regressed
from xaiseg.explainers.stopping import CellMap, Stop, painted, sampled_notes, settle, spearman

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
    assert sampled_notes([everywhere()], settled, stop)[0].endswith("Spearman 1.00, below 1.01")


def test_precision_compares_the_median_half_width_with_the_largest_effect():
    _, masks = bank()

    def known(responses):
        size = 1 / len(responses)  # variance falls with the masks
        shape = (1, 9, responses.scores.shape[1])
        return CellMap(np.full(shape, 2.0), np.full(shape, size), np.zeros(1, dtype=int))

    # 1.96 / sqrt(n) < 0.05 * 2 from n = 385 on.
    (found,) = settle(masks, [everywhere()], known, Stop(2048, agreement=2, precision=0.05))
    assert found.masks == 512
    assert found.agreement is None
