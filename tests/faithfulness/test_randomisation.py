import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.baselines import closeness
from xaiseg.faithfulness.randomisation import (
    entropy_rise,
    histogram_entropy,
    randomised,
    reinitialise,
    similarity,
    similarity_in_rings,
)


def state(subject):
    return {name: value.clone() for name, value in subject.network.state_dict().items()}


def test_the_subject_is_not_touched_and_the_copy_has_other_weights():
    subject = small_unet()
    before = state(subject)
    twin = randomised(subject, seed=1)
    assert all((value == before[name]).all() for name, value in subject.network.state_dict().items())
    for name, parameter in twin.network.named_parameters():
        if parameter.ndim == 4:
            assert not torch.equal(parameter, before[name])
    assert not twin.network.training


def test_the_copy_depends_on_seed_and_draw_and_is_made_once():
    subject = small_unet()
    first = randomised(subject, seed=1)
    assert randomised(subject, seed=1) is first
    weights = [randomised(*each).network.head.weight for each in
               ((small_unet(), 1), (subject, 2), (subject, 1, 1))]  # fmt: skip
    assert torch.equal(weights[0], first.network.head.weight)
    assert not torch.equal(weights[1], first.network.head.weight)
    assert not torch.equal(weights[2], first.network.head.weight)


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    randomised(small_unet(), seed=3)
    torch.manual_seed(0)
    reinitialise(nn.Conv2d(1, 1, 3), 5)
    state_after = torch.get_rng_state()
    torch.manual_seed(0)
    nn.Conv2d(1, 1, 3)  # drawing its own first weights is all that may have moved the state
    assert torch.equal(state_after, torch.get_rng_state())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), expected)


def test_parameters_without_a_reset_are_permuted():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.arange(50.0))

    part = Scale()
    reinitialise(part, 0)
    assert not torch.equal(part.gamma, torch.arange(50.0))
    assert torch.equal(part.gamma.sort().values, torch.arange(50.0))


def test_a_black_box_has_no_weights_to_randomise():
    with pytest.raises(SubjectError, match="no weights"):
        randomised(ToySegmenter(small_unet().network, offers=frozenset({"scores"})), seed=0)


def test_explanations_of_the_copy_work_with_the_region_frozen_and_are_less_alike():
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:16, 10:18] = True
    subject, region = small_unet(2), Region(1, mask)
    for method in ("hirescam", "integrated-gradients", "occlusion"):
        own = explain(Session(subject, bright_square()), method, [region]).values[0]
        other = explain(Session(randomised(subject, 0), bright_square()), method, [region]).values[0]
        assert similarity_in_rings(own, own, mask) == 1.0
        assert similarity_in_rings(own, other, mask) < 0.9


def test_similarity_is_spearmans_correlation_of_absolute_values():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((6, 7)), rng.integers(-3, 4, (6, 7)).astype(float)
    where = rng.random((6, 7)) > 0.4
    expected = spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic
    assert similarity(first, second) == pytest.approx(expected)
    expected = spearmanr(np.abs(first[where]), np.abs(second[where])).statistic
    assert similarity(first, second, where) == pytest.approx(expected)
    assert similarity(first, -3 * first) == pytest.approx(1.0)


def test_a_constant_map_and_no_pixel_have_no_similarity():
    values = np.random.default_rng(0).random((4, 4))
    assert similarity(values, np.ones((4, 4))) is None
    assert similarity(np.zeros((4, 4)), np.zeros((4, 4))) is None
    assert similarity(values, values, np.zeros((4, 4), dtype=bool)) is None


MASK = np.zeros((40, 48), dtype=bool)
MASK[15:25, 20:30] = True


def test_two_maps_that_share_only_their_distance_to_the_region_are_not_alike_in_rings():
    rng = np.random.default_rng(1)
    near = np.exp(np.minimum(closeness(MASK), 0) / 3)
    first, second = (near * (0.5 + rng.random(MASK.shape)) for _ in range(2))
    assert similarity(first, second) > 0.9
    assert abs(similarity_in_rings(first, second, MASK)) < 0.2


def test_rings_by_the_definition():
    rng = np.random.default_rng(2)
    first = rng.random(MASK.shape)
    second = first + rng.random(MASK.shape)
    distance = closeness(MASK)
    rings = {}
    for at in np.ndindex(MASK.shape):
        depth = distance[at] - 1 if distance[at] > 0 else distance[at]
        rings.setdefault(np.floor(depth / (40 / 32)), []).append(at)
    x, y = [], []
    for pixels in rings.values():
        for values, ranks in ((first, x), (second, y)):
            own = [sum(values[q] < values[p] for q in pixels) / len(pixels) for p in pixels]
            ranks += list(np.array(own) - np.mean(own))
    expected = np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y))
    assert similarity_in_rings(first, second, MASK) == pytest.approx(expected, abs=1e-6)


def test_a_map_that_does_not_change_is_fully_alike_even_if_it_only_paints_the_mask():
    assert similarity_in_rings(MASK * 1.0, MASK * 3.0, MASK) == 1.0
    assert similarity_in_rings(MASK * 1.0, MASK * 3.0, MASK, ~MASK) is None
    assert similarity_in_rings(np.zeros(MASK.shape), np.zeros(MASK.shape), MASK) is None


def test_the_entropy_of_a_histogram_by_the_definition():
    values = np.random.default_rng(3).standard_normal((9, 11))
    low, high = values.min(), values.max()
    counts = [0] * 10
    for value in values.ravel():
        counts[min(9, int((value - low) / (high - low) * 10))] += 1
    expected = -sum(c / 99 * np.log(c / 99) for c in counts if c)
    assert histogram_entropy(values, 10) == pytest.approx(expected)
    assert histogram_entropy(5 * values - 3, 10) == pytest.approx(expected)  # units and offsets do not matter


def test_the_efficient_test_is_the_relative_rise_of_entropy():
    sharp, flat = np.zeros((10, 10)), np.arange(100.0).reshape(10, 10)
    sharp[0, 0] = 1.0
    h = -(0.01 * np.log(0.01) + 0.99 * np.log(0.99))
    assert entropy_rise(sharp, flat) == pytest.approx((np.log(100) - h) / h)
    assert entropy_rise(flat, flat) == 0.0
    assert entropy_rise(flat, sharp) < 0.0
    assert entropy_rise(np.zeros((10, 10)), flat) is None
