"""TCAV of two planted concepts, its parts against definitions and captum, and its tests under no effect."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from torch import nn

from tests.explainers.toy_concepts import A, B, blobs, case, examples, planted
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.adapters import wrap_module
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import tcav as module
from xaiseg.explainers.base import Session
from xaiseg.explainers.pooling import Example, find_layer, pool, region_weights
from xaiseg.explainers.targets import Region
from xaiseg.explainers.tcav import concept_vector, tcav
from xaiseg.modelfile import InputSpec

SUBJECT = planted()
CASES = [case(n) for n in range(900, 912)]
RNG = np.random.default_rng(8)


def images(count, start, prefix, *, a=0.5, b=0.5):
    """Images whose amounts of A and B vary around what is asked for."""
    rng = np.random.default_rng(start)
    return [
        Example(f"{prefix}{n}", blobs(start + n, a=a + rng.uniform(-0.3, 0.3), b=b + rng.uniform(-0.3, 0.3)))
        for n in range(count)
    ]


def random_sets(count, size=8):
    return [images(size, 1000 + 50 * n, f"random {n}/") for n in range(count)]


CONCEPTS = {"A": images(10, 100, "a", a=2.0), "B": images(10, 200, "b", b=2.0)}


@pytest.fixture(scope="module")
def found():
    return tcav(SUBJECT, CASES, CONCEPTS, random_sets(20), seed=0)


def test_the_concept_that_drives_the_target_is_significant_and_the_other_is_not(found):
    a, b = found.concepts
    assert (a.name, b.name) == ("A", "B")
    assert a.score == 1.0
    assert a.significant
    assert a.p < 0.01
    assert not b.significant
    assert a.accuracy > 0.9
    assert b.accuracy > 0.9
    assert 0.2 < found.random.mean() < 0.8


def test_a_concept_against_the_target_scores_zero_and_is_significant_too():
    against = tcav(planted(gain=-1.0), CASES, CONCEPTS, random_sets(20)).concepts[0]
    assert against.score == 0.0
    assert against.significant


def test_a_seed_gives_the_same_scores(found):
    again = tcav(SUBJECT, CASES, CONCEPTS, random_sets(20), seed=0)
    other = tcav(SUBJECT, CASES, CONCEPTS, random_sets(20), seed=1)
    for one, two in zip(found.concepts, again.concepts, strict=True):
        np.testing.assert_array_equal(one.runs, two.runs)
        assert (one.score, one.accuracy, one.p) == (two.score, two.accuracy, two.p)
    assert any((one.runs != two.runs).any() for one, two in zip(found.concepts, other.concepts, strict=True))


def test_few_random_sets_and_few_cases_are_said_to_be_few():
    few = tcav(SUBJECT, CASES[:3], CONCEPTS, random_sets(3, size=4))
    assert any("3 random sets are few" in note for note in few.notes)
    assert any("3 cases" in note for note in few.notes)
    assert not any(each.significant for each in few.concepts)


def test_concepts_without_a_common_trait_are_said_not_to_be_told_apart():
    odd = tcav(SUBJECT, CASES, {"nothing": images(8, 3000, "n")}, random_sets(5)).concepts[0]
    assert "the layer hardly tells the concept from random images" in odd.notes[0]


def test_a_target_that_does_not_depend_on_the_layer_has_no_score():
    subject = planted(gain=0.0)
    none = tcav(subject, CASES[:2], CONCEPTS, random_sets(2, size=3))
    for each in none.concepts:
        assert np.isnan(each.score)
        assert not each.significant
        assert each.reason == "the score does not depend on the layer: every slope is zero"


def test_slopes_are_the_change_of_the_score_when_the_vector_is_added_everywhere():
    subject, target = small_unet(), Region(1, np.pad(np.ones((8, 8), dtype=bool), ((8, 8), (10, 14))))
    image = bright_square()
    place = find_layer(subject, image)
    (slopes,), _ = module._slopes(subject, [(image, target)], place)
    vector = RNG.normal(size=8)
    step = 1e-3
    subject.network.double()

    def score(amount):
        add = torch.from_numpy(amount * vector)[None, :, None, None]
        part = dict(subject.network.named_modules())[place.layer]
        handle = part.register_forward_hook(lambda _, __, output: output + add)
        with torch.no_grad():
            found = subject.forward(image[None].double())[0, 1][torch.from_numpy(target.mask)].mean()
        handle.remove()
        return float(found)

    assert slopes @ vector == pytest.approx((score(step) - score(-step)) / (2 * step), rel=2e-3)


def test_the_vector_is_the_normal_of_the_boundary_and_points_to_the_concept():
    shown, others = RNG.normal(size=(30, 4)) + np.array([3.0, 0, 0, 0]), RNG.normal(size=(30, 4))
    vector = concept_vector(shown, others)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector[0] > 0.9
    assert (shown @ vector).mean() > (others @ vector).mean()
    np.testing.assert_allclose(concept_vector(others, shown), -vector, atol=1e-3)
    np.testing.assert_allclose(concept_vector(shown * 1e3, others * 1e3), vector, atol=1e-3)
    faint = np.array([1.0, 1e-3, 1.0, 1.0])  # a channel that hardly varies has hardly a say
    assert abs(concept_vector(shown * faint, others * faint)[1]) < abs(vector[1]) + 1e-3
    assert not concept_vector(np.ones((3, 4)), np.ones((3, 4))).any()


def test_welch_is_that_of_scipy_and_needs_some_spread():
    for sizes in ((10, 10), (5, 30)):
        first, second = RNG.normal(size=sizes[0]), 2 * RNG.normal(size=sizes[1]) + 0.5
        assert module._welch(first, second) == pytest.approx(ttest_ind(first, second, equal_var=False).pvalue)
    assert module._welch(np.ones(5), np.ones(4)) == 1.0
    assert module._welch(np.ones(5), np.zeros(5)) == pytest.approx(2 / 252)


def test_images_alone_decide_at_the_rate_that_is_asked_for():
    rejected = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        own, unlike = rng.normal(size=(12, 6)), rng.normal(size=(60, 6))
        own[:, 1] += 3.0  # a concept, on a channel that the target does not read
        along = np.array([1.0, 0.0, 0.5, -1.0, 0.0, 2.0])
        rejected += module._welch(own @ along, unlike @ along) < 0.05
    assert 0.02 < rejected / 400 < 0.085


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_score_is_that_of_captum_with_the_same_vector(tmp_path):
    """captum flattens the grid, so its classifier is given our vector at every cell."""
    from captum.concept import TCAV, Classifier, Concept

    subject = small_unet()
    mask = np.pad(np.ones((8, 8), dtype=bool), ((8, 8), (10, 14)))
    batch = torch.stack([bright_square(top=4 + n, left=3 + 2 * n) + 0.05 * n for n in range(7)])
    vectors = [RNG.normal(size=8) for _ in range(3)]
    place = find_layer(subject, batch[0])

    class Score(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = subject.network

        def forward(self, x):
            return self.network(x)[:, 0][:, torch.from_numpy(mask)].mean(dim=1, keepdim=True)

    class Given(Classifier):
        def __init__(self, vector):
            self.vector = torch.from_numpy(np.repeat(vector, 12 * 16)).float()

        def train_and_eval(self, dataloader, **_):
            return {"accs": 1.0}

        def weights(self):
            return torch.stack((self.vector, -self.vector))

        def classes(self):
            return [0, 1]

    slopes, _ = module._slopes(subject, [(image, Region(1, mask)) for image in batch], place)
    scores = []
    for number, vector in enumerate(vectors):
        pair = [Concept(n, name, [batch[:2]]) for n, name in enumerate(("concept", "random"))]
        theirs = TCAV(
            Score(),
            f"network.{place.layer}",
            model_id=f"toy{number}",
            classifier=Given(vector),
            save_path=str(tmp_path),
        ).interpret(batch, [pair], target=0)
        (each,) = theirs.values()
        scores.append(float(each[f"network.{place.layer}"]["sign_count"][0]))
        assert float((slopes @ vector > 0).mean()) == pytest.approx(scores[-1])
    assert 0 < np.mean(scores) < 1


def test_images_of_random_sets_count_once_over_images():
    one, two = images(4, 1, "x"), images(4, 9, "y")
    place = find_layer(SUBJECT, one[0].image)
    pools = [pool(SUBJECT, shown, place=place) for shown in (one, two, [*one[:2], *two[:2]])]
    assert len(module._unique(pools)) == 8


def test_regions_can_be_the_examples_of_a_concept():
    regions = {
        name: [Example(each.id, each.image, (each.image[channel] > 0.3,)) for each in examples(6, prefix=name)]
        for name, channel in (("A", 0), ("B", 1))
    }
    found = tcav(SUBJECT, CASES, regions, random_sets(3, size=4))
    place, unlike = found.place, np.zeros((4, 6)) + RNG.uniform(0, 0.01, size=(4, 6))
    for name, direction in (("A", A), ("B", B)):
        vector = concept_vector(pool(SUBJECT, regions[name], place=place).vectors, unlike)
        assert vector @ direction > 0.9
    assert found.concepts[0].score == 1.0


def test_too_little_is_one_clear_error():
    sets = random_sets(2, size=3)
    for cases, concepts, randoms, match in (
        ([], CONCEPTS, sets, "cases: there is too little to test. Got: 0. Allowed: 1 or more"),
        (CASES, {}, sets, "concepts: there is too little to test"),
        (CASES, CONCEPTS, sets[:1], "randoms: there is too little to test. Got: 1. Allowed: 2 or more"),
        (CASES, {"A": CONCEPTS["A"][:1]}, sets, "concept A: a set needs at least 2 images"),
        (CASES, CONCEPTS, [sets[0], sets[1][:1]], "random set 2: a set needs at least 2 images"),
    ):
        with pytest.raises(UsageError, match=match):
            tcav(SUBJECT, cases, concepts, randoms)


def test_a_black_box_is_one_clear_error():
    subject = ToySegmenter(SUBJECT.network, channels=2, offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="tcav needs activations and forward and gradients, which"):
        tcav(subject, CASES, CONCEPTS, random_sets(2, size=3))


def test_a_network_of_one_layer_is_its_own_layer():
    torch.manual_seed(0)
    subject = ToySegmenter(nn.Conv2d(2, 1, 3, padding=1), channels=2)
    found = tcav(subject, CASES[:2], CONCEPTS, random_sets(2, size=3))
    assert found.place.layer == "Conv2d"
    # Added to its own logits, one unit raises the mean logit by one unit, in whatever direction the concept lies.
    assert all(set(each.runs) <= {0.0, 1.0} for each in found.concepts)


def test_slopes_in_the_padding_do_not_count():
    subject = wrap_module(SUBJECT.network, InputSpec(channels=2, size=(36, 36), resize="pad"))
    image = blobs(1)
    # At the upper edge the 3 x 3 mean reads one row of cells that shows no image.
    edge = np.zeros((12, 18), dtype=bool)
    edge[0, 4:8] = True
    place = find_layer(subject, image)
    tap = Session(subject, image).tap([Region(1, edge)], place.layer)
    weights = region_weights(subject, [np.ones((12, 18), dtype=bool)], (36, 36))[0]
    by_hand = np.zeros(6)
    for y in range(36):
        for x in range(36):
            if weights[y, x] > 0:
                by_hand += tap.gradients[0, :, y, x].numpy()
    (found,), _ = module._slopes(subject, [(image, Region(1, edge))], place)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert np.abs(tap.gradients[0].sum(dim=(1, 2)).numpy() - found).max() > 0.01
