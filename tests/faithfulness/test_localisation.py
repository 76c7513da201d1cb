import numpy as np
import pytest

from xaiseg.faithfulness.localisation import leakage, locate, pointing_game, relevance_mass, relevance_rank

MASK = np.zeros((100, 100), dtype=bool)
MASK[40:60, 40:60] = True


def test_shares_count_absolute_values():
    values = np.zeros((100, 100))
    values[50, 50], values[50, 62], values[0, 0] = 2.0, -1.0, -5.0  # inside; 3 px off; far away
    found = locate(values, MASK)
    assert (found.inside, found.outside, found.context) == pytest.approx((0.25, 0.75, 0.625))


def test_an_even_map_has_the_share_of_the_area():
    assert locate(np.ones((100, 100)), MASK).inside == pytest.approx(0.04)
    assert locate(MASK * 1.0, MASK) == locate(MASK * 9.0, MASK)
    assert locate(MASK * 1.0, MASK).context == 0.0


def test_a_blank_map_lies_nowhere():
    assert locate(np.zeros((100, 100)), MASK).inside is None


EMPTY = np.zeros((100, 100), dtype=bool)
ALL_IN = MASK * np.random.default_rng(0).uniform(0.5, 1.0, MASK.shape)
NONE_IN = ~MASK * np.random.default_rng(0).uniform(0.5, 1.0, MASK.shape)


def test_a_map_that_lies_wholly_in_the_region_scores_one_and_one_that_avoids_it_zero():
    assert pointing_game(ALL_IN, MASK) is True
    assert pointing_game(NONE_IN, MASK) is False
    for found in (relevance_mass(ALL_IN, MASK), relevance_rank(ALL_IN, MASK), locate(ALL_IN, MASK).inside):
        assert found == pytest.approx(1.0, abs=1e-12)
    assert relevance_mass(NONE_IN, MASK) == relevance_rank(NONE_IN, MASK) == locate(NONE_IN, MASK).inside == 0.0
    assert leakage(ALL_IN, MASK, 0.0) == 0.0
    assert leakage(NONE_IN, MASK, 0.0) == pytest.approx(1.0, abs=1e-12)


def test_an_empty_region_is_undefined_and_never_a_hit():
    for metric in (pointing_game, relevance_mass, relevance_rank):
        assert metric(ALL_IN, EMPTY) is None
    assert leakage(ALL_IN, EMPTY, 3.0) is None


def test_a_map_that_points_nowhere_is_undefined():
    for values in (np.zeros(MASK.shape), np.full(MASK.shape, 2.0)):
        assert pointing_game(values, MASK) is None
        assert relevance_rank(values, MASK) is None
    assert pointing_game(-NONE_IN - 1, MASK) is None  # nothing speaks for the class
    assert relevance_mass(-ALL_IN, MASK) is None
    assert leakage(np.zeros(MASK.shape), MASK, 0.0) is None


def test_a_tie_between_inside_and_outside_is_no_hit():
    values = np.zeros(MASK.shape)
    values[50, 50] = values[0, 0] = 1.0
    assert pointing_game(values, MASK) is False
    values[0, 0] = 0.9
    assert pointing_game(values, MASK) is True


def test_mass_lies_between_zero_and_one_whatever_the_negative_values():
    """Signed sums can exceed 1: here 6 inside of 6 - 4 in all."""
    values = np.zeros(MASK.shape)
    values[50, 50], values[0, 0], values[1, 1] = 6.0, -4.0, 2.0
    assert relevance_mass(values, MASK) == 0.75


def test_rank_by_the_definition_and_ties_by_the_mean_over_lots():
    rng = np.random.default_rng(1)
    mask = rng.random((6, 7)) < 0.3
    values = rng.permutation(42).reshape(6, 7) - 20.0
    top = sorted(np.ndindex(6, 7), key=lambda at: -values[at])[: mask.sum()]
    assert relevance_rank(values, mask) == sum(mask[at] for at in top) / mask.sum()
    tied = rng.integers(0, 3, (6, 7)).astype(float)
    lots = []
    for _ in range(2000):
        order = np.lexsort((rng.random(42), -tied.ravel()))[: mask.sum()]
        lots.append(mask.ravel()[order].mean())
    assert relevance_rank(tied, mask) == pytest.approx(np.mean(lots), abs=0.01)


def test_leakage_is_what_lies_beyond_the_margin():
    values = np.zeros(MASK.shape)
    values[50, 50], values[50, 62], values[50, 63], values[0, 0] = 2.0, -1.0, 1.0, -4.0  # 62 is 3 px off, 63 is 4
    assert leakage(values, MASK, 3.0) == pytest.approx(5 / 8)
    margin = 0.05 * np.hypot(100, 100)
    assert leakage(values, MASK, margin) == locate(values, MASK).context
