import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.toy_segmenters import ToySegmenter, small_unet
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.deletion import area_over, curves, deletions, hidden_shares, ranking, smoothed

SHAPE = (4, 4)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[1:3, 1:3] = True
REGION = Region(1, MASK)
RANDOM = np.random.default_rng(3)
TIES = RANDOM.random(SHAPE)


class AdditiveProbability(nn.Module):
    """Every pixel's foreground probability is the same weighted sum of all pixels: the score is additive."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=torch.float32))

    def forward(self, x):
        p = (x * self.weights).sum(dim=(1, 2, 3), keepdim=True)
        return torch.log(p / (1 - p)).expand(-1, 1, *x.shape[-2:])


def additive():
    weights = RANDOM.random(SHAPE) / 16
    image = RANDOM.random((1, *SHAPE))
    return weights, image, Session(ToySegmenter(AdditiveProbability(weights)), image)


class AllOrNothing(nn.Module):
    """Probability 1 while a rule holds for the image and 0 once it does not."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        holds = torch.stack([torch.as_tensor(bool(self.rule(each))) for each in x])
        return torch.where(holds, 200.0, -200.0)[:, None, None, None].expand(-1, 1, *x.shape[-2:])


def by_hand(weights, image, values, allowed, steps):
    """S / S0 of an additive score, pixel by pixel from the definition."""
    mean, total = image.mean(), float((weights * image[0]).sum())
    pixels = sorted(np.argwhere(allowed).tolist(), key=lambda at: -values[tuple(at)])
    curve = []
    for k in range(steps + 1):
        score = total
        for i, j in pixels[: round((k / steps) ** 2 * len(pixels))]:
            score += weights[i, j] * (mean - image[0, i, j])
        curve.append(score / total)
    return curve


@pytest.mark.parametrize("variant", ["object", "context"])
def test_the_curve_of_an_additive_score_is_the_one_of_the_definition(variant):
    weights, image, session = additive()
    values = RANDOM.random(SHAPE)
    found = deletions(session, REGION, {"map": values}, ties=TIES, steps=4, window_px=1)[variant]["map"]
    allowed = np.ones(SHAPE, dtype=bool) if variant == "object" else ~MASK
    expected = by_hand(weights, image, values, allowed, 4)
    assert found.relative.tolist() == pytest.approx(expected, abs=1e-5)
    area = sum((s1 - s0) * (2 - a - b) / 2 for s0, s1, a, b in
               zip(found.shares, found.shares[1:], expected, expected[1:], strict=False))  # fmt: skip
    assert found.area_over == pytest.approx(area, abs=1e-5)


def test_the_true_contributions_beat_every_other_order_of_an_additive_score():
    weights, image, session = additive()
    maps = {"truth": weights * (image[0] - image.mean())}
    maps |= {f"random {index}": RANDOM.random(SHAPE) for index in range(20)}
    maps["reverse"] = -maps["truth"]
    for variant in deletions(session, REGION, maps, ties=TIES, window_px=1).values():
        areas = {name: curve.area_over for name, curve in variant.items()}
        assert max(areas, key=areas.get) == "truth"
        assert min(areas, key=areas.get) == "reverse"


def test_all_steps_of_all_maps_are_counted_and_the_ends_are_shared():
    _, _, session = additive()
    maps = {str(index): RANDOM.random(SHAPE) for index in range(3)}
    found = deletions(session, REGION, maps, ties=TIES, steps=8)
    assert session.forwards == 1 + 2 + 3 * 2 * 7
    for variant in found.values():
        assert len({curve.relative[-1] for curve in variant.values()}) == 1
        assert all(curve.relative[0] == 1.0 for curve in variant.values())


def test_equal_maps_score_equally_and_values_inside_the_region_do_not_matter_for_the_context():
    image = torch.rand(1, 24, 32, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:16, 10:18] = True
    values, ties = RANDOM.random((24, 32)), RANDOM.random((24, 32))
    maps = {"a": values, "scaled": 7 * values, "object changed": np.where(mask, 100.0, values), "mask": mask,
            "mask again": mask * 3.0}  # fmt: skip
    found = deletions(Session(small_unet(), image), Region(1, mask), maps, ties=ties)
    for variant in found.values():
        assert variant["a"].area_over == variant["scaled"].area_over
        assert variant["mask"].area_over == variant["mask again"].area_over
    assert found["context"]["a"].area_over == found["context"]["object changed"].area_over
    assert found["object"]["a"].area_over != found["object"]["object changed"].area_over


def test_the_batch_size_changes_nothing():
    image = torch.rand(1, 24, 32, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((24, 32), dtype=bool)
    mask[:9, :9] = True
    maps = {"a": RANDOM.random((24, 32))}
    results = [
        deletions(Session(small_unet(), image, budget=Budget(size)), Region(1, mask), maps, ties=maps["a"])
        for size in (1, 5, 64)
    ]
    for variant in ("object", "context"):
        areas = [result[variant]["a"].area_over for result in results]
        assert areas == pytest.approx([areas[0]] * 3, abs=1e-6)


def test_a_region_that_fills_the_image_has_no_context():
    _, _, session = additive()
    found = deletions(session, Region(1, np.ones(SHAPE, dtype=bool)), {"map": TIES}, ties=TIES)
    assert found["context"] == {}
    assert "map" in found["object"]


def test_a_score_that_does_not_fall_has_no_area():
    assert area_over(hidden_shares(8), np.ones(9)) == 0.0
    assert area_over(hidden_shares(8), np.array([1.0] + [0.0] * 8)) == pytest.approx(1 - 1 / 128)
    assert area_over(hidden_shares(8), np.array([1.0] + [1.5] * 8)) < 0.0


def test_ranking_follows_values_then_ties_and_leaves_the_rest_last():
    values = np.array([[5.0, 1.0, 1.0, 9.0]])
    places = ranking(values, np.array([[True, True, True, False]]), np.array([[0.0, 0.2, 0.8, 0.0]]), 1)
    assert places.tolist() == [[0, 2, 1, 3]]


def test_float_noise_does_not_decide_an_order():
    values = np.ones((1, 6))
    ties = RANDOM.random((1, 6))
    noisy = values + 1e-9 * RANDOM.standard_normal((1, 6))
    everywhere = np.ones((1, 6), dtype=bool)
    assert ranking(noisy, everywhere, ties, 1).tolist() == ranking(values, everywhere, ties, 1).tolist()


@pytest.mark.parametrize("window", [1, 3, 5])
def test_smoothing_is_the_mean_over_allowed_pixels_of_the_window(window):
    values, allowed = RANDOM.random((7, 9)), RANDOM.random((7, 9)) > 0.3
    expected = np.zeros((7, 9))
    half = window // 2
    for i, j in np.argwhere(allowed):
        box = (slice(max(0, i - half), i + half + 1), slice(max(0, j - half), j + half + 1))
        expected[i, j] = values[box][allowed[box]].mean()
    np.testing.assert_allclose(smoothed(values, allowed, window), expected, atol=1e-12)


@pytest.mark.parametrize("variant", ["object", "context"])
def test_insertion_of_an_additive_score_is_the_one_of_the_definition(variant):
    weights, image, session = additive()
    values = RANDOM.random(SHAPE)
    found = curves(session, REGION, {"map": values}, ties=TIES, steps=3, insertion_steps=5, insertion_baseline="mean",
                   window_px=1).insertion[variant]["map"]  # fmt: skip
    allowed = np.ones(SHAPE, dtype=bool) if variant == "object" else ~MASK
    total = float((weights * image[0]).sum())
    pixels = sorted(np.argwhere(allowed).tolist(), key=lambda at: -values[tuple(at)])
    expected = []
    for k in range(6):
        shown = {tuple(at) for at in pixels[: round((k / 5) ** 2 * len(pixels))]}
        score = sum(
            weights[at] * (image[0][at] if at in shown or not allowed[at] else image.mean()) for at in np.ndindex(SHAPE)
        )
        expected.append(score / total)
    assert found.relative.tolist() == pytest.approx(expected, abs=1e-5)
    area = sum((s1 - s0) * (a + b) / 2 for s0, s1, a, b in
               zip(found.shares, found.shares[1:], expected, expected[1:], strict=False))  # fmt: skip
    assert found.area_under == pytest.approx(area, abs=1e-5)


def test_a_score_that_is_lost_with_the_first_hidden_pixel_has_no_area_under_its_deletion_curve():
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.1
    session = Session(ToySegmenter(AllOrNothing(lambda x: torch.equal(x, image))), image)
    found = curves(session, REGION, {"map": TIES}, ties=TIES, steps=4, window_px=1).deletion
    for variant in found.values():
        assert variant["map"].relative.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
        # the first step hides one pixel in sixteen, and the trapezoid rule gives half of it away
        assert variant["map"].area_over == pytest.approx(1 - 1 / 32)


def test_a_score_that_is_back_with_the_first_shown_pixel_has_the_whole_area_under_its_insertion_curve():
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.1
    image -= image.mean()
    whole = np.ones(SHAPE, dtype=bool)
    session = Session(ToySegmenter(AllOrNothing(lambda x: x.abs().max() > 1e-5)), image)
    found = curves(session, Region(1, whole), {"map": TIES}, ties=TIES, insertion_steps=4, insertion_baseline="mean",
                   window_px=1).insertion  # fmt: skip
    assert found["object"]["map"].relative.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert found["object"]["map"].area_under == pytest.approx(1 - 1 / 32)
    assert found["context"] == {}


def test_the_true_contributions_insert_best_and_the_stream_is_one():
    weights, image, session = additive()
    truth = weights * (image[0] - image.mean())
    maps = {"truth": truth, "reverse": -truth, "random": RANDOM.random(SHAPE)}
    calls = []
    own = session.scores
    session.scores = lambda images, targets: calls.append(1) or own(images, targets)
    found = curves(session, REGION, maps, ties=TIES, steps=8, insertion_steps=6, insertion_baseline="mean", window_px=1)
    assert len(calls) == 1
    assert session.forwards == 1 + 2 + 3 * 2 * 7 + 2 + 3 * 2 * 5
    for variant in found.insertion.values():
        areas = {name: curve.area_under for name, curve in variant.items()}
        assert max(areas, key=areas.get) == "truth"
        assert min(areas, key=areas.get) == "reverse"


def test_without_insertion_nothing_is_inserted():
    _, _, session = additive()
    assert curves(session, REGION, {"map": TIES}, ties=TIES).insertion == {"object": {}, "context": {}}
