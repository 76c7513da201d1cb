"""Context as tables and numbers, not maps: what each class owes to each other class and channel, and how far it looks.

The class-to-class matrix follows the segmentation tutorial of captum; the radius is step (a) of MiSuRe
(arXiv:2406.12173).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.replacement import Replacement
from xaiseg.explainers.targets import NO_FOREGROUND, Region, Target

#: The prediction must keep this Dice for the context to count as enough.
ENOUGH: Final = 0.95


@dataclass(frozen=True)
class ContextTable:
    """How far the score of each target falls when something is taken away.

    Attributes:
        removed: names of what was replaced: regions or channels.
        targets: names of the targets.
        falls: (removed, targets) float64: S(image) - S(image without it), in the targets' unit.
        shares: (removed,) the share of the image's values that was replaced.
    """

    removed: tuple[str, ...]
    targets: tuple[str, ...]
    falls: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class ContextRadius:
    """How much surrounding a prediction needs.

    Attributes:
        radius_px: the smallest examined radius from which on every larger one keeps the Dice; 0 = the region alone.
        radii_px: (n,) examined radii, rising.
        dice: (n,) Dice of the prediction from that much context with the prediction from the whole image.
        shares: (n,) share of the image that was shown.
    """

    radius_px: int
    radii_px: np.ndarray
    dice: np.ndarray
    shares: np.ndarray


def class_context(
    session: Session, targets: Sequence[Target] | None = None, *, baseline: Replacement = "mean"
) -> ContextTable:
    """The class-to-class matrix: entry (k, c) is how far class c falls in its own region when region k is replaced.

    Args:
        session: the image and the model.
        targets: None = each predicted class on its region, the background too.
        baseline: what a replaced region shows.

    One forward a predicted class.
    """
    labels = session.prediction.labels
    classes = session.subject.info.classes
    regions = {classes[k]: labels == k for k in np.unique(labels)}
    chosen = targets or [Region(k, labels == k, label=classes[k]) for k in map(int, np.unique(labels))]
    return region_context(session, chosen, regions, baseline=baseline)


def region_context(
    session: Session, targets: Sequence[Target], regions: Mapping[str, np.ndarray], *, baseline: Replacement = "mean"
) -> ContextTable:
    """The same for any regions (H, W) of truth values: organs, quadrants, a marker.

    Raises:
        UsageError: a region is empty or has another size than the image.
    """
    size = tuple(session.image.shape[1:])
    for name, region in regions.items():
        if region.shape != size or region.dtype != np.bool_ or not region.any():
            got = f"{region.shape} {region.dtype}, {int(np.count_nonzero(region))} pixels"
            allowed = f"{size} bool with a pixel"
            raise UsageError("the region cannot be replaced", where=f"region {name}", got=got, allowed=allowed)
    fill, image = session.baseline(baseline), session.image
    changed = (torch.where(torch.from_numpy(region).to(image.device), fill, image) for region in regions.values())
    falls = _whole(session, targets) - session.scores(changed, targets)
    shares = np.array([region.mean() for region in regions.values()])
    return ContextTable(tuple(regions), tuple(target.name for target in targets), falls, shares)


def channel_context(
    session: Session, targets: Sequence[Target], *, names: Sequence[str] = (), baseline: Replacement = "mean"
) -> ContextTable:
    """What each input channel or modality is worth: entry (j, c) is how far c falls when channel j is replaced.

    Args:
        session: the image and the model.
        targets: the targets.
        names: of the channels; empty = "channel 0", ...
        baseline: what a replaced channel shows.

    Raises:
        UsageError: the names do not fit the channels.
    """
    image, fill = session.image, session.baseline(baseline)
    channels = len(image)
    called = tuple(names) or tuple(f"channel {index}" for index in range(channels))
    if len(called) != channels:
        raise UsageError("the names do not fit the channels", where="names", got=len(called), allowed=channels)
    alone = torch.eye(channels, dtype=torch.bool, device=image.device)[:, :, None, None]
    falls = _whole(session, targets) - session.scores((torch.where(one, fill, image) for one in alone), targets)
    return ContextTable(called, tuple(t.name for t in targets), falls, np.full(channels, 1 / channels))


def context_radius(
    session: Session, class_index: int | None = None, *, enough: float = ENOUGH, baseline: Replacement = "mean"
) -> ContextRadius:
    """Shows the predicted region and more and more of its surroundings until the prediction is back.

    Radii grow by about a half from step to step until everything is shown; the gap below the answer is then halved down
    to one pixel. Dice need not rise steadily with the radius, so the answer is a radius from which on all larger
    examined ones are enough.

    Args:
        session: the image and the model.
        class_index: the class; None = all foreground together.
        enough: the Dice to reach.
        baseline: what the rest of the image shows.

    Raises:
        UsageError: the prediction does not hold the class, or ``enough`` is no Dice.
    """
    from scipy.ndimage import distance_transform_edt

    if not 0 < enough <= 1:
        raise UsageError("no such Dice", where="enough", got=enough, allowed="above 0, at most 1")
    labels = session.prediction.labels
    mask = labels > 0 if class_index is None else labels == class_index
    if not mask.any():
        what = NO_FOREGROUND if class_index is None else "the prediction does not hold the class"
        raise UsageError(what, where="class_index", got=class_index)
    distance = distance_transform_edt(~mask)
    radii = _radii(int(np.ceil(distance.max())))
    dice = dict(zip(radii, _dices(session, class_index, mask, distance, radii, baseline), strict=True))
    while True:
        answer = _answer(dice, enough)
        below = max((radius for radius in dice if radius < answer), default=answer)
        if answer - below <= 1:
            break
        middle = (answer + below) // 2
        dice[middle] = _dices(session, class_index, mask, distance, [middle], baseline)[0]
    ordered = np.array(sorted(dice))
    shares = np.array([(distance <= radius).mean() for radius in ordered])
    return ContextRadius(answer, ordered, np.array([dice[int(radius)] for radius in ordered]), shares)


def _answer(dice: Mapping[int, float], enough: float) -> int:
    """The smallest radius from which on all are enough; the largest shows everything and always is."""
    # The largest is asked in another batch than the prediction, so that a pixel on the threshold may differ.
    lacking = [radius for radius, value in dice.items() if value < enough and radius < max(dice)]
    return min(radius for radius in dice if radius > max(lacking, default=-1))


def _radii(largest: int) -> list[int]:
    """0, 1, 2, 3, 4, 6, 9, 13 ... and the largest."""
    found = [0]
    while found[-1] < largest:
        found.append(min(largest, max(found[-1] + 1, found[-1] * 3 // 2)))
    return found


def _dices(
    session: Session,
    class_index: int | None,
    mask: np.ndarray,
    distance: np.ndarray,
    radii: Sequence[int],
    baseline: Replacement,
) -> list[float]:
    image, fill = session.image, session.baseline(baseline)
    shown = (torch.from_numpy(distance <= radius).to(image.device) for radius in radii)
    found = []
    for prediction in session.predictions(torch.where(each, image, fill) for each in shown):
        seen = prediction.labels > 0 if class_index is None else prediction.labels == class_index
        found.append(float(2 * (seen & mask).sum() / (seen.sum() + mask.sum())))
    return found


def _whole(session: Session, targets: Sequence[Target]) -> np.ndarray:
    return np.array([session.score(target) for target in targets])
