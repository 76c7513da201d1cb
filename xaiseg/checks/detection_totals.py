"""Totals in animals from tiles that were drawn with known probabilities and screened by a person.

Only the draw is random: the unit is the draw and not the flight, because the flights are what was to be counted and not
a sample of other flights. See :mod:`xaiseg.statistics.design_counts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.checks.base import Quantity, Tables
from xaiseg.checks.detection_rows import Found
from xaiseg.checks.quantities import fact
from xaiseg.statistics.design_counts import Shares, standard_error, with_replacement, without_replacement

UNCORRECTED: Final = "neither availability nor missed animals are corrected"
#: What tiles that were drawn by a detector's counts do to everything that is not weighted by their probabilities.
UNEVEN: Final = "some tiles were likelier to be drawn than others, so that other figures describe these tiles alone"


@dataclass(frozen=True)
class Sample:
    """How the tiles were drawn.

    Attributes:
        chances: (n,) float64, probability of one draw with replacement, of being drawn at all without.
        times: (n,) int64, how often each tile was drawn.
        replaced: whether a tile could be drawn again.
    """

    chances: np.ndarray
    times: np.ndarray
    replaced: bool

    def shares(self, counts: np.ndarray) -> Shares:
        """What each draw adds to the total of the counts (n,)."""
        if self.replaced:
            return with_replacement(counts, self.chances, self.times)
        return without_replacement(counts, self.chances)

    @property
    def estimator(self) -> str:
        """Its name, with the number of draws."""
        name = "Hansen-Hurwitz" if self.replaced else "Horvitz-Thompson"
        return f"{name} total over {int(self.times.sum())} draws"

    @property
    def caveats(self) -> str:
        """What the total does not say, and what tiles drawn unevenly do to the other figures."""
        return UNCORRECTED if len(set(self.chances.tolist())) == 1 else f"{UNCORRECTED}; {UNEVEN}"


def drawn_sample(survey: dict[str, np.ndarray], answered: int, images: int) -> Sample | str:
    """The sample that the survey columns declare, or why there is none.

    Args:
        survey: column -> (images,) text, "" where the sidecar says nothing.
        answered: number of images that gave an answer; they stand first.
        images: number of images.
    """
    nothing = np.full(images, "", dtype=object)
    drawn, draws, once = (survey.get(name, nothing) for name in ("drawn", "draws", "draw_probability"))
    if (drawn == "").any() or (draws == "").any():
        return "the sidecar does not say of every tile how often it was drawn and in how many draws (drawn, draws)"
    planned = sorted({int(text) for text in draws})
    if len(planned) > 1:
        return f"the sidecar names several numbers of draws: {', '.join(map(str, planned))}"
    times = np.array([int(text) for text in drawn[:answered]], dtype=np.int64)
    if times.sum() != planned[0]:
        return (
            f"{times.sum()} of {planned[0]} draws have a count: a total needs every tile that was drawn, annotated and "
            "readable, and no other one"
        )
    if (once == "").all():
        if (times > 1).any():
            return "a tile that was drawn more than once needs draw_probability, the probability of one draw"
        return Sample(survey["probability"][:answered].astype(np.float64), times, replaced=False)
    if (once == "").any():
        return "the sidecar gives draw_probability for some tiles and not for all"
    return Sample(once[:answered].astype(np.float64), times, replaced=True)


def totals(held: Found, target: str, sample: Sample, tables: Tables) -> Iterator[Quantity]:
    """Totals by annotators and by detector, the coefficient of variation, and totals of each declared stratum."""
    counted = "of the animals counted by the annotators"
    yield _total("animals_total", held, target, sample, held.reference, counted)
    detected = "of the animals detected"
    yield _total("animals_total_detected", held, target, sample, held.detected, detected)
    shares = sample.shares(held.reference)
    value = float(shares.added.sum())
    note = "standard error of animals_total over its value"
    cv = standard_error(shares) / value if value > 0 else math.nan
    yield fact("animals_total_cv", cv, of="draw", target=target, note=note)
    rows = tables.cases.set_index("case").loc[list(held.cases[: held.answered])]
    for factor in tables.facts.get("strata", ()):
        levels = rows[factor].to_numpy(dtype=object)
        for level in sorted(set(levels) - {""}):  # what is not known is no group
            inside = np.where(levels == level, held.reference, 0.0)
            yield _total("animals_total", held, target, sample, inside, counted, factor=factor, level=level)


def _total(
    metric: str,
    held: Found,
    target: str,
    sample: Sample,
    counts: np.ndarray,
    what: str,
    *,
    factor: str = "",
    level: str = "",
) -> Quantity:
    shares = sample.shares(counts)
    return Quantity(
        metric, "total", np.repeat(held.cases[: held.answered], sample.times),
        np.stack([shares.added, shares.left], axis=1), of="draw", target=target, factor=factor, level=level,
        weigh="case", bounds=(float(counts.sum()), math.inf), note=f"{sample.estimator} {what}; {sample.caveats}",
    )  # fmt: skip
