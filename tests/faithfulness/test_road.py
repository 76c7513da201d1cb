import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from scipy.ndimage import gaussian_filter

from tests.explainers.toy_segmenters import Linear, ToySegmenter, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.imputation import impute
from xaiseg.faithfulness.road import NOISE_SHARE, removed, road

SHAPE = (20, 24)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[6:14, 8:18] = True
REGION = Region(1, MASK)
RANDOM = np.random.default_rng(0)
TIES = RANDOM.random(SHAPE)
IMAGE = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_the_number_of_removed_pixels_is_that_of_numpys_percentile():
    for pixels in (7, 100, 480):
        values = RANDOM.permutation(pixels).astype(float)
        for percentile in (1, 10, 33, 50, 90, 99):
            assert removed(pixels, percentile) == (values >= np.percentile(values, percentile)).sum()


def test_scores_by_the_definition_in_both_variants():
    values = RANDOM.random(SHAPE)
    session = Session(small_unet(), IMAGE)
    found = road(session, REGION, {"map": values}, ties=TIES, percentiles=(30, 70), noise=0.0)
    plain = Session(small_unet(), IMAGE)
    target = REGION.as_probability()
    for variant, allowed in (("object", np.ones(SHAPE, dtype=bool)), ("context", ~MASK)):
        gaps = []
        for k, percentile in enumerate((30, 70)):
            low = np.percentile(values[allowed], percentile)
            high = np.percentile(-values[allowed], percentile)
            scores = []
            for hidden in (allowed & (values >= low), allowed & (-values >= high)):
                picture = torch.from_numpy(impute(IMAGE.numpy(), hidden))
                scores.append(plain.scores([picture], [target])[0, 0] / plain.score(target))
            assert found[variant]["map"].most[k] == pytest.approx(scores[0], abs=1e-6)
            assert found[variant]["map"].least[k] == pytest.approx(scores[1], abs=1e-6)
            gaps.append((scores[1] - scores[0]) / 2)
        assert found[variant]["map"].combined == pytest.approx(np.mean(gaps), abs=1e-6)
    assert session.forwards == 1 + 2 * 2 * 2


# grad-cam hands tensors to numpy functions, which numpy 2 warns about; may go once it no longer does.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_it_is_pytorch_grad_cams_score(monkeypatch):
    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, NoisyLinearImputer.__init__.__defaults__[1]))
    subject, target = small_unet(), REGION.as_probability()
    values = RANDOM.permutation(IMAGE.numel()).reshape(SHAPE) / IMAGE.numel()
    percentiles = [20, 50, 80]
    peer = ROADCombined(percentiles=percentiles)
    expected = peer(IMAGE[None], values[None], [lambda logits: target.score(logits[None])[0]], subject.forward)
    session = Session(subject, IMAGE)
    found = road(session, REGION, {"map": values}, ties=TIES, percentiles=percentiles, noise=0.0)["object"]["map"]
    assert found.combined * session.score(target) == pytest.approx(float(expected[0]), abs=1e-5)


def test_the_true_contributions_beat_the_reverse_and_a_random_map():
    weights = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.5
    session = Session(ToySegmenter(Linear(weights / 20)), IMAGE)
    truth = (weights * (IMAGE - IMAGE.mean()))[0].numpy()
    found = road(session, REGION, {"truth": truth, "reverse": -truth, "random": TIES}, ties=TIES, percentiles=(50, 90))
    for variant in found.values():
        assert variant["truth"].combined > abs(variant["random"].combined)
        assert variant["reverse"].combined == pytest.approx(-variant["truth"].combined, abs=1e-9)


def test_equal_maps_score_equally_and_the_noise_repeats():
    values = RANDOM.random(SHAPE)
    maps = {"a": values, "b": 9 * values}
    runs = [road(Session(small_unet(), IMAGE, seed=4), REGION, maps, ties=TIES, percentiles=(50,)) for _ in range(2)]
    for variant in ("object", "context"):
        assert runs[0][variant]["a"].combined == runs[0][variant]["b"].combined == runs[1][variant]["a"].combined
    other = road(Session(small_unet(), IMAGE, seed=5), REGION, maps, ties=TIES, percentiles=(50,))
    assert other["object"]["a"].combined != runs[0]["object"]["a"].combined
    assert NOISE_SHARE == 0.01


def test_the_fast_mode_gives_nearly_the_same_score():
    image = torch.from_numpy(gaussian_filter(RANDOM.standard_normal((1, *SHAPE)), (0, 2, 2))).float()
    maps = {"a": gaussian_filter(RANDOM.standard_normal(SHAPE), 2)}
    exact, fast = (
        road(Session(small_unet(), image), REGION, maps, ties=TIES, mode=mode)["object"]["a"].combined
        for mode in ("exact", "fast")
    )
    assert exact != fast
    assert abs(exact - fast) <= 0.01


def test_a_region_that_fills_the_image_has_no_context_and_percentiles_are_checked():
    session = Session(small_unet(), IMAGE)
    full = Region(1, np.ones(SHAPE, dtype=bool))
    assert road(session, full, {"map": TIES}, ties=TIES, percentiles=(50,))["context"] == {}
    for wrong in ((), (0,), (100,), (50, 101)):
        with pytest.raises(UsageError, match="no percentiles"):
            road(session, REGION, {"map": TIES}, ties=TIES, percentiles=wrong)
