import numpy as np
import pytest
from sklearn.linear_model import Ridge

from xaiseg.errors import UsageError
from xaiseg.explainers.regression import ridge, smooth_prior

RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.random((60, 7)) < 0.5).astype(float)
SCORES = ROWS @ RANDOM.standard_normal((7, 3)) + 0.3 * RANDOM.standard_normal((60, 3)) + 2.0


def slow(rows, y, penalty, weights):
    """Weighted ridge with a free intercept, variance and cross-validation score from the definition."""
    design = np.column_stack([np.ones(len(rows)), rows])
    w = np.diag(weights * len(rows) / weights.sum())
    shrink = penalty * np.diag([0.0] + [1.0] * rows.shape[1])
    inverse = np.linalg.inv(design.T @ w @ design + shrink)
    beta = inverse @ design.T @ w @ y
    df = np.trace(inverse @ design.T @ w @ design)
    rss = (y - design @ beta) @ w @ (y - design @ beta)
    noise = rss / (len(rows) - df)
    spread = max(beta[1:] @ beta[1:] / (df - 1), noise / penalty)  # of the effects
    data = design.T @ w @ design
    left_out = np.diag(penalty**2 * inverse[1:, 1:] @ inverse[1:, 1:])
    variances = noise * np.diag(inverse @ data @ inverse)[1:] + spread * left_out
    return beta, variances, rss / (len(rows) - df) ** 2


@pytest.mark.parametrize("weights", [None, RANDOM.random(60) + 0.1])
def test_the_fast_path_is_the_definition_for_every_target(weights):
    found = ridge(ROWS, SCORES, weights=weights)
    known = np.ones(60) if weights is None else weights
    for target in range(3):
        beta, variances, _ = slow(ROWS, SCORES[:, target], found.penalties[target], known)
        np.testing.assert_allclose(found.values[:, target], beta[1:], atol=1e-9)
        np.testing.assert_allclose(found.intercepts[target], beta[0], atol=1e-9)
        np.testing.assert_allclose(found.variances[:, target], variances, rtol=1e-7)


def test_the_penalty_is_the_one_that_cross_validates_best():
    penalties = [1e-4, 1e-2, 0.1, 1.0, 10.0]
    found = ridge(ROWS, SCORES, penalties=penalties)
    centred = ROWS - ROWS.mean(axis=0)
    scale = np.linalg.eigvalsh(centred.T @ centred)[-1]
    for target in range(3):
        by_hand = [slow(ROWS, SCORES[:, target], each * scale, np.ones(60))[2] for each in penalties]
        assert found.penalties[target] == pytest.approx(penalties[int(np.argmin(by_hand))] * scale)


def test_parity_with_scikit_learn():
    weights = RANDOM.random(60) + 0.5
    found = ridge(ROWS, SCORES, penalties=[0.05], weights=weights)
    theirs = Ridge(alpha=found.penalties[0] * weights.sum() / 60).fit(ROWS, SCORES, sample_weight=weights)
    np.testing.assert_allclose(found.values.T, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(found.intercepts, theirs.intercept_, atol=1e-9)


def test_a_prior_is_a_covariance_of_the_effects():
    prior = smooth_prior(np.arange(7.0)[:, None], 1.0)
    found = ridge(ROWS, SCORES, penalties=[0.1], prior=prior)
    covariance = np.exp(-((np.arange(7)[:, None] - np.arange(7)) ** 2) / 2) + 0.02 * np.eye(7)
    z, y = ROWS - ROWS.mean(axis=0), SCORES - SCORES.mean(axis=0)
    expected = np.linalg.solve(z.T @ z + found.penalties[0] * np.linalg.inv(covariance), z.T @ y)
    np.testing.assert_allclose(found.values, expected, atol=1e-8)


def test_errors_of_effects_cover_the_truth_as_often_as_they_say():
    inside = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        truth = random.standard_normal(6)
        rows = (random.random((50, 6)) < 0.5).astype(float)
        found = ridge(rows, (rows @ truth + random.standard_normal(50))[:, None])
        inside.append(np.abs(found.values[:, 0] - truth) <= 1.96 * np.sqrt(found.variances[:, 0]))
    assert 0.92 < np.mean(inside) < 0.98


def test_cells_that_no_mask_tells_apart_have_wide_errors_though_the_line_leaves_no_residual():
    rows = (np.random.default_rng(0).random((64, 12)) < 0.5).astype(float)
    rows[:, 7] = 1 - rows[:, 2]  # always one without the other
    truth = np.zeros(12)
    truth[2], truth[5] = 3.0, 1.0
    found = ridge(rows, (rows @ truth)[:, None])
    errors = np.sqrt(found.variances[:, 0])
    np.testing.assert_allclose(found.values[[2, 7], 0], [1.5, -1.5], atol=1e-3)  # shared between the two
    assert (np.abs(found.values[:, 0] - truth) <= 3 * errors + 1e-3).all()
    assert errors[[2, 7]].min() > 0.4
    assert np.delete(errors, [2, 7]).max() < 1e-2


def test_fewer_masks_than_cells_do_not_pass_through_every_point():
    rows = (RANDOM.random((12, 40)) < 0.5).astype(float)
    found = ridge(rows, RANDOM.standard_normal((12, 1)))
    assert np.isfinite(found.values).all()
    assert (found.variances > 1e-6).all()
    with pytest.raises(UsageError, match="too few masks"):
        ridge(rows[:2], np.zeros((2, 1)))


def test_scores_that_do_not_move_have_no_effect():
    found = ridge(ROWS, np.full((60, 1), 3.0))
    np.testing.assert_allclose(found.values, 0, atol=1e-12)
    np.testing.assert_allclose(ridge(np.ones((5, 2)), RANDOM.random((5, 1))).values, 0, atol=1e-12)
