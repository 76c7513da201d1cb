"""Codes and counts are scikit-image's, bit for bit, and values its values; slow definitions stand beside it."""

from __future__ import annotations

import ast
import doctest
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from xaiseg.errors import UsageError
from xaiseg.zoo import radiomics as module
from xaiseg.zoo import radiomics_kernels as kernels
from xaiseg.zoo.radiomics import FEATURES, radiomic_features, radiomics

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
PROPERTIES = ["contrast", "dissimilarity", "homogeneity", "energy", "correlation"]
REAL = ["busbra_breast_ultrasound", "kvasir_seg_polyps"]
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def noise(height, width, seed=0, top=256):
    return np.random.default_rng(seed).integers(0, top, (height, width)).astype(np.uint8)


def smooth(height, width, blur, seed=0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), blur)
    return np.round((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)


ROWS, COLUMNS = np.mgrid[:90, :70]
PICTURES = {
    "noise": noise(80, 80),
    "smooth": smooth(96, 96, 3),
    "very smooth": smooth(64, 64, 9, seed=1),
    "gradient along x": (COLUMNS * 3).astype(np.uint8),
    # On a diagonal gradient whole diagonals of neighbours equal their centre but for rounding.
    "gradient along the diagonal": (ROWS + COLUMNS).astype(np.uint8),
    "checkerboard": ((ROWS + COLUMNS) % 2 * 255).astype(np.uint8),
    "checkerboard of blocks": ((ROWS // 5 + COLUMNS // 5) % 2 * 90 + 30).astype(np.uint8),
    "flat 0": np.zeros((40, 40), np.uint8),
    "flat 127": np.full((40, 40), 127, np.uint8),
    "flat 255": np.full((40, 40), 255, np.uint8),
    "two values": np.where(noise(60, 60, 2) > 200, 143, 140).astype(np.uint8),
    "one pixel differs": np.where(np.arange(1600).reshape(40, 40) == 820, 9, 200).astype(np.uint8),
    "a border pixel differs": np.where(np.arange(1600).reshape(40, 40) == 0, 9, 200).astype(np.uint8),
    "wide, beyond one tile": smooth(20, 2 * kernels.TILE + 37, 2, seed=3),
    "diagonal gradient beyond one tile": (np.add.outer(np.arange(30), np.arange(kernels.TILE + 70)) // 2).astype(
        np.uint8
    ),
    "tall": noise(300, 9, 4),
    "smallest": noise(7, 7, 5),
    "few values": noise(50, 61, 6, top=3),
}


def reference(image):
    """The features from scikit-image, numpy and scipy."""
    matrix = graycomatrix(image >> 2, [1, 3], ANGLES, levels=64, symmetric=True, normed=True)
    codes = local_binary_pattern(image, 24, 3, "uniform")
    shares = np.bincount(codes.astype(int).ravel(), minlength=26) / codes.size
    held, values = shares[shares > 0], image.ravel().astype(float)
    varied = values.std() >= 1e-8
    return np.array(
        [
            *(graycoprops(matrix, name).mean() for name in PROPERTIES),
            codes.mean(),
            codes.std(),
            -(held * np.log2(held)).sum(),
            (shares**2).sum(),
            values.mean(),
            values.std(),
            stats.skew(values) if varied else 0.0,
            stats.kurtosis(values) if varied else 0.0,
        ]
    )


def slow_codes(image):
    """Local binary patterns from the definition: 24 points of a circle between four pixels each, zeros outside."""
    height, width = image.shape

    def pixel(r, c):
        return float(image[r, c]) if 0 <= r < height and 0 <= c < width else 0.0

    def between(r, c):
        r0, c0, r1, c1 = math.floor(r), math.floor(c), math.ceil(r), math.ceil(c)
        upper = (1 - (c - c0)) * pixel(r0, c0) + (c - c0) * pixel(r0, c1)
        lower = (1 - (c - c0)) * pixel(r1, c0) + (c - c0) * pixel(r1, c1)
        return (1 - (r - r0)) * upper + (r - r0) * lower

    turns = [2 * math.pi * k / 24 for k in range(24)]
    circle = [(round(-3 * math.sin(turn), 5), round(3 * math.cos(turn), 5)) for turn in turns]
    codes = np.empty(image.shape, np.uint8)
    for r in range(height):
        for c in range(width):
            bits = [between(r + dr, c + dc) - pixel(r, c) >= 0 for dr, dc in circle]
            changes = sum(a != b for a, b in itertools.pairwise(bits))
            codes[r, c] = sum(bits) if changes <= 2 else 25
    return codes


def slow_counts(image):
    """Ordered pairs of grey levels for the eight offsets."""
    offsets = [(0, 1), (1, 1), (1, 0), (1, -1), (0, 3), (2, 2), (3, 0), (2, -2)]
    counts = np.zeros((8, 64, 64), np.uint32)
    for index, (down, right) in enumerate(offsets):
        for (r, c), value in np.ndenumerate(image):
            if r + down < image.shape[0] and 0 <= c + right < image.shape[1]:
                counts[index, int(value) * 64 // 256, int(image[r + down, c + right]) * 64 // 256] += 1
    return counts


def assert_as_scikit_image(image):
    matrix = graycomatrix(image >> 2, [1, 3], ANGLES, levels=64)
    assert np.array_equal(kernels.cooccurrences(image)[:, :, :64], matrix.transpose(2, 3, 0, 1).reshape(8, 64, 64))
    assert np.array_equal(kernels.lbp_codes(image), local_binary_pattern(image, 24, 3, "uniform"))
    np.testing.assert_allclose(radiomics(image[None])[0], reference(image), **EXACT)


@pytest.mark.parametrize("name", PICTURES)
def test_codes_counts_and_values_are_those_of_scikit_image(name):
    assert_as_scikit_image(PICTURES[name])


@pytest.mark.parametrize("name", ["smallest", "diagonal gradient", "few values", "smooth", "tall"])
def test_codes_and_counts_follow_the_definition(name):
    image = PICTURES["gradient along the diagonal"] if name == "diagonal gradient" else PICTURES[name]
    image = np.ascontiguousarray(image[:23, :29])
    assert np.array_equal(kernels.lbp_codes(image), slow_codes(image))
    assert np.array_equal(kernels.cooccurrences(image)[:, :, :64], slow_counts(image))


@pytest.mark.parametrize("name", REAL)
def test_real_images(real_data, name):
    paths = sorted((real_data / name / "images").iterdir())[::40][:4]
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as picture:
            assert_as_scikit_image(np.array(picture.convert("L").resize((200, 160))))


def test_features_of_a_flat_image_by_hand():
    features = dict(zip(FEATURES, radiomics(np.full((1, 40, 50), 127, np.uint8))[0], strict=True))
    assert features["glcm_contrast"] == features["glcm_dissimilarity"] == 0
    assert features["glcm_homogeneity"] == features["glcm_energy"] == features["glcm_correlation"] == 1
    assert features["intensity_mean"] == 127
    assert features["intensity_std"] == features["intensity_skewness"] == features["intensity_kurtosis"] == 0


def test_features_of_a_checkerboard_by_hand():
    """Pairs along rows and columns, at distance 1 as at 3, differ by 63 levels; pairs along diagonals are equal."""
    board = ((np.add.outer(np.arange(40), np.arange(40)) % 2) * 255).astype(np.uint8)
    features = dict(zip(FEATURES, radiomics(board[None])[0], strict=True))
    assert features["glcm_contrast"] == pytest.approx(63**2 / 2)
    assert features["glcm_dissimilarity"] == pytest.approx(63 / 2)
    assert features["glcm_homogeneity"] == pytest.approx((1 + 1 / (1 + 63**2)) / 2)
    assert features["glcm_correlation"] == pytest.approx(0, abs=1e-3)
    assert features["intensity_mean"] == features["intensity_std"] == 127.5
    assert features["intensity_kurtosis"] == pytest.approx(-2)


def test_patterns_of_a_black_image_are_all_ones():
    features = dict(zip(FEATURES, radiomics(np.zeros((1, 20, 20), np.uint8))[0], strict=True))
    assert features["lbp_mean"] == 24
    assert features["lbp_std"] == features["lbp_entropy"] == 0
    assert math.copysign(1, features["lbp_entropy"]) == 1
    assert features["lbp_uniformity"] == 1


def test_cooccurrence_does_not_know_left_from_right_nor_rows_from_columns():
    image = PICTURES["smooth"][:60, :80]
    expected = radiomics(image[None])[0, :5]
    for turned in (image[:, ::-1], image[::-1], image.T):
        np.testing.assert_allclose(radiomics(turned[None])[0, :5], expected, rtol=1e-12)


def test_a_batch_is_its_images_one_by_one():
    images = np.stack([noise(30, 33, 7), smooth(30, 33, 2), noise(30, 33, 8, top=5)])
    assert np.array_equal(radiomics(images), np.concatenate([radiomics(image[None]) for image in images]))
    assert radiomics(images[:0]).shape == (0, 13)


def test_order_and_names():
    assert len(FEATURES) == len(set(FEATURES)) == 13
    assert [name.split("_")[0] for name in FEATURES] == ["glcm"] * 5 + ["lbp"] * 4 + ["intensity"] * 4


def test_every_loop_is_compiled_once_for_all_shapes_and_memory_layouts():
    images = noise(40, 48, 9)[None]
    readonly = images.copy()
    readonly.flags.writeable = False
    for given in (images, readonly, images.transpose(0, 2, 1), images[:, ::2, ::3], noise(9, 9)[None]):
        assert np.array_equal(radiomics(given), radiomics(given.copy(order="C")))
    for name in ("lbp_codes", "cooccurrences", "histogram", "texture", "moments"):
        assert len(getattr(kernels, name).signatures) == 1, name


def test_a_batch_for_a_network_is_made_grey_and_rounded():
    colours = np.random.default_rng(10).integers(0, 256, (2, 3, 24, 31))
    grey = np.einsum("c,bchw->bhw", [0.299, 0.587, 0.114], colours)
    halves = np.abs(grey % 1 - 0.5) < 0.01  # float32 may round them to either side
    assert halves.mean() < 0.05
    colours[np.broadcast_to(halves[:, None], colours.shape)] = 0
    grey = np.where(halves, 0, np.round(grey)).astype(np.uint8)
    found = radiomic_features(torch.from_numpy(colours / 255).float())
    assert np.array_equal(found.numpy(), radiomics(grey).astype(np.float32))
    single = torch.from_numpy(colours[:, :1] / 255)
    for dtype in (torch.float32, torch.float64):
        found = radiomic_features(single.to(dtype))
        assert found.dtype == torch.float32
        assert np.array_equal(found.numpy(), radiomics(colours[:, 0].astype(np.uint8)).astype(np.float32))


def test_noise_of_resampling_changes_nothing_and_values_beyond_the_range_are_clamped():
    image = torch.full((1, 1, 32, 32), 100 / 255)
    image[..., 8:20, 8:20] = 1.0
    expected = radiomic_features(image)
    torch.manual_seed(0)
    assert torch.equal(radiomic_features(image + 1e-4 * (torch.rand_like(image) - 0.5)), expected)
    assert torch.equal(radiomic_features(torch.where(image == 1, 1.3, image)), expected)
    assert torch.equal(radiomic_features(image.expand(1, 3, 32, 32)), expected)


def test_there_is_no_gradient():
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    found = radiomic_features(image)
    assert not found.requires_grad
    assert found.device == image.device


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (torch.zeros(1, 1, 6, 40), "too small"),
        (torch.zeros(1, 3, 40, 6), "too small"),
        (torch.zeros(1, 2, 16, 16), r"\(B, 1 or 3, H, W\)"),
        (torch.zeros(0, 1, 16, 16), r"of shape \(0, 1, 16, 16\)"),
        (torch.zeros(3, 16, 16), r"\(B, 1 or 3, H, W\)"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "floating point"),
        (torch.full((1, 1, 16, 16), math.nan), "256 of 256 values"),
        (torch.full((1, 3, 16, 16), math.inf), "NaN or infinite"),
        (torch.full((1, 1, 16, 16), 40000.0), "another range"),
        (torch.full((1, 1, 16, 16), -2.0), "another range"),
    ],
)
def test_what_cannot_be_described_is_refused(image, match):
    with pytest.raises(UsageError, match=match):
        radiomic_features(image)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((1, 16, 6), np.uint8), "too small"),
        (np.zeros((16, 16), np.uint8), r"uint8 of shape \(N, H, W\)"),
        (np.zeros((1, 16, 16)), "float64"),
    ],
)
def test_arrays_that_cannot_be_described_are_refused(images, match):
    with pytest.raises(UsageError, match=match):
        radiomics(images)


def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(monkeypatch):
    asked = []

    def njit(*, cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "njit", njit)
    assert kernels.compiled(max) is max
    assert asked == [True, False]


def test_numba_is_imported_on_first_use_only():
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    named = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert named
    assert not [line for line in named if "numba" in line or "kernels" in line]


def test_the_examples_of_the_module_run():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
