"""Which sums may be pruned and skipped, chosen on calibration images.

The sweep is that of arXiv:2610.11748: every pair of weights, the one that saves most cycles while the score stays near.
The paper sweeps on the images that it reports, which flatters; here they are refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.stopping_network import run_stopping
from xaiseg.hardware.termination import Commit, Policy

#: Weights that the paper tries: 2^6 to 2^11, and none.
PUBLISHED_WEIGHTS: Final = (None, 6, 7, 8, 9, 10, 11)


@dataclass(frozen=True)
class Trial:
    """One policy on the calibration images.

    Attributes:
        policy: what was tried.
        saved: share of the units' cycles that it saves, 0 to 1; of their energy, not of the time in lockstep.
        score: mean over the images.
    """

    policy: Policy
    saved: float
    score: float


@dataclass(frozen=True)
class Choice:
    """The policy that saves most within the loss that is allowed.

    Attributes:
        chosen: one of the trials.
        exact: the trial of the rules that change nothing; the loss is counted from its score.
        trials: all of them, in the order in which they were tried.
        split: where the images came from.
        images: how many.
    """

    chosen: Trial
    exact: Trial
    trials: tuple[Trial, ...]
    split: str
    images: int


def choose_thresholds(
    deployed: Deployed,
    batches: Sequence[tuple[tuple[Tensor, ...], Tensor]],
    *,
    split: str,
    score: Callable[[Tensor, Tensor], float],
    allowed_loss: float,
    weights: Sequence[int | None] = PUBLISHED_WEIGHTS,
    commit: Commit = "prefix",
) -> Choice:
    """Tries every pair of weights for prune and skip on the same images.

    A pair whose prune is not above its skip is skip alone and is not tried twice.

    Args:
        deployed: the network on units.
        batches: arguments of the network and what its answer is scored against, for each batch.
        split: the name of the images' split; "test" is refused, since the weights are fitted on them.
        score: of an answer against its reference; larger is better. With the rule ``head`` an answer is its sign.
        allowed_loss: by how much the mean score may fall below that of the exact rules, 0 or more.
        weights: candidates for both; None = off.
        commit: see ``Policy``.

    Raises:
        UsageError: the test split, no images, a negative loss, a score that is not finite.
    """
    if split.strip().lower() == "test":
        raise UsageError(
            "thresholds must not be fitted on the images that are audited",
            where="split",
            got=split,
            allowed="train, validation or calibration",
        )
    if not batches:
        raise UsageError("there are no images to fit thresholds on", where="batches", got=0, allowed="1 or more")
    if not allowed_loss >= 0:
        raise UsageError("no such loss", where="allowed_loss", got=allowed_loss, allowed="0 or more")
    exact = _tried(deployed, batches, Policy(commit=commit), score)
    trials = [exact]
    for prune, skip in itertools.product(weights, weights):
        policy = Policy(prune=prune, skip=skip, commit=commit)
        if not policy.changes_nothing and (prune is None or not policy.prune_is_idle):
            trials.append(_tried(deployed, batches, policy, score))
    near = [trial for trial in trials if trial.score >= exact.score - allowed_loss]
    chosen = max(near, key=lambda trial: trial.saved)  # the first of equals, so the exact one where none saves more
    return Choice(chosen, exact, tuple(trials), split, sum(len(reference) for _, reference in batches))


def _tried(
    deployed: Deployed,
    batches: Sequence[tuple[tuple[Tensor, ...], Tensor]],
    policy: Policy,
    score: Callable[[Tensor, Tensor], float],
) -> Trial:
    cycles = full = images = 0
    scores = 0.0
    for arguments, reference in batches:
        answer, rows = run_stopping(deployed, arguments, policy)
        found = score(answer, reference)
        if not math.isfinite(found):
            raise UsageError("the score is not finite", where="score", got=found, allowed="a number for every batch")
        scores, images = scores + found * len(reference), images + len(reference)
        cycles, full = cycles + sum(row.cycles for row in rows), full + sum(row.cycles_full for row in rows)
    return Trial(policy, 1 - cycles / full, scores / images)
