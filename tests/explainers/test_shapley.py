from itertools import combinations
from math import comb, factorial

import numpy as np
import pytest
import torch

from tests.explainers.toy_games import additive, all_of, everywhere, game_session
from tests.explainers.toy_segmenters import BoxFilter, ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.masks import Design
from xaiseg.explainers.owen import load_shap
from xaiseg.explainers.shapley import KernelShapParams, constrained, kernel_weights
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION, OTHER = Region(1, MASK), Region(1, ~MASK)
ZERO = "dataset-mean"


def squares(rows, columns):
    down, across = np.arange(24) * rows // 24, np.arange(32) * columns // 32
    return Segments.of(down[:, None] * columns + across)


def shapley(value, players):
    """Shapley values from the definition: weighted marginal contributions over all coalitions."""
    found = np.zeros(players)
    for player in range(players):
        others = [each for each in range(players) if each != player]
        for size in range(players):
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            for coalition in combinations(others, size):
                found[player] += weight * (value({*coalition, player}) - value(set(coalition)))
    return found


def cell_values(found, segments):
    return np.array([[values[segments.labels == k].mean() for k in range(segments.count)] for values in found.values])


def test_a_real_network_gets_the_shapley_values_of_the_definition():
    session = Session(small_unet(), bright_square(), budget=Budget(16))
    segments = squares(2, 3)
    params = KernelShapParams(cut="given", segments=segments)
    found = explain(session, "kernelshap", [REGION, OTHER], params=params)
    assert found.notes[1] == "exact: all 62 masks"
    fill = session.baseline("mean")

    def value(target):
        def of(coalition):
            shown = torch.from_numpy(np.isin(segments.labels, list(coalition)))
            with torch.inference_mode():
                logits = session.subject.forward(torch.where(shown, session.image, fill)[None])
            return float(target.score(logits)[0])

        return of

    for index, target in enumerate((REGION, OTHER)):
        np.testing.assert_allclose(cell_values(found, segments)[index], shapley(value(target), 6), atol=1e-5)


def test_an_additive_score_is_exact_from_sampled_masks():
    weights = np.random.default_rng(0).standard_normal(36)
    session, segments = game_session(additive(weights), cells=6)
    params = KernelShapParams(masks=144, cut="given", segments=segments, baseline=ZERO)
    found = explain(session, "kernelshap", [everywhere()], params=params)
    np.testing.assert_allclose(cell_values(found, segments)[0], weights, atol=1e-5)
    assert found.stderr.max() < 1e-4
    assert found.cost.forwards == 144 + 2


@pytest.mark.parametrize("cells", [3, 5])
def test_the_and_game_shares_its_gain(cells):
    players = (0, 4, 7, 8)
    session, segments = game_session(all_of(*players), cells=cells, batch=64)
    params = KernelShapParams(masks=4096, cut="given", segments=segments, baseline=ZERO, agreement=2)
    found = explain(session, "kernelshap", [everywhere()], params=params)
    expected = np.zeros(cells**2)
    expected[list(players)] = 1 / 4
    atol = 1e-6 if cells == 3 else 0.03  # 2^9 masks are enumerated, 2^25 are sampled
    np.testing.assert_allclose(cell_values(found, segments)[0], expected, atol=atol)
    assert (cells == 3) == (found.stderr is None)


@pytest.mark.parametrize("sampling", ["shapley", "bernoulli"])
def test_values_sum_to_the_change_of_the_score_exactly(sampling):
    session = Session(small_unet(), bright_square(), budget=Budget(32))
    segments = squares(4, 6)
    params = KernelShapParams(200, "given", segments, sampling=sampling)
    found = explain(session, "kernelshap", [REGION, OTHER], params=params)
    design = Design(sampling, segments=segments)
    whole, bare = session.bank(design, "mean").ends([REGION, OTHER])
    np.testing.assert_allclose(cell_values(found, segments).sum(axis=1), whole - bare, atol=1e-5)


def test_parity_with_captum_on_the_same_masks():
    from captum.attr import KernelShap

    session = Session(small_unet(), bright_square(), budget=Budget(32))
    segments = squares(4, 5)
    params = KernelShapParams(160, "given", segments, agreement=2)
    found = explain(session, "kernelshap", [REGION], params=params)
    rows = session.bank(Design("shapley", segments=segments), "mean").responses([REGION], 160).rows
    reference = KernelShap(lambda batch: REGION.score(session.subject.forward(batch)).double())

    def generate(_, **options):
        yield torch.ones(1, 20, dtype=torch.long)
        yield torch.zeros(1, 20, dtype=torch.long)
        yield from torch.from_numpy(rows)[:, None].long()

    reference.perturb_func = generate
    theirs = reference.attribute(
        session.image[None],
        baselines=session.baseline("mean")[None],
        feature_mask=torch.from_numpy(segments.labels)[None, None],
        n_samples=162,
        perturbations_per_eval=16,
    )
    # It meets the constraint by a weight of a million, not exactly.
    np.testing.assert_allclose(found.values[0], theirs[0, 0].numpy(), atol=1e-5)


def test_parity_with_shap_exact_values():
    shap = load_shap()
    session, segments = game_session(lambda cells: cells[:, 0] * cells[:, 1] + cells[:, 2] ** 2 - cells[:, 5], batch=64)
    params = KernelShapParams(cut="given", segments=segments, baseline=ZERO)
    ours = cell_values(explain(session, "kernelshap", [everywhere()], params=params), segments)[0]

    def game(rows):
        rows = torch.from_numpy(np.asarray(rows, dtype=np.float64))
        return (rows[:, 0] * rows[:, 1] + rows[:, 2] ** 2 - rows[:, 5]).numpy()

    explainer = shap.explainers.Exact(game, shap.maskers.Independent(np.zeros((1, 9)), max_samples=1))
    theirs = explainer(np.ones((1, 9))).values[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_least_squares_are_the_definition_under_the_constraint():
    random = np.random.default_rng(1)
    rows = (random.random((40, 5)) < 0.5).astype(float)
    scores, weights = random.standard_normal((40, 2)), random.random(40) + 0.1
    whole, bare = np.array([2.0, -1.0]), np.array([0.5, 0.3])
    values, variances = constrained(rows, scores, weights, whole, bare)
    for target in range(2):
        # The system of Lagrange.
        system = np.zeros((6, 6))
        system[:5, :5] = 2 * rows.T @ np.diag(weights) @ rows
        system[:5, 5] = system[5, :5] = 1
        right = np.append(2 * rows.T @ (weights * (scores[:, target] - bare[target])), whole[target] - bare[target])
        np.testing.assert_allclose(values[:, target], np.linalg.solve(system, right)[:5], atol=1e-9)
    assert (variances > 0).all()


def test_variances_are_the_jackknife_over_pairs():
    random = np.random.default_rng(1)
    first = (random.random((20, 5)) < 0.5).astype(float)
    rows = np.stack([first, 1 - first], axis=1).reshape(40, 5)
    scores, weights = random.standard_normal((40, 2)), random.random(40) + 0.1
    whole, bare = np.array([2.0, -1.0]), np.array([0.5, 0.3])
    variances = constrained(rows, scores, weights, whole, bare)[1]
    without = []
    for pair in range(20):
        kept = np.arange(40) // 2 != pair
        without.append(constrained(rows[kept], scores[kept], weights[kept], whole, bare)[0])
    expected = 19 / 20 * ((np.array(without) - np.mean(without, axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(variances, expected, rtol=1e-9)


def test_a_pair_that_alone_decides_a_direction_has_no_error_to_state():
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    variances = constrained(rows, rows @ [[3.0], [2.0]], np.ones(2), np.array([5.0]), np.array([0.0]))[1]
    np.testing.assert_array_equal(variances, 0.0)


def test_kernel_weights_are_the_kernel_over_the_chance():
    rows = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=float)

    def by_hand(shown):
        return 3 / (comb(4, shown) * shown * (4 - shown)) / (0.3**shown * 0.7 ** (4 - shown))

    expected = np.array([0, by_hand(1), by_hand(2), by_hand(3), 0])
    np.testing.assert_allclose(kernel_weights(rows, 0.3), expected / expected.max())


def test_stated_errors_are_the_spread_between_seeds():
    segments = squares(4, 4)
    params = KernelShapParams(128, "given", segments, agreement=2)
    sessions = [Session(small_unet(), bright_square(), seed=seed, budget=Budget(64)) for seed in range(12)]
    found = [explain(session, "kernelshap", [REGION], params=params) for session in sessions]
    spread = np.std([each.values[0] for each in found], axis=0, ddof=1)
    stated = np.mean([each.stderr[0] for each in found], axis=0)
    assert 0.9 < np.median(stated / spread) < 1.6  # 4 pairs a segment: never too small


def test_one_segment_takes_everything_and_too_few_masks_are_refused():
    session = Session(small_unet(), bright_square())
    one = explain(session, "kernelshap", [REGION], params=KernelShapParams(count=1))
    whole, bare = session.bank(Design("subsets", segments=squares(1, 1)), "mean").ends([REGION])
    np.testing.assert_allclose(one.values[0], (whole - bare)[0], atol=1e-6)
    with pytest.raises(UsageError, match=r"too few masks for the segments.*48 or more"):
        explain(session, "kernelshap", [REGION], params=KernelShapParams(40, "given", squares(4, 6)))
    with pytest.raises(UsageError, match="no such sampling"):
        KernelShapParams(sampling="sobol")


def test_segments_beyond_the_receptive_field_have_no_share():
    session = Session(ToySegmenter(BoxFilter(1)), bright_square(), budget=Budget(64))
    segments = squares(3, 4)  # 8 x 8 px
    for masks in (4096, 400):  # enumerated, sampled
        params = KernelShapParams(masks, "given", segments, agreement=2)
        found = explain(session, "kernelshap", [REGION], params=params).values[0]
        touched = np.isin(segments.labels, np.unique(segments.labels[7:17, 9:19]))  # the region widened by 1 px
        assert np.abs(found[~touched]).max() < 1e-6
        assert (np.abs(found[touched]) > 1e-4).all()
