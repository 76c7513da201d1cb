import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.targets import Region, named_region, predicted_region
from xaiseg.subject import Prediction

CLASSES = ("background", "cyst", "tumour")
LABELS = np.array([[0, 1, 1], [0, 2, 0]], dtype=np.uint8)


def test_the_score_is_the_mean_over_the_region_by_the_definition():
    logits = torch.randn(2, 3, 4, 5)
    mask = np.random.default_rng(0).random((4, 5)) > 0.5
    by_hand = [np.mean([logits[b, 2, i, j].item() for i, j in np.argwhere(mask)]) for b in range(2)]
    assert Region(2, mask).score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)
    probabilities = torch.softmax(logits.double(), dim=1)
    by_hand = [np.mean([probabilities[b, 2, i, j].item() for i, j in np.argwhere(mask)]) for b in range(2)]
    assert Region(2, mask).as_probability().score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_a_one_channel_head_scores_its_own_logit():
    z = torch.randn(1, 1, 2, 2)
    logits = torch.cat((torch.zeros_like(z), z), dim=1)
    region = Region(1, np.ones((2, 2), dtype=bool))
    assert region.score(logits).item() == pytest.approx(z.mean().item(), abs=1e-6)
    assert region.as_probability().score(logits).item() == pytest.approx(torch.sigmoid(z).mean().item(), abs=1e-6)


def test_the_predicted_region_is_the_largest_foreground_class_or_the_one_asked_for():
    assert predicted_region(Prediction(LABELS), CLASSES).name == "cyst"
    tumour = predicted_region(Prediction(LABELS), CLASSES, 2)
    assert tumour.mask.tolist() == [[False, False, False], [False, True, False]]
    assert predicted_region(Prediction(np.zeros((2, 2), dtype=np.uint8)), CLASSES) is None


def test_names_of_targets():
    assert named_region("pred", Prediction(LABELS), CLASSES).name == "cyst"
    assert named_region("tumour", Prediction(LABELS), CLASSES).mask.sum() == 1
    with pytest.raises(UsageError, match="did you mean 'tumour'"):
        named_region("tumor", Prediction(LABELS), CLASSES)
    empty = Prediction(np.zeros((2, 2), dtype=np.uint8))
    with pytest.raises(UsageError, match="no foreground"):
        named_region("pred", empty, CLASSES)
    with pytest.raises(UsageError, match=r"no pixel of class 'cyst'.*background"):
        named_region("cyst", empty, CLASSES)


def test_regions_that_cannot_be_scored_are_refused():
    with pytest.raises(UsageError, match="at least one pixel"):
        Region(1, np.zeros((2, 2), dtype=bool))
    with pytest.raises(UsageError, match="truth values"):
        Region(1, np.ones((2, 2)))
    with pytest.raises(UsageError, match="does not fit the logits"):
        Region(1, np.ones((2, 2), dtype=bool)).score(torch.zeros(1, 2, 3, 3))
    with pytest.raises(UsageError, match="does not fit the logits"):
        Region(2, np.ones((2, 2), dtype=bool)).score(torch.zeros(1, 2, 2, 2))
