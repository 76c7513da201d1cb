import cv2
import numpy as np
import pytest
from scipy import ndimage

from benchmarks.burnt_in import Pair, crosses, elsewhere, lines_of, words


@pytest.fixture
def speckle():
    rng = np.random.default_rng(0)
    rough = ndimage.gaussian_filter(rng.normal(0, 1, (200, 260)), (1.0, 2.0))
    return np.clip(90 + 25 * rough / rough.std(), 0, 200).astype(np.uint8)


def with_cross(image, row, column, arm, slanted):
    ends = [((-1, -1), (1, 1)), ((-1, 1), (1, -1))] if slanted else [((-1, 0), (1, 0)), ((0, -1), (0, 1))]
    for (down, right), (low, far) in ends:
        reach = round(arm * 0.75) if slanted else arm
        cv2.line(
            image,
            (column + right * reach, row + down * reach),
            (column + far * reach, row + low * reach),
            255,
        )
    return image


@pytest.mark.parametrize("arm", [4, 6, 8])
@pytest.mark.parametrize("slanted", [False, True])
def test_crosses_are_found_where_they_are(speckle, arm, slanted):
    image = with_cross(with_cross(speckle, 60, 80, arm, slanted), 140, 180, arm, slanted)
    middles = sorted(tuple(np.round(ndimage.center_of_mass(mark)).astype(int)) for mark in crosses(image))
    assert len(middles) == 2
    np.testing.assert_allclose(middles, [(60, 80), (140, 180)], atol=1)


def test_speckle_holds_no_marks(speckle):
    assert crosses(speckle) == []
    assert words(speckle) == []


def test_a_word_is_one_region_around_its_letters(speckle):
    cv2.putText(speckle, "MAMA DIR", (40, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    (mark,) = words(speckle)
    drawn = np.zeros(speckle.shape, np.uint8)
    cv2.putText(drawn, "MAMA DIR", (40, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    assert mark[drawn > 0].mean() > 0.9
    assert mark.sum() < 3000


def test_three_letters_are_no_word(speckle):
    cv2.putText(speckle, "GE1", (40, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1)
    assert words(speckle) == []


def test_the_sham_of_a_cross_lies_as_far_from_the_border():
    lesion = np.zeros((120, 120), bool)
    lesion[40:80, 40:80] = True
    mark = np.zeros_like(lesion)
    mark[34:39, 58:63] = True  # its middle is 4 px above the border
    other = elsewhere(mark, lesion, mark, "calipers", np.random.default_rng(0))
    assert other.sum() == mark.sum()
    assert not (other & mark).any()
    signed = ndimage.distance_transform_edt(~lesion) - ndimage.distance_transform_edt(lesion)
    middle = tuple(np.round(ndimage.center_of_mass(other)).astype(int))
    assert abs(signed[middle] - signed[36, 60]) <= 1.0


def test_the_sham_of_a_word_touches_neither_lesion_nor_marks():
    lesion = np.zeros((120, 120), bool)
    lesion[40:80, 40:80] = True
    mark = np.zeros_like(lesion)
    mark[100:112, 10:60] = True
    other = elsewhere(mark, lesion, mark, "words", np.random.default_rng(0))
    assert other.sum() == mark.sum()
    assert not (other & (lesion | mark)).any()
    assert elsewhere(mark, np.ones_like(lesion), mark, "words", np.random.default_rng(0)) is None


def test_effects_are_paired_differences_from_the_sham():
    held = [
        Pair("calipers", f"p{index}", 2, (0.8, 0.6 + 0.01 * (index % 3), 0.79), (0.10, 0.12, 0.11))
        for index in range(40)
    ]
    lines = lines_of(held, 0)
    expected = np.mean([one.dice[1] - one.dice[2] for one in held])
    assert lines[0] == "calipers: 80 on 40 images of 40 patients; mean Dice 0.800 as they are"
    assert f"Dice, filled in minus sham: {expected:+.4f}" in lines[1]
    assert "predicted area, % of the image: +1.0000" in lines[3]
    assert lines[4] == "words: none found"


def test_on_the_real_images(real_data):
    folder = real_data / "busbra_breast_ultrasound"
    if not folder.is_dir():
        pytest.skip("the ultrasound images are absent")
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((folder / "images").iterdir())[::6]]
    assert 0.4 < np.mean([bool(words(image)) for image in images]) < 0.8
    assert 0.4 < np.mean([bool(crosses(image)) for image in images]) < 0.9
