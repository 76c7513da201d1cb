"""When a sampled map has settled: its two halves agree, or its error bars are short. Each target stops for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.targets import Target

#: Half width of a 95 % interval in standard errors.
Z95 = 1.96


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
        precision: stop once the half widths of the 95 % intervals are, at the median over cells, below this share of
            the largest effect; 0 means never.
    """

    masks: int
    first: int = 256
    agreement: float = 0.95
    precision: float = 0.0

    def __post_init__(self) -> None:
        if self.masks < 8 or self.first < 8:
            got = min(self.masks, self.first)
            raise UsageError("too few masks", where="masks", got=got, allowed="8 or more")

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
        early: whether it stopped before the last mask.
    """

    values: np.ndarray
    stderr: np.ndarray
    masks: int
    agreement: float | None
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
        agreements = _halves(bank, responses, estimate)
        enough = _precise(cells, stop.precision) | np.array([(each or 0.0) >= stop.agreement for each in agreements])
        last = count == stop.masks
        done = [place for place in range(len(going)) if last or enough[place]]
        for place in done:
            one = CellMap(cells.values[:, :, [place]], cells.variances[:, :, [place]], cells.groups)
            values, stderr = painted(bank, one)
            found[going[place]] = Settled(values[0], stderr[0], count, agreements[place], not last)
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
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else None


def sampled_notes(targets: Sequence[Target], settled: Sequence[Settled], stop: Stop) -> list[str]:
    """One sentence a target: how many masks, how well the halves agree, and a word where that is too little."""
    notes = []
    for target, each in zip(targets, settled, strict=True):
        number = f"stopped after {each.masks:,} of {stop.masks:,} masks" if each.early else f"{each.masks:,} masks"
        agreement = "undefined, one is flat" if each.agreement is None else f"Spearman {each.agreement:.2f}"
        short = "" if each.early or (each.agreement or 0.0) >= stop.agreement else f", below {stop.agreement:g}"
        notes.append(f"{target.name}: {number}; agreement of their halves: {agreement}{short}")
    return notes


def _halves(bank: MaskBank, responses: Responses, estimate: Callable[[Responses], CellMap]) -> list[float | None]:
    # The first and the second half, not every other mask: each half of a Sobol sequence is a good one itself.
    half = len(responses) // 2
    maps = [estimate(responses.part(part)) for part in (slice(0, half), slice(half, 2 * half))]
    first, second = (bank.cells.coarse(each.values, each.groups) for each in maps)
    return [spearman(a, b) for a, b in zip(first, second, strict=True)]


def _precise(cells: CellMap, precision: float) -> np.ndarray:
    """(T,) whether the intervals are short enough."""
    widths = Z95 * np.median(np.sqrt(cells.variances), axis=(0, 1))
    return np.asarray(widths < precision * np.abs(cells.values).max(axis=(0, 1)))
