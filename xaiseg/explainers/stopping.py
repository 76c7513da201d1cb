"""When a sampled map has settled: its two halves agree, or its error bars are short. Each target stops for itself.

Two maps agree when their order agrees (Spearman). Where only a few cells matter the order is that of the others, whose
values are zero and whose estimates are noise, so that the agreement stays low however well the map is known. Hence the
second rule looks at values. Let the map have n points with estimates v_i and standard errors s_i, and let w be the
share ``precision`` of its range r = max v - min v. With z the normal quantile at 1 - 0.05 / (2 n), the true values lie
within z s_i of the estimates at all points at once with a chance of 95 % or more (C. E. Bonferroni). So the map has
settled when z max s_i < w r: then no point is off by more than the share w of the range, and more masks could only sort
points that lie closer together than 2 w r. The widest error counts, not a typical one: for a local target the typical
one is that of the cells that do nothing. For pure noise v_i ~ N(0, s^2) and r is about 2 sqrt(2 ln n) s, less than
2 z s, so z s / r stays above 1 / 2 and the rule does not stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import norm

from xaiseg.errors import UsageError
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.targets import Target

#: Chance that some point of a map lies outside of its interval.
MISSED: Final = 0.05
#: Half widths of the intervals that end the drawing of masks, as a share of the map's range, where none is asked for.
PRECISE: Final = 0.05
#: A map whose range is below this share of the largest score is rounding of single precision, and never precise.
ROUNDING: Final = 64 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class CellMap:
    """Maps of T targets before they are painted.

    Attributes:
        values: (k, d, T) float64; their painted sum is the map.
        variances: (k, d, T) float64; their painted sum bounds the squared standard error of each pixel from above: a
            pixel is a weighted mean of its cells, and the square of a mean is at most the mean of the squares.
        groups: (k,) positions of the grid.
    """

    values: np.ndarray
    variances: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Stop:
    """When to stop drawing masks.

    Attributes:
        masks: never more than this.
        first: masks before the first look; their number doubles from look to look.
        agreement: stop once maps of the first and of the second half of the masks agree this well (Spearman); above 1
            means never.
        precision: stop once every point of the map is known to this share of the map's range, with 95 % confidence for
            all points at once; 0 means never. None: :data:`PRECISE`, or never where ``agreement`` is above 1.
    """

    masks: int
    first: int = 256
    agreement: float = 0.95
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.masks < 8 or self.first < 8:
            got = min(self.masks, self.first)
            raise UsageError("too few masks", where="masks", got=got, allowed="8 or more")

    @property
    def width(self) -> float:
        """The precision as it is used."""
        if self.precision is None:
            return PRECISE if self.agreement <= 1 else 0.0
        return self.precision

    def looks(self) -> Iterator[int]:
        """Numbers of masks at which the map is looked at.

        >>> list(Stop(1000, 256).looks())
        [256, 512, 1000]
        """
        count = self.first
        while count < self.masks:
            yield count
            count *= 2
        yield self.masks


@dataclass(frozen=True)
class Settled:
    """The map of one target, as it was when it stopped.

    Attributes:
        values: (H, W) float64.
        stderr: (H, W) float64.
        masks: how many masks it rests on.
        agreement: Spearman between the maps of the two halves of them; None where one of them is flat.
        width: the widest half width of simultaneous 95 % intervals, as a share of the map's range; infinite where the
            map is flat.
        early: whether it stopped before the last mask.
    """

    values: np.ndarray
    stderr: np.ndarray
    masks: int
    agreement: float | None
    width: float
    early: bool


def settle(
    bank: MaskBank, targets: Sequence[Target], estimate: Callable[[Responses], CellMap], stop: Stop
) -> list[Settled]:
    """Draws masks until the map of each target has settled.

    A target that has settled keeps its map; the others go on. Forwards are saved once all have stopped.

    Args:
        bank: the masks.
        targets: T targets.
        estimate: responses with T' scores -> maps of T' targets.
        stop: when it is enough.
    """
    found: dict[int, Settled] = {}
    for count in stop.looks():
        going = [index for index in range(len(targets)) if index not in found]
        if not going:
            break
        responses = bank.responses([targets[index] for index in going], count)
        cells = estimate(responses)
        agreements, widths = _halves(bank, responses, estimate), half_widths(bank, cells, responses.scores)
        enough = (widths < stop.width) | np.array([(each or 0.0) >= stop.agreement for each in agreements])
        last = count == stop.masks
        done = [place for place in range(len(going)) if last or enough[place]]
        for place in done:
            one = CellMap(cells.values[:, :, [place]], cells.variances[:, :, [place]], cells.groups)
            values, stderr = painted(bank, one)
            found[going[place]] = Settled(
                values[0], stderr[0], count, agreements[place], float(widths[place]), not last
            )
    return [found[index] for index in range(len(targets))]


def painted(bank: MaskBank, cells: CellMap) -> tuple[np.ndarray, np.ndarray]:
    """Maps (T, H, W) and their standard errors."""
    variances = bank.cells.paint(cells.variances, cells.groups)
    return bank.cells.paint(cells.values, cells.groups), np.sqrt(variances.clip(min=0))


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation of two vectors; None where one is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([2.0, 3.0, 4.0]))
    1.0
    """
    from scipy.stats import rankdata

    a, b = (rankdata(each) - (each.size + 1) / 2 for each in (first, second))
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else None


def sampled_notes(targets: Sequence[Target], settled: Sequence[Settled], stop: Stop) -> list[str]:
    """One sentence a target: how many masks, how well the map is known, and a word where that is too little."""
    notes = []
    for target, each in zip(targets, settled, strict=True):
        number = f"stopped after {each.masks:,} of {stop.masks:,} masks" if each.early else f"{each.masks:,} masks"
        order = "undefined, one is flat" if each.agreement is None else f"Spearman {each.agreement:.2f}"
        agreed, precise = (each.agreement or 0.0) >= stop.agreement, each.width < stop.width
        short = f", below {stop.agreement:g}" if not agreed and not precise else ""
        if precise and not agreed:
            short = " (low where most points hardly differ)"
        known = f"; every point lies within {each.width:.1%} of the map's range" if np.isfinite(each.width) else ""
        notes.append(f"{target.name}: {number}; agreement of their halves: {order}{short}{known}")
    return notes


def half_widths(bank: MaskBank, cells: CellMap, scores: np.ndarray) -> np.ndarray:
    """(T,) the widest half width of intervals that hold at all points of a map at once, as a share of its range.

    Args:
        bank: whose cells they are.
        cells: T maps.
        scores: (N, T), what the maps rest on; a map whose range is rounding of these is flat, and its width infinite.
    """
    values = bank.cells.coarse(cells.values, cells.groups)
    errors = np.sqrt(bank.cells.coarse(cells.variances, cells.groups).clip(min=0))
    spans = np.ptp(values, axis=1)
    flat = spans <= ROUNDING * np.abs(scores).max(axis=0)
    widest = norm.isf(MISSED / (2 * values.shape[1])) * errors.max(axis=1)
    return np.asarray(np.where(flat, np.inf, widest / np.where(flat, 1.0, spans)))


def _halves(bank: MaskBank, responses: Responses, estimate: Callable[[Responses], CellMap]) -> list[float | None]:
    # The first and the second half, not every other mask: each half of a Sobol sequence is a good one itself.
    half = len(responses) // 2
    maps = [estimate(responses.part(part)) for part in (slice(0, half), slice(half, 2 * half))]
    first, second = (bank.cells.coarse(each.values, each.groups) for each in maps)
    return [spearman(a, b) for a, b in zip(first, second, strict=True)]
