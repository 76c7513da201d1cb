from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from xaiseg.data.degradation import REGISTRY, degrade
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.errors import UsageError

LADDERS = {
    "blur_px": (0.5, 1, 2, 4),
    "noise_sd": (0.02, 0.05, 0.1, 0.2),
    "gain": (0.9, 0.7, 0.5, 0.3),
    "jpeg_quality": (80, 50, 20, 5),
    "downscale": (0.75, 0.5, 0.25, 0.1),
}


def grey(seed=0):
    return (phantom_case(PhantomSpec(), seed)[0] / np.float32(255))[None].astype(np.float32)


def colour():
    return np.concatenate([grey(0), grey(1), grey(2)])


def rng():
    return np.random.default_rng(7)


def test_every_degradation_has_a_ladder_here():
    assert set(LADDERS) == set(REGISTRY)


@pytest.mark.parametrize("factor", LADDERS)
def test_the_identity_level_returns_the_image_itself(factor):
    image = grey()
    assert degrade(image, factor, REGISTRY[factor].identity, generator=rng()) is image


@pytest.mark.parametrize("factor", LADDERS)
def test_damage_grows_along_the_ladder(factor):
    image = grey()
    damage = [float(np.abs(degrade(image, factor, level, generator=rng()) - image).mean()) for level in LADDERS[factor]]
    assert damage[0] > 0
    assert damage == sorted(damage)


@pytest.mark.parametrize("factor", LADDERS)
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.3, 0.7)])
@pytest.mark.parametrize("make", [grey, colour])
def test_the_declared_range_is_only_a_change_of_units(factor, value_range, make):
    low, high = value_range
    plain = make()
    image = np.clip(plain * np.float32(high - low) + np.float32(low), low, high)
    for level in LADDERS[factor]:
        changed = degrade(image, factor, level, value_range=value_range, generator=rng())
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert np.float32(low) <= changed.min()
        assert changed.max() <= np.float32(high)
        expected = degrade(plain, factor, level, generator=rng())
        # Rounding in other units may move a JPEG's 8-bit value by one step, which moves its block a little.
        off = np.abs((changed - low) / (high - low) - expected)
        assert np.quantile(off, 0.99) < (0.02 if factor == "jpeg_quality" else 1e-5)


@pytest.mark.parametrize("factor", LADDERS)
def test_the_image_itself_is_left_alone_and_the_generator_decides(factor):
    image = grey()
    before = image.copy()
    first = degrade(image, factor, LADDERS[factor][1], generator=rng())
    again = degrade(image, factor, LADDERS[factor][1], generator=rng())
    assert (image == before).all()
    assert (first == again).all()


def test_blur_is_a_gaussian_of_that_width_in_pixels():
    sigma, radius = 1.5, 6
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    image = grey()[:, :20, :24]
    padded = np.pad(image[0], radius, mode="edge")
    slow = np.array(
        [
            [weights @ padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1] @ weights for x in range(24)]
            for y in range(20)
        ]
    )
    np.testing.assert_allclose(degrade(image, "blur_px", sigma, generator=rng())[0], slow, atol=1e-5)


def test_blur_keeps_channels_apart():
    image = np.zeros((3, 15, 15), np.float32)
    image[1, 7, 7] = 1
    blurred = degrade(image, "blur_px", 2, generator=rng())
    assert not blurred[[0, 2]].any()
    assert blurred[1].sum() == pytest.approx(1, abs=1e-3)


def test_noise_has_that_standard_deviation_of_the_range():
    for value_range in ((0.0, 1.0), (-1.0, 1.0)):
        low, high = value_range
        image = np.full((3, 200, 200), (low + high) / 2, np.float32)
        noise = degrade(image, "noise_sd", 0.1, value_range=value_range, generator=rng()) - image
        assert noise.std() == pytest.approx(0.1 * (high - low), rel=0.02)
        assert abs(noise.mean()) < 0.002 * (high - low)
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_gain_multiplies_above_the_lowest_value_and_saturates():
    image = np.array([[[-1.0, -0.5, 0.0, 1.0]]], np.float32)
    assert degrade(image, "gain", 2, value_range=(-1, 1), generator=rng()).tolist() == [[[-1, 0, 1, 1]]]
    assert degrade(image, "gain", 0, value_range=(-1, 1), generator=rng()).tolist() == [[[-1, -1, -1, -1]]]


@pytest.mark.parametrize("make", [grey, colour])
def test_jpeg_is_what_the_codec_gives(make):
    image = make()
    pixels = np.round(image * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=30)
    decoded = np.asarray(Image.open(buffer)).reshape(*image.shape[1:], len(image)).transpose(2, 0, 1)
    np.testing.assert_allclose(degrade(image, "jpeg_quality", 30, generator=rng()), decoded / 255, atol=1e-6)


def test_jpeg_takes_other_numbers_of_channels_one_by_one():
    two = np.concatenate([grey(0), grey(1)])
    changed = degrade(two, "jpeg_quality", 30, generator=rng())
    assert (changed[:1] == degrade(grey(0), "jpeg_quality", 30, generator=rng())).all()


def test_downscale_halves_by_triangle_weights():
    """Bilinear reduction by two weighs four pixels 1, 3, 3, 1; enlargement interpolates between the centres."""
    line = np.random.default_rng(0).random(12).astype(np.float32)
    image = np.tile(line, (8, 1))[None]
    small = []
    for k in range(6):
        at = np.arange(2 * k - 1, 2 * k + 3)
        inside = (at >= 0) & (at < 12)
        weights = np.array([1, 3, 3, 1])[inside]
        small.append(line[at[inside]] @ weights / weights.sum())
    centres = 2 * np.arange(6) + 0.5
    expected = np.interp(np.arange(12), centres, small)
    np.testing.assert_allclose(degrade(image, "downscale", 0.5, generator=rng())[0, 0], expected, atol=1e-5)


def test_downscale_never_goes_below_one_pixel():
    image = grey()[:, :10, :10]
    changed = degrade(image, "downscale", 0.01, generator=rng())
    assert np.ptp(changed) < 1e-6


def test_unknown_factors_and_levels_are_refused():
    with pytest.raises(UsageError, match=r"'blur' is not a degradation.*did you mean 'blur_px'"):
        degrade(grey(), "blur", 1, generator=rng())
    for factor, level in (("blur_px", -1), ("gain", 11), ("jpeg_quality", 0), ("downscale", 0), ("noise_sd", np.nan)):
        with pytest.raises(UsageError, match=f"{factor}: this level is out of range"):
            degrade(grey(), factor, level, generator=rng())


def test_every_sentence_names_its_level():
    for kind in REGISTRY.values():
        assert "{level}" in kind.sentence
