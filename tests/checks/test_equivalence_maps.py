"""Likeness of maps against slow versions from the definitions."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from xaiseg.checks.equivalence_maps import flat, likeness, peak_distance, structural_similarity, top_iou


def field(seed, shape=(11, 13), levels=None):
    values = np.random.default_rng(seed).normal(size=shape)
    return values if levels is None else np.round(values * levels)


def slow_ssim(a, b, side=7, spread=1.0):
    """Wang et al. 2004, windows wholly inside the image, covariances over n - 1."""
    a, b = ((each / np.abs(each).max() + 1) / 2 for each in (a, b))
    c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    found = []
    for y, x in itertools.product(range(a.shape[0] - side + 1), range(a.shape[1] - side + 1)):
        p, q = a[y : y + side, x : x + side].ravel(), b[y : y + side, x : x + side].ravel()
        (vp, cov), (_, vq) = np.cov(p, q)
        light = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
        found.append(light * (2 * cov + c2) / (vp + vq + c2))
    return np.mean(found)


def slow_top_iou(a, b, share):
    """Ties take part by the share of all orders in which they are among the highest."""
    chosen = []
    for values in (a.ravel(), b.ravel()):
        places = max(1, round(share * values.size))
        weights = []
        for value in values:
            above, level = (values > value).sum(), (values == value).sum()
            weights.append(min(1.0, max(0.0, (places - above) / level)))
        chosen.append(weights)
    return sum(map(min, *chosen)) / sum(map(max, *chosen))


@pytest.mark.parametrize("levels", [None, 2])
def test_every_measure_is_its_definition(levels):
    a, b = field(1, levels=levels), field(2, levels=levels) + field(1, levels=levels)
    mask = np.zeros(a.shape, dtype=bool)
    mask[:4] = True
    found = likeness(a, b, mask)
    assert found["spearman"] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert found["ssim"] == pytest.approx(slow_ssim(a, b))
    assert found["top5_iou"] == pytest.approx(slow_top_iou(a, b, 0.05))
    assert found["top10_iou"] == pytest.approx(slow_top_iou(a, b, 0.10))
    peaks = [np.mean(np.argwhere(each == each.max()), axis=0) for each in (a, b)]
    assert found["peak_distance"] == pytest.approx(np.hypot(*(peaks[0] - peaks[1])) / math.hypot(11, 13))
    inside = [bool(mask[each == each.max()].all()) for each in (a, b)]
    assert found["pointing_agreement"] == float(inside[0] == inside[1])


def test_a_map_with_itself_at_any_scale_is_the_same():
    a = field(3)
    found = likeness(a, 1e-3 * a, a > 1)
    assert found == pytest.approx(
        {"spearman": 1, "ssim": 1, "top5_iou": 1, "top10_iou": 1, "peak_distance": 0, "pointing_agreement": 1}
    )


def test_a_map_with_its_negative_is_the_opposite():
    a = field(4)
    found = likeness(a, -a, np.ones(a.shape, dtype=bool))
    assert found["spearman"] == pytest.approx(-1.0)
    assert found["ssim"] < 0
    assert found["top5_iou"] == found["top10_iou"] == 0.0


def test_both_peaks_outside_the_region_point_alike_and_one_inside_does_not():
    a, b = np.zeros((8, 8)), np.zeros((8, 8))
    a[0, 0], b[7, 7] = 1.0, 1.0
    mask = np.zeros((8, 8), dtype=bool)
    mask[4, 4] = True
    assert likeness(a, b, mask)["pointing_agreement"] == 1.0
    mask[0, 0] = True
    assert likeness(a, b, mask)["pointing_agreement"] == 0.0


def test_float_noise_decides_no_order():
    a = np.repeat(field(5, (4, 4)), 4, axis=1)
    assert likeness(a, a + 1e-9 * field(6, a.shape), a > 0)["spearman"] == pytest.approx(1.0)
    assert flat(np.full((4, 4), 2.0) + 1e-9 * field(6, (4, 4)))


@pytest.mark.parametrize("values", [np.zeros((8, 8)), np.full((8, 8), 3.0)])
def test_a_flat_map_has_no_likeness(values):
    assert set(likeness(values, field(7, (8, 8)), values == 0).values()) == {None}
    assert set(likeness(field(7, (8, 8)), values, values == 0).values()) == {None}


def test_small_images_take_smaller_windows():
    assert structural_similarity(field(8, (5, 9)), field(9, (5, 9))) == pytest.approx(
        slow_ssim(field(8, (5, 9)), field(9, (5, 9)), side=5)
    )
    assert structural_similarity(field(8, (2, 9)), field(9, (2, 9))) is None


def test_one_place_at_least_is_compared():
    a = np.arange(9.0).reshape(3, 3)
    assert top_iou(a, a, 0.05) == 1.0
    assert peak_distance(a, a[::-1]) == 2 / math.hypot(3, 3)
