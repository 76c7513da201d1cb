"""Concepts of a layer with two planted ones, and the parts of the factorisation straight from their definitions."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn

from tests.explainers.toy_concepts import A, B, blobs, examples, planted
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.adapters import wrap_module
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.concepts import STABLE, amounts_of, concept_maps, find_concepts
from xaiseg.explainers.pooling import Example
from xaiseg.modelfile import InputSpec

SUBJECT = planted()


def named(concepts):
    """Numbers of the concepts that lie nearest to A and B."""
    return int(np.argmax(concepts.vectors @ A)), int(np.argmax(concepts.vectors @ B))


@pytest.mark.parametrize("pooling", ["patches", "regions"])
def test_both_planted_concepts_are_found(pooling):
    shown = [Example(each.id, each.image, (each.image[0] > 0.5, each.image[1] > 0.5)) for each in examples(8)]
    found = find_concepts(SUBJECT, shown, k=2, pooling=pooling)
    a, b = named(found)
    assert a != b
    assert found.vectors[a] @ A > 0.95
    assert found.vectors[b] @ B > 0.95
    assert found.error < 0.02
    assert found.negative == 0
    assert (found.stability > 0.95).all()
    assert found.unstable == ()
    assert found.shares.sum() == pytest.approx(1)
    assert list(found.shares) == sorted(found.shares, reverse=True)


def test_the_reconstruction_error_is_that_of_the_definition():
    shown = [Example(str(n), blobs(n), (blobs(n)[0] > 0.5, blobs(n)[1] > 0.5)) for n in range(6)]
    found = find_concepts(SUBJECT, shown, k=1, pooling="regions")
    matrix = np.array([
        [np.maximum(A * image[0, y, x] + B * image[1, y, x], 0) for y, x in zip(*np.nonzero(mask), strict=True)]
        for each in shown for image, mask in [(each.image, mask) for mask in each.regions]
    ]).mean(axis=1)  # fmt: skip
    best = np.linalg.svd(matrix)  # with one concept the best non-negative factorisation is the first singular one
    expected = np.sqrt((best.S[1:] ** 2).sum() / (best.S**2).sum())
    assert found.error == pytest.approx(expected, rel=1e-3)
    assert found.rows == 12


def test_more_concepts_than_there_are_do_not_come_back_and_are_named():
    rng = np.random.default_rng(0)
    noise = [Example(str(n), rng.uniform(size=(1, 16, 24)).astype(np.float32)) for n in range(6)]
    found = find_concepts(small_unet(), noise, k=4)
    assert (found.stability <= 1 + 1e-9).all()
    assert found.unstable == tuple(np.flatnonzero(found.stability < STABLE))
    planted_too = find_concepts(SUBJECT, examples(6, noise=0.3), k=5)
    assert planted_too.unstable
    (note,) = [note for note in planted_too.notes if "unstable" in note]
    assert all(str(number) in note for number in planted_too.unstable)


def test_a_seed_gives_the_same_concepts_and_so_does_any_batch_size():
    first, second = (find_concepts(SUBJECT, examples(5), k=2, seed=3, batch_size=size) for size in (8, 8))
    for name in ("vectors", "shares", "stability"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.exemplars == second.exemplars
    np.testing.assert_allclose(
        first.vectors, find_concepts(SUBJECT, examples(5), k=2, seed=3, batch_size=2).vectors, atol=1e-5
    )


def test_exemplars_show_the_case_and_the_place_where_a_concept_is_strongest():
    shown = [*examples(4, a=0.3, b=0.3), Example("much A", blobs(9, a=2.0, b=0.3))]
    found = find_concepts(SUBJECT, shown, k=2, patches=6)
    a, b = named(found)
    best = found.exemplars[a][0]
    assert best.id == "much A"
    x0, y0, x1, y1 = best.box
    assert (x1 - x0, y1 - y0) == (3, 2)
    assert (blobs(9, a=2.0)[0, y0:y1, x0:x1] > 0.5).all()
    assert best.amount == pytest.approx(2.0, rel=0.05)
    assert len({each.id for each in found.exemplars[b]}) == len(found.exemplars[b]) == 3
    x0, y0, x1, y1 = found.exemplars[b][0].box
    assert x0 >= 9


def test_patches_in_the_padding_are_left_out_and_boxes_lie_in_the_image():
    network = SUBJECT.network
    subject = wrap_module(network, InputSpec(channels=2, size=(36, 36), resize="pad"))
    found = find_concepts(subject, examples(4), k=2, patches=6)
    assert found.rows == 4 * 6 * 4  # of 6 rows of patches the first and the last lie in the padding
    boxes = {each.box for shown in found.exemplars for each in shown}
    assert all(0 <= x0 < x1 <= 18 and 0 <= y0 < y1 <= 12 for x0, y0, x1, y1 in boxes)


def test_concept_maps_are_the_planted_amounts():
    found = find_concepts(SUBJECT, examples(6), k=2)
    image = blobs(50, a=1.5)
    maps = concept_maps(SUBJECT, image, found)
    assert maps.shape == (2, 12, 18)
    assert maps.dtype == np.float32
    a, b = named(found)
    np.testing.assert_allclose(maps[a], image[0], atol=0.1)
    np.testing.assert_allclose(maps[b], image[1], atol=0.1)


def test_amounts_are_non_negative_least_squares():
    rng = np.random.default_rng(4)
    activation = torch.from_numpy(rng.normal(size=(6, 3, 5)))
    vectors = rng.uniform(size=(3, 6))
    found = amounts_of(activation, vectors)
    for y in range(3):
        for x in range(5):
            expected, _ = nnls(vectors.T, np.maximum(activation[:, y, x].numpy(), 0))
            np.testing.assert_allclose(found[:, y, x], expected, atol=1e-5)


def test_negative_activations_are_left_out_and_said_to_be():
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 3, padding=1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([3.0, -4.0]).reshape(2, 1, 1, 1))
    found = find_concepts(ToySegmenter(network), [Example("x", bright_square())], k=1)
    np.testing.assert_allclose(found.vectors, [[1.0, 0.0]], atol=1e-6)
    assert found.negative == pytest.approx(16 / 25)
    assert "64% of the activations' squared length is negative, and no concept holds it" in found.notes


def test_a_tiny_image_that_is_not_square_has_concepts():
    shown = [Example(str(n), np.random.default_rng(n).uniform(size=(1, 4, 6)).astype(np.float32)) for n in range(3)]
    found = find_concepts(small_unet(), shown, k=2)
    assert found.rows == 3 * 2 * 3
    assert concept_maps(small_unet(), shown[0].image, found).shape == (2, 4, 6)


def test_wrong_calls_are_one_clear_error():
    with pytest.raises(UsageError, match="k: there cannot be as many concepts. Got: 7. Allowed: 1 to 6"):
        find_concepts(SUBJECT, examples(3), k=7)
    with pytest.raises(UsageError, match="no image to read"):
        find_concepts(SUBJECT, [])
    with pytest.raises(UsageError, match="Allowed: regions to pool"):
        find_concepts(SUBJECT, [Example("x", blobs(1), ())], pooling="regions")
    with pytest.raises(SubjectError, match="no activation is positive"):
        find_concepts(SUBJECT, [Example("x", np.zeros((2, 8, 8), dtype=np.float32))], k=2)
    black_box = ToySegmenter(SUBJECT.network, channels=2, offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="finding concepts needs activations and forward and gradients"):
        find_concepts(black_box, examples(2))
