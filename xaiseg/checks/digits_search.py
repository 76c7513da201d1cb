"""The search of ``equivalence.digits``: which digits a build can leave out, judged on its calibration images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from xaiseg.checks import masks
from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.fewer_digits import Search, search, shortened

if TYPE_CHECKING:
    from xaiseg.data.case import Case, CaseRef
    from xaiseg.subject import Segmenter
    from xaiseg.variants import IntegerBuild

#: Networks on images in one pass.
BATCH: Final = 8
Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Level:
    """How a network does on the calibration images, beside the float network.

    Attributes:
        agreement: mean Dice of the two predictions; None where both leave every image empty.
        flips: mean share of the pixels that change sides.
        explanation: mean rank correlation of the two occlusion maps; None where none was drawn.
    """

    agreement: float | None
    flips: float
    explanation: float | None = None


@dataclass(frozen=True)
class Planned:
    """What is recommended for one build, and what it is founded on.

    Attributes:
        fewer: digits left out, by module path.
        found: the search.
        images: ids of the calibration images.
        full: with all digits.
        recommended: with the recommended ones.
        stepped_back: accepted states that the budget of the explanation took back.
    """

    fewer: dict[str, int]
    found: Search
    images: tuple[str, ...]
    full: Level
    recommended: Level
    stepped_back: int


def calibration_refs(build: IntegerBuild, refs: Sequence[CaseRef], count: int) -> list[CaseRef]:
    """Calibration images of a build, evenly spaced, ``count`` at most.

    Args:
        build: says which images gave its ranges.
        refs: the cases of that data entry.
        count: how many.

    Raises:
        UsageError: the audited images gave the ranges, or they are not among ``refs``.
    """
    entry, ids = build.calibrated_on
    if entry.strip().lower() == "test":
        raise UsageError(
            "digits must not be chosen on the images that are audited",
            where="calibration",
            got=entry,
            allowed="train, validation or calibration",
        )
    known = {ref.id: ref for ref in refs}
    held = [known[name] for name in ids if name in known]
    if not held:
        then = "Name the entry under `calibration:` of the variant"
        raise UsageError("the calibration images are not there", where=f"data.{entry}", got=len(refs), then=then)
    places = np.linspace(0, len(held) - 1, min(count, len(held))).round().astype(int)
    return [held[place] for place in places]


def planned(build: IntegerBuild, subject: Segmenter, cases: Sequence[Case], params: Any) -> Planned:
    """Searches the digits of every layer on calibration images.

    Args:
        build: on digit-serial units.
        subject: decides like the audited model.
        cases: calibration images.
        params: of ``equivalence.digits``.
    """
    assert build.deployed is not None
    bench = Bench.of(build, subject, cases)
    full = shortened(build.deployed, {})
    answers = bench.answers(full)

    def holds(candidate: Deployed) -> bool:
        return _within(bench.level(candidate), params)

    def damage(candidate: Deployed) -> float:
        pairs = zip(bench.answers(candidate), answers, strict=True)
        return float(np.mean([float((a.double() - b.double()).square().mean()) for a, b in pairs]))

    found = search(full, holds, damage, most=params.most, blocks=params.blocks, trials=params.trials)
    states = [dict[str, int](), *found.states]
    maps = Maps.of(bench, params)

    @cache
    def similarity(place: int) -> float | None:
        return maps.similarity(shortened(full, states[place]))

    place = _last_alike(len(states), similarity, params.explanation_loss)
    return Planned(
        states[place],
        found,
        tuple(case.id for case in cases),
        replace(bench.level(full), explanation=similarity(0)),
        replace(bench.level(shortened(full, states[place])), explanation=similarity(place)),
        len(states) - 1 - place,
    )


def _last_alike(count: int, similarity: Callable[[int], float | None], loss: float) -> int:
    """The last state whose maps are still much like the float network's, found by halving.

    States leave out more and more, so what comes after one that changes the maps is not looked at; the one that is
    taken was asked itself.
    """
    least = similarity(0)

    def within(place: int) -> bool:
        found = similarity(place)
        return found is None or least is None or found >= least - loss

    low, high = 0, count - 1
    if within(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def _within(level: Level, params: Any) -> bool:
    return level.flips <= params.flips and (level.agreement is None or level.agreement >= params.agreement)


@dataclass(frozen=True)
class Bench:
    """Calibration images, ready to be asked about.

    Attributes:
        subject: decides.
        network: the float network.
        sizes: (H, W) of the images of each batch.
        images: (B, C, H, W) of each batch.
        arguments: of the network, for each batch.
        arguments_of: the same of images.
        labels: what the float network decides, one (H, W) an image.
    """

    subject: Segmenter
    network: Call
    sizes: tuple[tuple[int, int], ...]
    images: tuple[Tensor, ...]
    arguments: tuple[tuple[Tensor, ...], ...]
    arguments_of: Callable[[Tensor], tuple[Tensor, ...]]
    labels: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, build: IntegerBuild, subject: Segmenter, cases: Sequence[Case]) -> Bench:
        """Images of one size share a batch."""
        groups: dict[tuple[int, int], list[Tensor]] = {}
        for case in cases:
            groups.setdefault(case.shape, []).append(torch.as_tensor(case.image))
        batches = [
            (size, torch.stack(held[start : start + BATCH]))
            for size, held in groups.items()
            for start in range(0, len(held), BATCH)
        ]

        def arguments_of(images: Tensor) -> tuple[Tensor, ...]:
            with torch.inference_mode():
                return build.arguments(build.to_grid(images))

        sizes, images = tuple(size for size, _ in batches), tuple(batch for _, batch in batches)
        arguments = tuple(arguments_of(batch) for batch in images)
        bare = cls(subject, build.network, sizes, images, arguments, arguments_of, ())
        return replace(bare, labels=tuple(bare.decided(build.network)))

    def answers(self, network: Call) -> list[Tensor]:
        """What a network answers to each batch, on its own grid."""
        with torch.inference_mode():
            return [network(*given) for given in self.arguments]

    def decided(self, network: Call) -> list[np.ndarray]:
        """(H, W) labels of every image."""
        return [
            self.subject.decide(logits).labels
            for answer, size in zip(self.answers(network), self.sizes, strict=True)
            for logits in self.subject.from_network_grid(answer, size)
        ]

    def level(self, network: Call) -> Level:
        """Agreement and flips beside the float network."""
        found = self.decided(network)
        pairs = list(zip(self.labels, found, strict=True))
        alike = [value for first, second in pairs if (value := agreement(first, second)) is not None]
        flips = float(np.mean([(first != second).mean() for first, second in pairs]))
        return Level(float(np.mean(alike)) if alike else None, flips)


def agreement(first: np.ndarray, second: np.ndarray) -> float | None:
    """Dice of two predictions, averaged over the classes that either shows; None where both are empty.

    >>> agreement(np.array([[1, 0]]), np.array([[1, 1]])), agreement(np.zeros((1, 1)), np.zeros((1, 1)))
    (0.6666666666666666, None)
    """
    shown = sorted((set(np.unique(first)) | set(np.unique(second))) - {0})
    values = [masks.overlap(first == index, second == index).dice for index in shown]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Maps:
    """Occlusion maps of some calibration images, whose agreement with the float network's has a budget.

    Attributes:
        params: of the check.
        bench: the images.
        chosen: (batch, place in it, class, region) of the images that are explained.
        wanted: the float network's map of each.
    """

    params: Any
    bench: Bench
    chosen: tuple[tuple[int, int, int, np.ndarray], ...]
    wanted: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, bench: Bench, params: Any) -> Maps:
        """Explains the first images in which the float network outlines anything."""
        found: list[tuple[int, int, int, np.ndarray]] = []
        labels = iter(bench.labels)
        for batch, images in enumerate(bench.images):
            for place in range(len(images)):
                own = next(labels)
                if own.any() and len(found) < params.explained:
                    index = int(np.bincount(own[own > 0]).argmax())
                    found.append((batch, place, index, own == index))
        bare = cls(params, bench, tuple(found), ())
        return replace(bare, wanted=tuple(bare.maps(bench.network)))

    def maps(self, network: Call) -> list[np.ndarray]:
        """The fall of the mean logit of the region, cell by cell hidden behind the image's mean."""
        return [self._map(network, *where) for where in self.chosen]

    def _map(self, network: Call, batch: int, place: int, index: int, region: np.ndarray) -> np.ndarray:
        image, size, cells = self.bench.images[batch][place], self.bench.sizes[batch], self.params.cells
        rows, columns = (np.linspace(0, side, cells + 1).round().astype(int) for side in size)
        hidden = [image]
        for row in range(cells):
            for column in range(cells):
                copy = image.clone()
                part = (slice(None), slice(rows[row], rows[row + 1]), slice(columns[column], columns[column + 1]))
                copy[part] = image.mean(dim=(1, 2))[:, None, None]
                hidden.append(copy)
        inside = torch.as_tensor(region)
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(hidden), BATCH):
                given = self.bench.arguments_of(torch.stack(hidden[start : start + BATCH]))
                logits = self.bench.subject.from_network_grid(network(*given), size)[:, index]
                scores += logits[:, inside.to(logits.device)].double().mean(1).tolist()
        return scores[0] - np.array(scores[1:])

    def similarity(self, network: Call) -> float | None:
        """Mean rank correlation with the float network's maps; a constant map agrees with none. None without any."""
        if not self.chosen:
            return None
        pairs = list(zip(self.maps(network), self.wanted, strict=True))
        constant = [np.ptp(first) == 0 or np.ptp(second) == 0 for first, second in pairs]
        values = [
            0.0 if flat else float(spearmanr(first, second).statistic)
            for flat, (first, second) in zip(constant, pairs, strict=True)
        ]
        return float(np.mean(values))
