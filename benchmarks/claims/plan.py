"""Which trainings the comparison consists of, fixed before the first one; a run is known by what it is, so any can be
done again.

Arms are architectures or variants. The learning rate of each architecture is the best of the same three trials on the
validation patients of fold 0 with seed 0; the best trial is itself the run of that fold and seed. Ablations that keep
RadiomicNet's network take its rate, except `no_rag`, which is a primary contrast and gets trials of its own.
`plain_loss`, RadiomicNet's network with the peers' loss, was added after the first 18 runs: precision and recall had
shown how much of the difference to U-Net comes with the weighted loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from torch import nn

from xaiseg import zoo
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.radiomicnet import RadiomicNet
from xaiseg.zoo.radiomicnet_loss import OBJECTIVE, PLAIN, WITHOUT_CONSISTENCY
from xaiseg.zoo.recipe import Objective, Recipe

FOLDS: Final = 3
SEEDS: Final = (0, 1, 2)
RATES: Final = (1e-3, 3e-3, 9e-3)

#: One recipe for all arms: images fill a grid of 128 px, each arm sees the same number of images.
RECIPE: Final = Recipe(
    size=128, resize="stretch", epochs=20, images_per_epoch=208, batch=8, weight_decay=1e-4, clip=1.0, averaging=0.98
)
#: Optimiser and schedule as the paper states them, with its early stopping, at the same number of images.
PAPER: Final = replace(
    RECIPE, lr=1e-4, encoder_lr=1e-5, warmup_epochs=5, patience=20, averaging=0.0,
    augmentation=Augmentation(rotate_degrees=15, scale=0.1, shift=0, gain=0.2, gamma=0, blur_px=0, noise_sd=0),
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One side of a contrast.

    Attributes:
        build: channels -> network with one logit.
        objective: its losses.
        rate_of: the arm whose trials choose its learning rate; None = the recipe of the paper.
        initialise: start the encoder from the published int8 weights.
    """

    build: partial[nn.Module]
    objective: Objective
    rate_of: str | None
    initialise: bool = False


def _peer(name: str) -> Arm:
    return Arm(partial(_zoo, name), Objective(), rate_of=name)


def _zoo(name: str, channels: int) -> nn.Module:
    return zoo.build(name, channels, 1)


def _radiomicnet(channels: int, gates: str = "full") -> nn.Module:
    return RadiomicNet(channels, 1, gates=gates)  # type: ignore[arg-type]


def _own(
    rate_of: str | None = "radiomicnet",
    *,
    gates: str = "full",
    objective: Objective = OBJECTIVE,
    initialise: bool = False,
) -> Arm:
    return Arm(partial(_radiomicnet, gates=gates), objective, rate_of, initialise)


ARMS: Final[Mapping[str, Arm]] = {
    "radiomicnet": _own(),
    "no_rag": _own("no_rag", gates="no_rag"),
    "spatial_only": _own(gates="spatial_only"),
    "channel_only": _own(gates="channel_only"),
    "no_consistency": _own(objective=WITHOUT_CONSISTENCY),
    "plain_loss": _own(objective=PLAIN),
    "paper_schedule": _own(None),
    "imagenet_int8": _own(initialise=True),
    "unet": _peer("unet"),
    "unetplusplus": _peer("unetplusplus"),
    "ukan": _peer("ukan"),
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: "ultrasound" or "polyps".
        arm: a name of :data:`ARMS`.
        fold: the fold that is held out for testing.
        seed: of first weights, order and augmentation.
        rate: peak learning rate; None = the paper's schedule.
    """

    data: str
    arm: str
    fold: int
    seed: int
    rate: float | None

    @property
    def name(self) -> str:
        """What it is, as the name of a file."""
        rate = "paper" if self.rate is None else f"{self.rate:g}"
        return f"{self.data}-{self.arm}-fold{self.fold}-seed{self.seed}-{rate}"

    @property
    def recipe(self) -> Recipe:
        """The recipe at this run's learning rate."""
        return PAPER if self.rate is None else replace(RECIPE, lr=self.rate)


def trials(arm: str) -> list[Run]:
    """The trials that choose an arm's learning rate."""
    return [Run("ultrasound", arm, 0, 0, rate) for rate in RATES]


def best_rate(arm: str, scores: Mapping[str, float]) -> float | None:
    """The rate of the best trial by validation score, or None while a trial is missing.

    >>> best_rate("unet", {run.name: run.rate for run in trials("unet")})
    0.009
    """
    if not all(run.name in scores for run in trials(arm)):
        return None
    return max(trials(arm), key=lambda run: scores[run.name]).rate


#: Everything in the order in which it is run: what the primary contrasts need comes first.
ORDER: Final = (
    ("ultrasound", ("radiomicnet", "no_rag", "unet"), range(FOLDS), SEEDS),
    ("ultrasound", ("plain_loss", "no_consistency"), range(FOLDS), (0,)),
    ("ultrasound", ("ukan", "unetplusplus"), range(FOLDS), (0,)),
    ("ultrasound", ("spatial_only", "channel_only", "imagenet_int8", "paper_schedule"), range(FOLDS), (0,)),
    ("polyps", ("radiomicnet", "unet", "ukan", "unetplusplus"), (0,), (0,)),
)


def pending(scores: Mapping[str, float]) -> Iterator[Run]:
    """The runs still to do that can be named already, in order; later ones wait for the choice of a rate.

    Args:
        scores: validation score by name of the runs that are done.
    """
    for data, arms, folds, seeds in ORDER:
        for arm in arms:
            source = ARMS[arm].rate_of
            if source is not None and best_rate(source, scores) is None:
                yield from (run for run in trials(source) if run.name not in scores)
        for seed in seeds:
            for fold in folds:
                for arm in arms:
                    source = ARMS[arm].rate_of
                    rate = None if source is None else best_rate(source, scores)
                    run = Run(data, arm, fold, seed, rate)
                    if (source is None or rate is not None) and run.name not in scores:
                        yield run


def chosen(scores: Mapping[str, float]) -> list[Run]:
    """The done runs that the contrasts read: those at the chosen rate."""
    runs = []
    for data, arms, folds, seeds in ORDER:
        for arm in arms:
            source = ARMS[arm].rate_of
            rate = None if source is None else best_rate(source, scores)
            if source is None or rate is not None:
                runs += [Run(data, arm, fold, seed, rate) for fold in folds for seed in seeds]
    return [run for run in runs if run.name in scores]


def total() -> int:
    """Number of trainings in all."""
    names = {
        (data, arm, fold, seed)
        for data, arms, folds, seeds in ORDER
        for arm in arms
        for fold in folds
        for seed in seeds
    }
    sources = {ARMS[arm].rate_of for _, arms, _, _ in ORDER for arm in arms} - {None}
    return len(names) + len(sources) * (len(RATES) - 1)
