import pytest
import torch

from tests.hardware.networks import phantoms, quantised_network, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.stopping_network import run_stopping
from xaiseg.hardware.termination import Policy
from xaiseg.hardware.thresholds import choose_thresholds


@pytest.fixture(scope="module")
def network():
    return deploy(quantised_network(shipped(), phantoms(2, "validation")))


@pytest.fixture(scope="module")
def batches(network):
    return [((x,), network(x) > 0) for x in phantoms(6, "validation")[3:].split(2)]


def agreement(answer, reference):
    """Dice of all pixels together."""
    found = answer > 0
    return float(2 * (found & reference).sum() / (found.sum() + reference.sum()))


def test_the_most_is_saved_within_the_loss(network, batches):
    given = {"split": "calibration", "score": agreement, "weights": (None, 11, 13)}
    found = choose_thresholds(network, batches, allowed_loss=0.03, **given)
    pairs = [(trial.policy.prune, trial.policy.skip) for trial in found.trials]
    # 11 with 11 and 11 with 13 are skip alone.
    assert pairs == [(None, None), (None, 11), (None, 13), (11, None), (13, None), (13, 11)]
    assert (found.split, found.images, found.exact.score) == ("calibration", 3, 1.0)
    for trial in (found.exact, found.chosen):
        runs = [(run_stopping(network, arguments, trial.policy), reference) for arguments, reference in batches]
        cycles = sum(row.cycles for (_, rows), _ in runs for row in rows)
        full = sum(row.cycles_full for (_, rows), _ in runs for row in rows)
        scores = [agreement(answer, reference) * len(reference) for (answer, _), reference in runs]
        assert trial.saved == pytest.approx(1 - cycles / full)
        assert trial.score == pytest.approx(sum(scores) / 3)
    near = [trial for trial in found.trials if trial.score >= 0.97]
    assert 1 < len(near) < len(found.trials)
    assert found.chosen.saved == max(trial.saved for trial in near)
    assert found.chosen.policy != Policy()


def test_no_loss_leaves_the_exact_rules_where_the_others_change_the_score(network, batches):
    given = {"split": "validation", "score": agreement, "weights": (None, 13), "commit": "floor"}
    found = choose_thresholds(network, batches[1:], allowed_loss=0, **given)
    assert found.chosen == found.exact
    assert {trial.policy.commit for trial in found.trials} == {"floor"}


def test_images_that_are_audited_are_refused(network, batches):
    given = {"score": agreement, "allowed_loss": 0.01}
    for split in ("test", " Test"):
        with pytest.raises(UsageError, match="^split: thresholds must not be fitted on the images that are audited"):
            choose_thresholds(network, batches, split=split, **given)
    with pytest.raises(UsageError, match="there are no images"):
        choose_thresholds(network, [], split="validation", **given)
    for loss in (-0.1, float("nan")):
        with pytest.raises(UsageError, match="no such loss"):
            choose_thresholds(network, batches, split="validation", score=agreement, allowed_loss=loss)
    with pytest.raises(UsageError, match="the score is not finite"):
        choose_thresholds(network, batches, split="validation", score=lambda *_: float("nan"), allowed_loss=0)


def test_the_score_sees_a_reference_of_its_batch(network, batches):
    seen = []
    choose_thresholds(
        network,
        batches,
        split="validation",
        score=lambda answer, reference: seen.append((answer.shape, reference.shape)) or 1.0,
        allowed_loss=0,
        weights=(None,),
    )
    assert seen == [(torch.Size([2, 1, 64, 64]),) * 2, (torch.Size([1, 1, 64, 64]),) * 2]
