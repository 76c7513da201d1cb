from __future__ import annotations

import numpy as np
import pytest

from xaiseg.editing.backgrounds import FEATHER_PX, blurred_background, composed, fitted, pasted_back
from xaiseg.editing.regions import widened
from xaiseg.errors import UsageError


def scene(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random((3, 48, 56)).astype(np.float32)
    region = np.zeros((48, 56), bool)
    region[10:22, 30:41] = True
    return image, region


def test_the_object_stays_and_the_far_background_goes():
    image, region = scene()
    background = scene(1)[0]
    found = composed(image, region, background)
    far = ~widened(region, FEATHER_PX + 1)
    np.testing.assert_array_equal(found[:, region], image[:, region])
    np.testing.assert_array_equal(found[:, far], background[:, far])
    between = ~region & ~far
    low, high = np.minimum(image, background), np.maximum(image, background)
    assert ((found >= low - 1e-6) & (found <= high + 1e-6))[:, between].all()


def test_the_sham_changes_the_seam_alone():
    image, region = scene()
    sham = pasted_back(image, region)
    seam = widened(region, FEATHER_PX + 1) & ~region
    np.testing.assert_array_equal(sham[:, ~seam], image[:, ~seam])
    assert np.abs(sham - image)[:, seam].max() > 0.05
    smooth = np.full_like(image, 0.4)
    np.testing.assert_allclose(pasted_back(smooth, region), smooth, atol=0.003)


def test_seam_and_new_background_are_blended_in_the_same_place():
    image, region = scene()
    swapped = composed(image, region, scene(1)[0])
    assert ((swapped == image) | ~region).all()
    assert ((pasted_back(image, region) == image) | ~region).all()


def test_nothing_of_the_object_leaks_into_a_blurred_background():
    image, region = scene()
    halo = widened(region, FEATHER_PX + 1)
    other = np.where(halo, 1.0, image).astype(np.float32)
    first, second = blurred_background(image, region, 4.0), blurred_background(other, region, 4.0)
    np.testing.assert_array_equal(first[:, ~halo], second[:, ~halo])
    np.testing.assert_array_equal(first[:, region], image[:, region])
    assert first[:, ~halo].std() < 0.3 * image[:, ~halo].std()


def test_a_region_that_fills_the_image_has_no_background():
    image = scene()[0]
    whole = np.ones(image.shape[1:], bool)
    assert pasted_back(image, whole) is image
    assert blurred_background(image, whole, 2.0) is image
    np.testing.assert_array_equal(composed(image, ~whole, np.zeros_like(image)), 0.0)


@pytest.mark.parametrize("shape", [(10, 12), (48, 56), (100, 30), (150, 200)])
def test_backgrounds_are_cut_or_continued(shape):
    image = scene()[0]
    piece = fitted(image, shape, np.random.default_rng(0))
    assert piece.shape == (3, *shape)
    assert set(np.unique(piece)) <= set(np.unique(image))
    again = fitted(image, shape, np.random.default_rng(0))
    np.testing.assert_array_equal(piece, again)


def test_backgrounds_must_fit():
    image, region = scene()
    with pytest.raises(UsageError, match="another shape"):
        composed(image, region, image[:, :-1])
