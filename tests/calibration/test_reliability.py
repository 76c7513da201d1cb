from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit

from xaiseg.calibration import reliability as rel


def slow_ece(p, y, bins):
    """Straight from the definition: bins [a, b), the last one closed."""
    error = 0.0
    for b in range(bins):
        inside = [i for i, value in enumerate(p) if b <= value * bins < b + 1 or (b == bins - 1 and value == 1.0)]
        if inside:
            error += abs(sum(p[i] for i in inside) - sum(y[i] for i in inside)) / len(p)
    return error


def ece(p, y, bins=15):
    return rel.expected_calibration_error(rel.histogram(np.asarray(p), np.asarray(y, bool), bins=bins).stacked())


def drawn(seed, n=4000):
    random = np.random.default_rng(seed)
    p = random.beta(0.4, 0.6, n)
    return p, random.random(n) < p**1.5


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_ece_matches_a_slow_loop(bins):
    p, y = drawn(0, 300)
    p[:3] = 0.0, 1.0, 1.0
    assert ece(p, y, bins) == pytest.approx(slow_ece(p.tolist(), y.tolist(), bins))


@pytest.mark.parametrize("seed", range(3))
def test_netcal_in_float64_agrees(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle imports pyro, which warns
        from netcal.metrics import ECE

        p, y = drawn(seed)
        expected = ECE(15).measure(p, y.astype(int))
    assert ece(p, y) == pytest.approx(expected, abs=1e-12)


def test_closed_forms():
    # p uniform, rate p^2: every gap has one sign, so the L1 error is 1/6 for any bins and equals the signed gap.
    p = (np.arange(200_000) + 0.5) / 200_000
    weights = rel.histogram(p, np.zeros(p.size, bool), bins=15)
    rate = np.bincount(np.minimum((p * 15).astype(int), 14), weights=p**2)
    stacked = np.stack([weights.count, weights.sum_p, rate])
    assert rel.expected_calibration_error(stacked) == pytest.approx(1 / 6, abs=1e-6)
    assert rel.signed_gap(stacked) == pytest.approx(1 / 6, abs=1e-6)
    # 90 pixels p = .05 without positives, 10 pixels p = .95 with five.
    assert ece([0.05] * 90 + [0.95] * 10, [0] * 90 + [1] * 5 + [0] * 5, 10) == pytest.approx(0.09)


def test_p_of_one_lies_in_the_last_bin_and_in_no_hidden_one():
    p = [0.95] * 50 + [1.0] * 50
    y = [1] * 50 + [1] * 40 + [0] * 10
    assert ece(p, y, 10) == pytest.approx(0.075)


def test_positive_class_and_top_label_calibration_differ():
    p = np.array([0.2] * 10 + [0.8] * 10)
    y = np.array([1] + [0] * 9 + [1] * 7 + [0] * 3, bool)
    assert ece(p, y, 10) == pytest.approx(0.1)
    top = np.where(p >= 0.5, p, 1 - p)
    assert ece(top, (p >= 0.5) == y, 10) == pytest.approx(0.0)


def test_easy_background_dilutes_the_error_exactly():
    p, y = drawn(4, 1000)
    region = ece(p, y)
    whole = ece(np.concatenate([np.zeros(99_000), p]), np.concatenate([np.zeros(99_000, bool), y]))
    in_bin_0 = p < 1 / 15
    assert whole == pytest.approx(region / 100, rel=1e-9)
    assert in_bin_0.any()


def test_a_constant_forecast_of_the_prevalence_has_no_error_in_any_order():
    y = np.random.default_rng(0).permutation(np.arange(1000) < 600)
    assert ece(np.full(1000, 0.6), y) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_float_types_count_exactly(dtype):
    # 2**24 is where a float32 counter stops, 2048 where a float16 one does; counts here are integers.
    p = np.full(300_000, 0.75, dtype)
    found = rel.histogram(p, np.arange(p.size) % 2 == 0, bins=15)
    assert found.count.dtype == np.int64
    assert found.count.sum() == 300_000
    assert rel.expected_calibration_error(found.stacked()) == pytest.approx(0.25)


def test_histograms_add_up_over_images():
    p, y = drawn(5)
    whole = rel.histogram(p, y, bins=15).stacked()
    parts = [rel.histogram(p[i::3], y[i::3], bins=15).stacked() for i in range(3)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_numbers_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        rel.histogram(np.array([0.5, bad]), np.array([True, False]))


def test_float32_rounding_above_one_is_let_through():
    assert rel.histogram(np.array([1.0 + 5e-7]), np.array([True])).count[-1] == 1


def test_classes_without_pixels_are_left_out_of_the_mean():
    p, y = drawn(6, 500)
    one = rel.histogram(p, y, bins=15).stacked()
    assert rel.expected_calibration_error(np.stack([one, np.zeros_like(one)])) == pytest.approx(ece(p, y))
    assert math.isnan(rel.expected_calibration_error(np.zeros((3, 15))))
    assert math.isnan(rel.signed_gap(np.zeros((3, 15))))


def test_brier_and_likelihood_match_scikit_learn():
    from sklearn.metrics import brier_score_loss, log_loss

    p, y = drawn(7)
    p = np.clip(p, 1e-6, 1 - 1e-6)
    assert rel.brier_score(p, y) == pytest.approx(brier_score_loss(y, p))
    value, clipped = rel.negative_log_likelihood(p, y)
    assert value == pytest.approx(log_loss(y, p))
    assert clipped == 0


def test_confident_errors_are_clipped_and_counted():
    value, clipped = rel.negative_log_likelihood(np.array([1.0, 0.0, 0.0]), np.array([False, True, False]))
    assert clipped == 2
    assert value == pytest.approx(-2 * math.log(1e-7) / 3)


def test_the_signed_gap_never_exceeds_the_error():
    for seed in range(5):
        p, y = drawn(seed)
        stacked = rel.histogram(p, y).stacked()
        assert abs(rel.signed_gap(stacked)) <= rel.expected_calibration_error(stacked) + 1e-12
        assert rel.signed_gap(stacked) == pytest.approx(p.mean() - y.mean())


def images(seed, n_images, size=32, shift=0.0, per_cluster=1):
    """Histograms of a subject that is calibrated (but for ``shift``), whose labels are correlated within an image."""
    random = np.random.default_rng(seed)
    stacked, clusters = [], []
    for cluster in range(n_images // per_cluster):
        case_effect = random.normal()
        for _ in range(per_cluster):
            field = ndimage.gaussian_filter(random.normal(size=(size, size)), 3, mode="wrap")
            p = expit(3 * field / field.std())
            # A Gaussian threshold with marginal variance 1, shared within the cluster: correlated, yet P(y) = p.
            noise = ndimage.gaussian_filter(random.normal(size=(size, size)), 2, mode="wrap")
            latent = (noise / noise.std() + case_effect) / math.sqrt(2)
            y = latent < _normal_quantile(p)
            stacked.append(rel.histogram(np.clip(p.ravel() + shift, 0, 1), y.ravel()).stacked())
            clusters.append(f"c{cluster}")
    return np.array(stacked), np.array(clusters)


def _normal_quantile(p):
    from scipy.special import ndtri

    return ndtri(p)


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_the_pooled_floor_is_the_error_that_a_calibrated_subject_shows(per_cluster):
    errors, floors = [], []
    for seed in range(60):
        stacked, clusters = images(seed, 40, per_cluster=per_cluster)
        errors.append(rel.expected_calibration_error(stacked.sum(axis=0)))
        floors.append(rel.pooled_floor(stacked, clusters))
    assert np.mean(floors) == pytest.approx(np.mean(errors), rel=0.15)


def test_a_floor_of_independent_pixels_would_be_far_too_low():
    stacked, clusters = images(0, 40)
    total = stacked.sum(axis=0)
    rate = total[1] / np.maximum(total[0], 1)
    independent = math.sqrt(2 / math.pi) * np.sqrt(rate * (1 - rate) * total[0]).sum() / total[0].sum()
    assert rel.pooled_floor(stacked, clusters) > 3 * independent


def test_the_floors_hardly_move_when_the_subject_is_miscalibrated():
    honest, clusters = images(1, 60)
    boastful, _ = images(1, 60, shift=0.1)
    assert rel.expected_calibration_error(boastful.sum(axis=0)) > 1.5 * rel.pooled_floor(boastful, clusters)
    assert rel.pooled_floor(boastful, clusters) == pytest.approx(rel.pooled_floor(honest, clusters), rel=0.25)


def test_the_image_floor_is_the_mean_image_error_of_a_calibrated_subject():
    stacked, _ = images(2, 80)
    mean = np.mean([rel.expected_calibration_error(one) for one in stacked])
    assert rel.image_floor(stacked) == pytest.approx(mean, rel=0.1)
    gap = (stacked[:, 1] - stacked[:, 2]).sum(axis=0) / np.maximum(stacked[:, 0].sum(axis=0), 1)
    slow = [sum(abs(p - y - g * n) for n, p, y, g in zip(*one, gap, strict=True)) / one[0].sum() for one in stacked]
    assert rel.image_floor(stacked) == pytest.approx(np.mean(slow))
    assert rel.image_floor(stacked[:0]) is None


def test_the_floors_follow_their_definition():
    stacked, _ = images(3, 6, size=16)
    clusters = np.array(["a", "a", "b", "b", "c", "c"])
    spread = 0.0
    for b in range(15):
        parts = [stacked[clusters == c, :, b].sum(axis=0) for c in "abc"]
        squares = 0.0
        for own in parts:
            others = [part for part in parts if part is not own]
            gap = sum(p[1] - p[2] for p in others) / max(sum(p[0] for p in others), 1)
            squares += (own[1] - own[2] - gap * own[0]) ** 2
        spread += math.sqrt(squares)
    expected = math.sqrt(2 / math.pi) * spread / stacked[:, 0].sum()
    assert rel.pooled_floor(stacked, clusters) == pytest.approx(expected)
    assert rel.pooled_floor(stacked, ["one"] * 6) is None
    assert rel.pooled_floor(stacked[:0], []) is None


def test_more_clusters_lower_the_pooled_floor():
    few, names = images(4, 20)
    many, more = images(4, 80)
    assert rel.pooled_floor(many, more) < 0.7 * rel.pooled_floor(few, names)


@pytest.mark.slow
def test_counts_stay_exact_beyond_two_to_the_24():
    p = np.full(20_000_000, 0.5, np.float32)
    found = rel.histogram(p, np.arange(p.size) % 2 == 0)
    assert found.count.sum() == p.size
    assert rel.expected_calibration_error(found.stacked()) == 0.0
