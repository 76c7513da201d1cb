import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.soft_targets import SoftOverlap
from xaiseg.explainers.targets import SpatialTarget

KINDS = ("soft_dice", "tp", "fp", "fn")


def by_hand(kind, chances, mask, valid):
    """Pixel by pixel from the definition."""
    inter = total = size = outside = missed = 0.0
    for p, r, v in zip(chances.ravel(), mask.ravel(), valid.ravel(), strict=True):
        if not v:
            continue
        inter += p * r
        total += p
        size += r
        outside += p * (not r)
        missed += (1 - p) * r
    return {"soft_dice": 2 * inter / (total + size), "tp": inter / size, "fp": outside, "fn": missed}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partly", [False, True])
def test_overlaps_are_those_of_their_definitions(kind, partly):
    rng = np.random.default_rng(3)
    logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = rng.random((4, 6)) > 0.5
    valid = rng.random((4, 6)) > 0.3 if partly else np.ones((4, 6), dtype=bool)
    chances = torch.softmax(logits.double(), dim=1)[:, 2].numpy()
    target = SoftOverlap(kind, 2, mask, valid=valid if partly else None)
    expected = [by_hand(kind, each, mask, valid) for each in chances]
    assert target.score(logits).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_mask_has_dice_and_recall_one_and_no_errors():
    mask = np.array([[True, False], [False, True]])
    z = torch.where(torch.from_numpy(mask), 40.0, -40.0)[None, None]
    logits = torch.cat((torch.zeros_like(z), z), dim=1)
    assert [SoftOverlap(kind, 1, mask).score(logits).item() for kind in KINDS] == pytest.approx([1, 1, 0, 0], abs=1e-6)


def test_an_empty_reference_has_false_positives_only():
    empty = np.zeros((2, 2), dtype=bool)
    assert SoftOverlap("fp", 1, empty).score(torch.zeros(1, 2, 2, 2)).item() == pytest.approx(2.0)
    for kind in ("soft_dice", "tp", "fn"):
        with pytest.raises(UsageError, match="at least one pixel"):
            SoftOverlap(kind, 1, empty)


def test_they_are_differentiable_and_say_what_they_are():
    mask = np.array([[True, False]])
    for kind, unit in zip(KINDS, ("Dice", "probability", "pixel", "pixel"), strict=True):
        target = SoftOverlap(kind, 1, mask, label="cyst")
        logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
        target.score(logits).sum().backward()
        assert logits.grad.any()
        assert isinstance(target, SpatialTarget)
        assert (target.unit, target.name) == (unit, f"{kind} of cyst")
        assert "cyst" in target.meaning


def test_what_does_not_fit_is_refused():
    mask = np.array([[True, False]])
    with pytest.raises(UsageError, match="no such overlap"):
        SoftOverlap("dice", 1, mask)
    with pytest.raises(UsageError, match="no pixel of the mask counts"):
        SoftOverlap("tp", 1, mask, valid=np.zeros((1, 2), dtype=bool))
    with pytest.raises(UsageError, match="does not fit the logits"):
        SoftOverlap("tp", 2, mask).score(torch.zeros(1, 2, 1, 2))
