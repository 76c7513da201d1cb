from __future__ import annotations

import numpy as np
import pytest

from xaiseg.editing import fills
from xaiseg.editing.fills import blurred, get_fill, removed
from xaiseg.errors import UsageError

KINDS = ("mean", "blur", "telea")


def scene(level=0.3, seed=0):
    rng = np.random.default_rng(seed)
    image = (level + 0.02 * rng.standard_normal((3, 40, 50))).clip(0, 1).astype(np.float32)
    region = np.zeros((40, 50), bool)
    region[15:25, 20:32] = True
    image[:, region] = 1.0
    return image, region


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_leaves_no_trace(kind):
    image, region = scene()
    other = image.copy()
    other[:, region] = np.random.default_rng(5).random((3, int(region.sum())))
    other[0, 20, 25] = 1.0  # the same range of values, which Telea's method quantises
    other[:, 0, 0], image[:, 0, 0] = 0.0, 0.0
    filled = removed(image, region, kind)
    np.testing.assert_array_equal(filled, removed(other, region, kind))
    np.testing.assert_array_equal(filled[:, ~region], image[:, ~region])
    assert np.abs(filled[:, region] - 0.3).max() < 0.1
    assert filled.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_other_objects_are_not_copied(kind):
    image, region = scene()
    neighbour = np.zeros_like(region)
    neighbour[15:25, 33:40] = True
    image[:, neighbour] = 1.0
    assert removed(image, region, kind, avoid=neighbour)[:, region].max() < 0.36
    assert removed(image, region, kind)[:, region].max() > 0.37


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [-80.0, 4000.0])
def test_values_keep_their_own_range(kind, level):
    image, region = scene()
    image = (level + 100 * image).astype(np.float32)
    filled = removed(image, region, kind)
    assert filled.min() >= image.min()
    assert filled.max() <= image.max()
    assert filled[:, region].mean() == pytest.approx(level + 30, abs=5)


def test_the_mean_is_that_of_the_ring_and_not_of_the_image():
    image = np.zeros((1, 60, 60), np.float32)
    image[0, 20:40, 20:40] = 0.8
    region = np.zeros((60, 60), bool)
    region[28:32, 28:32] = True
    assert removed(image, region, "mean")[0, 30, 30] == pytest.approx(0.8)


def test_telea_carries_a_gradient_on():
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32), (1, 40, 40)).copy()
    region = np.zeros((40, 40), bool)
    region[16:24, 16:24] = True
    filled = removed(np.where(region, 0.0, ramp).astype(np.float32), region, "telea")
    assert np.abs(filled - ramp)[0, region].max() < 0.1


def test_the_blur_is_a_weighted_mean_of_known_pixels():
    rng = np.random.default_rng(2)
    image, known = rng.random((2, 9, 11)), rng.random((9, 11)) < 0.7
    sd, reach = 1.2, int(4 * 1.2 + 0.5)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * sd**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded, weight = np.pad(image, ((0, 0), (reach,) * 2, (reach,) * 2), mode="edge"), np.pad(known, reach, mode="edge")
    expected = np.zeros_like(image)
    for y in range(9):
        for x in range(11):
            window = (slice(y, y + 2 * reach + 1), slice(x, x + 2 * reach + 1))
            shares = kernel * weight[window]
            expected[:, y, x] = (padded[(slice(None), *window)] * shares).sum(axis=(1, 2)) / shares.sum()
    np.testing.assert_allclose(blurred(image, known, sd), expected, atol=1e-6)


def test_far_from_anything_known_the_mean_stands():
    image = np.zeros((1, 50, 50))
    image[0, 0, :2] = (1.0, 3.0)
    known = image[0] > 0
    assert blurred(image, known, 1.0)[0, 49, 49] == pytest.approx(2.0)


def test_a_filling_of_ones_own(monkeypatch):
    monkeypatch.setattr(fills, "REGISTRY", dict(fills.REGISTRY))

    @fills.fill("half")
    def half(image, region, known):
        return np.full_like(image, 0.5)

    image, region = scene()
    assert (removed(image, region, "half")[:, region] == 0.5).all()
    with pytest.raises(ValueError, match="taken"):
        fills.fill("half")(half)
    fills.REGISTRY["wrong"] = lambda image, region, known: image[:1]
    with pytest.raises(UsageError, match="shape"):
        removed(image, region, "wrong")


def test_what_cannot_be_filled_is_said():
    with pytest.raises(UsageError, match="did you mean 'telea'"):
        get_fill("telia")
    with pytest.raises(UsageError, match="nothing to fill"):
        removed(np.zeros((1, 3, 3), np.float32), np.ones((3, 3), bool), "mean")
