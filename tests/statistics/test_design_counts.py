"""Totals by design: unbiased over every possible draw, errors from their definitions, and intervals that hold."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from benchmarks.screening import DETECTORS, WORLDS, Setting, simulate
from xaiseg.statistics.design_counts import (
    Shares,
    draw_probabilities,
    inclusion_probabilities,
    standard_error,
    total_intervals,
    with_replacement,
    without_replacement,
)
from xaiseg.statistics.quantiles import t_quantile

ANIMALS = np.array([0, 3, 1, 7])
CHANCES = np.array([0.1, 0.2, 0.3, 0.4])


def every_draw(draws):
    """(chance, times drawn (N,)) of all ordered samples with replacement."""
    for sample in product(range(len(ANIMALS)), repeat=draws):
        yield math.prod(CHANCES[list(sample)]), np.bincount(sample, minlength=len(ANIMALS))


def of_sample(times, counts=ANIMALS):
    drawn = times > 0
    return with_replacement(counts[drawn], CHANCES[drawn], times[drawn])


@pytest.mark.parametrize("draws", [2, 3, 4])
def test_with_replacement_total_and_variance_are_unbiased_over_every_possible_draw(draws):
    chance, totals, squares = (
        np.array(column)
        for column in zip(
            *((chance, held.added.sum(), standard_error(held) ** 2)
              for chance, times in every_draw(draws) for held in [of_sample(times)]),
            strict=True,
        )
    )  # fmt: skip
    assert chance.sum() == pytest.approx(1.0)
    assert chance @ totals == pytest.approx(ANIMALS.sum())
    variance = chance @ (totals - ANIMALS.sum()) ** 2
    assert chance @ squares == pytest.approx(variance)
    assert variance == pytest.approx(CHANCES @ (ANIMALS / CHANCES - ANIMALS.sum()) ** 2 / draws)


def test_the_total_of_a_stratum_is_unbiased_too():
    inside = np.array([True, True, False, False])
    totals = [chance * of_sample(times, np.where(inside, ANIMALS, 0)).added.sum() for chance, times in every_draw(3)]
    assert sum(totals) == pytest.approx(ANIMALS[inside].sum())


def test_inclusion_probabilities_are_those_of_every_possible_draw():
    expected = sum(chance * (times > 0) for chance, times in every_draw(3))
    assert inclusion_probabilities(CHANCES, 3) == pytest.approx(expected)
    assert inclusion_probabilities(np.array([1e-12]), 10)[0] == pytest.approx(1e-11)


def test_without_replacement_a_simple_random_sample_is_unbiased_with_its_variance():
    share = np.full(3, 3 / 4)
    held = [without_replacement(ANIMALS[list(sample)], share) for sample in combinations(range(4), 3)]
    totals = np.array([one.added.sum() for one in held])
    assert totals.mean() == pytest.approx(ANIMALS.sum())
    assert np.mean([standard_error(one) ** 2 for one in held]) == pytest.approx(totals.var())
    # Cochran, Sampling Techniques (1977), theorem 2.2: N^2 (1 - f) S^2 / n.
    assert totals.var() == pytest.approx(16 * (1 - 3 / 4) * ANIMALS.var(ddof=1) / 3)


def test_tiles_that_are_always_drawn_add_no_error():
    held = without_replacement(np.array([100, 2, 4]), np.array([1.0, 0.5, 0.5]))
    assert held.added.sum() == pytest.approx(112)
    slow = 3 / 2 * (0.5 * (4 - 6) ** 2 + 0.5 * (8 - 6) ** 2)
    assert standard_error(held) == pytest.approx(math.sqrt(slow))


def test_draw_probabilities_follow_the_counts_above_their_floor():
    counts = np.array([0, 2, 0, 6])
    assert draw_probabilities(counts, random_share=0.4) == pytest.approx([0.1, 0.25, 0.1, 0.55])
    assert draw_probabilities(np.zeros(4)) == pytest.approx([0.25] * 4)
    assert draw_probabilities(counts, random_share=1.0) == pytest.approx([0.25] * 4)
    for wrong in (np.zeros(0), np.array([-1.0]), np.array([np.nan])):
        with pytest.raises(ValueError, match="finite numbers"):
            draw_probabilities(wrong)
    with pytest.raises(ValueError, match="random_share"):
        draw_probabilities(counts, random_share=0.0)


def test_a_detector_that_is_exact_leaves_hardly_any_error():
    animals = np.array([0] * 90 + [5] * 10)
    chances = draw_probabilities(animals, random_share=0.02)
    times = np.random.default_rng(0).multinomial(200, chances)
    drawn = times > 0
    exact = with_replacement(animals[drawn], chances[drawn], times[drawn])
    assert standard_error(exact) < 2
    assert exact.added.sum() == pytest.approx(50, abs=3)


def slow_bounds(added, alpha, seed, resamples):
    """Bootstrap-t with replacement from its definition: D - 1 of D draws, quantiles at alpha (1 - 2 / D)."""
    added = np.sort(added)
    d, value = len(added), added.sum()
    error = math.sqrt(d / (d - 1) * ((added - added.mean()) ** 2).sum())
    rng = np.random.default_rng(seed)
    pivots = []
    for drawn in rng.integers(0, d, size=(resamples, d - 1)):
        again = added[drawn]
        spread = math.sqrt((d - 1) / (d - 2) * ((again - again.mean()) ** 2).sum()) / (d - 1)
        pivots.append((again.mean() - added.mean()) / max(spread, error / d / math.sqrt(d)))
    tail = alpha * (1 - 2 / d)
    high, low = np.quantile(pivots, 1 - tail, method="higher"), np.quantile(pivots, tail, method="lower")
    return value - high * error, value - low * error


def test_the_interval_is_that_of_the_definition():
    rng = np.random.default_rng(3)
    counts = rng.negative_binomial(0.5, 0.2, 30) + 1
    held = with_replacement(counts, rng.uniform(0.005, 0.02, 30), rng.integers(1, 3, 30))
    (found,) = total_intervals(held, alphas=(0.05,), seed=5, resamples=500)
    low, high = slow_bounds(held.added, 0.05, 5, 500)
    assert found.upper == pytest.approx(high)
    assert found.lower == pytest.approx(low)
    assert found.sd == pytest.approx(standard_error(held) * math.sqrt(len(held.added)))
    mixed = np.random.default_rng(1).permutation(len(held.added))
    assert total_intervals(
        Shares(held.added[mixed], held.left, held.tile[mixed]), alphas=(0.05,), seed=5, resamples=500
    ) == (found,)


def test_no_total_lies_below_the_animals_that_were_seen():
    held = with_replacement(np.array([20, *[1] * 4, *[0] * 25]), np.full(30, 1 / 31), np.ones(30, dtype=np.int64))
    (loose,) = total_intervals(held, alphas=(0.05,))
    (tight,) = total_intervals(held, alphas=(0.05,), seen=24.0)
    assert loose.lower < 24.0 == tight.lower < tight.value
    assert loose.upper == tight.upper


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        (Shares(np.ones(4), np.ones(4), np.arange(4)), "4 draws; at least 5 are needed"),
        (Shares(np.zeros(30), np.ones(30), np.arange(30)), "0 of the drawn tiles hold an animal; at least 5 are"),
        (Shares(np.arange(30.0), np.ones(30), np.arange(30) // 10), "3 of the drawn tiles hold an animal"),
        (Shares(np.arange(30.0), np.zeros(30), np.arange(30)), "every tile was counted"),
        (Shares(np.full(30, 2.0), np.ones(30), np.arange(30)), "all draws agree exactly"),
    ],
)
def test_without_evidence_there_are_no_bounds(shares, why):
    (found,) = total_intervals(shares, alphas=(0.05,))
    assert found.value == shares.added.sum()
    assert found.lower is found.upper is None
    assert found.reason.startswith(why)


def test_few_draws_take_students_t():
    held = with_replacement(np.array([1, 2, 3, 2, 2, 3, 1]), np.full(7, 0.1), np.ones(7, dtype=np.int64))
    (found,) = total_intervals(held, alphas=(0.05,))
    assert found.method == "t over draws"
    assert found.upper == pytest.approx(20 + 1.9431803 * standard_error(held))  # t quantile at 0.95, 6 degrees


def test_wrong_input_is_refused():
    ones = np.ones(2)
    with pytest.raises(ValueError, match="probabilities"):
        without_replacement(ones, np.array([0.0, 0.5]))
    with pytest.raises(ValueError, match="once or more"):
        with_replacement(ones, np.array([0.1, 0.5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="finite"):
        Shares(np.array([math.nan]), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"\(D,\)"):
        Shares(ones, ones, np.zeros(1))


def test_intervals_cover_the_truth_of_simulated_surveys_and_a_good_detector_narrows_them():
    """The benchmark in little: 300 repetitions, so that the standard error of 90 % is 1.7 points."""
    for world in ("common", "clustered", "overlapping"):
        good, random = (
            simulate(Setting(world, name, draws=150), repeats=300, seed=2, resamples=400) for name in ("good", "random")
        )
        assert good.covers_90 >= 85, world
        assert good.covers_95 >= 91, world
        assert good.rmse < 0.6 * random.rmse, world
        assert abs(good.bias) < 0.05, world


def test_a_useless_detector_biases_nothing():
    found = simulate(Setting("common", "useless", draws=150), repeats=300, seed=3, resamples=100)
    assert abs(found.bias) < 3 * found.rmse / math.sqrt(300)
    assert found.covers_90 >= 80


def test_the_benchmark_knows_its_worlds():
    assert set(WORLDS) == {"rare", "common", "clustered", "overlapping"}
    assert set(DETECTORS) == {"good", "biased", "useless", "random"}


def test_rare_animals_and_a_useless_detector_get_no_interval_rather_than_a_wrong_one():
    found = simulate(Setting("rare", "useless", draws=150), repeats=200, seed=4, resamples=100)
    assert found.none > 95
    assert found.low + found.high < 5


def test_students_t_lies_below_skewed_totals_more_often_than_bootstrap_t():
    rng = np.random.default_rng(6)
    animals = WORLDS["rare"](rng)
    short = []
    for repeat in range(300):
        chances = draw_probabilities(DETECTORS["biased"](rng, animals))
        times = rng.multinomial(200, chances)
        drawn = times > 0
        held = with_replacement(animals[drawn], chances[drawn], times[drawn])
        (found,) = total_intervals(held, alphas=(0.05,), seed=repeat, resamples=300)
        if found.upper is not None:
            t = found.value + t_quantile(0.95, 199) * standard_error(held)
            short.append([found.upper < animals.sum(), t < animals.sum()])
    bootstrap, student = np.mean(short, axis=0)
    assert len(short) > 200
    assert bootstrap < 0.12
    assert student > 0.15
