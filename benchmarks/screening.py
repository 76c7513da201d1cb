"""How often the interval of a screened total holds the truth: coverage, error and effort against random screening.

    python -m benchmarks.screening [--repeats 2000] [--seed 1] [--draws 50 200]

A survey of 2,000 tiles is fixed; in each repetition a detector counts its tiles anew, tiles are drawn with replacement
by its counts (or a simple random sample without replacement), and a person counts the drawn ones without error. The
table prints what falls short as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.seeds import generator
from xaiseg.statistics.design_counts import (
    Shares,
    draw_probabilities,
    total_intervals,
    with_replacement,
    without_replacement,
)

TILES: Final = 2000
#: Animals that lie closer than this many places of a tile are seen as one by the detectors of an overlapping world.
PLACES: Final = 12

Draw = np.random.Generator


def _occupied(rng: Draw, share: float, more: np.ndarray) -> np.ndarray:
    return np.where(rng.random(TILES) < share, 1 + more, 0)


#: Animals on each tile. Rare: 1 % of the tiles hold one or two. Clustered: haul-outs of 16 on average, up to hundreds,
#: on 5 %. Overlapping: groups of 21 on average on 10 %, whose animals lie on one another. Common: 2 a tile.
WORLDS: Final[dict[str, Callable[[Draw], np.ndarray]]] = {
    "common": lambda rng: rng.poisson(rng.gamma(1.0, 2.0, TILES)),
    "rare": lambda rng: _occupied(rng, 0.01, rng.poisson(0.3, TILES)),
    "clustered": lambda rng: _occupied(rng, 0.05, rng.negative_binomial(0.5, 0.5 / 15.5, TILES)),
    "overlapping": lambda rng: _occupied(rng, 0.10, rng.negative_binomial(1, 1 / 21, TILES)),
}


def _good(rng: Draw, seen: np.ndarray) -> np.ndarray:
    return rng.binomial(seen, 0.9) + rng.poisson(0.03, TILES)


def _biased(rng: Draw, seen: np.ndarray) -> np.ndarray:
    return rng.binomial(seen, np.where(seen > 3, 0.25, 0.5)) + rng.poisson(0.3, TILES) * (rng.random(TILES) < 0.5)


def _useless(rng: Draw, seen: np.ndarray) -> np.ndarray:
    return np.asarray(rng.permutation(_good(rng, seen)))


#: Counts of each tile. Good: finds 90 %, three false in 100 tiles. Biased: finds half of single animals and a quarter
#: of those in groups, 15 false in 100 tiles. Useless: the good one's counts on other tiles. Random: none.
DETECTORS: Final[dict[str, Callable[[Draw, np.ndarray], np.ndarray] | None]] = {
    "good": _good,
    "biased": _biased,
    "useless": _useless,
    "random": None,
}


@dataclass(frozen=True)
class Setting:
    """One line of the table: a world, a detector (or "random") and the number of draws."""

    world: str
    detector: str
    draws: int


@dataclass(frozen=True)
class Outcome:
    """What happened over the repetitions.

    Attributes:
        truth: animals of the survey.
        screened: distinct tiles a person looks at, on average.
        bias, rmse: of the total, as shares of the truth.
        none: % of the repetitions without an interval, because too few drawn tiles held an animal.
        covers_90, covers_95: % of the intervals that hold the truth.
        low, high: % of all repetitions whose 90 % interval lies wholly below the truth, or above it (5 at most).
        width: median width of the 90 % interval over the truth.
    """

    truth: int
    screened: float
    bias: float
    rmse: float
    none: float
    covers_90: float
    covers_95: float
    low: float
    high: float
    width: float


def simulate(setting: Setting, *, repeats: int, seed: int, resamples: int = 1000) -> Outcome:
    """Screens one world many times."""
    animals = WORLDS[setting.world](generator(seed, "world", setting.world))
    rng = generator(seed, "screening", f"{setting}")
    truth = int(animals.sum())
    values, looked, bounds = [], [], []
    for repeat in range(repeats):
        shares, drawn = _screen(animals, setting, rng)
        pair = total_intervals(
            shares, alphas=(0.05, 0.025), seen=float(animals[drawn].sum()), seed=repeat, resamples=resamples
        )
        values.append(pair[0].value)
        looked.append(len(drawn))
        if pair[0].upper is not None:
            bounds.append([pair[0].lower, pair[0].upper, pair[1].lower, pair[1].upper])
    totals, ends = np.array(values, dtype=np.float64), np.array(bounds, dtype=np.float64).reshape(-1, 4)
    inside = [(ends[:, 2 * i] <= truth) & (truth <= ends[:, 2 * i + 1]) for i in range(2)]
    return Outcome(
        truth=truth,
        screened=float(np.mean(looked)),
        bias=float(totals.mean() / truth - 1),
        rmse=float(np.sqrt(np.mean((totals - truth) ** 2)) / truth),
        none=100 * (1 - len(ends) / repeats),
        covers_90=_mean(100.0 * inside[0]),
        covers_95=_mean(100.0 * inside[1]),
        low=100 * float((ends[:, 1] < truth).sum() / repeats),
        high=100 * float((ends[:, 0] > truth).sum() / repeats),
        width=float(np.median(ends[:, 1] - ends[:, 0]) / truth) if len(ends) else float("nan"),
    )


def _mean(values: np.ndarray) -> float:
    """NaN of nothing, without the warning."""
    return float(values.mean()) if len(values) else float("nan")


def _screen(animals: np.ndarray, setting: Setting, rng: Draw) -> tuple[Shares, np.ndarray]:
    """Shares of one sample, and the distinct tiles in it."""
    counts = DETECTORS[setting.detector]
    if counts is None:
        drawn = rng.choice(TILES, setting.draws, replace=False)
        return without_replacement(animals[drawn], np.full(setting.draws, setting.draws / TILES)), drawn
    seen = _merged(rng, animals) if setting.world == "overlapping" else animals
    chances = draw_probabilities(counts(rng, seen))
    times = rng.multinomial(setting.draws, chances)
    drawn = np.flatnonzero(times)
    return with_replacement(animals[drawn], chances[drawn], times[drawn]), drawn


def _merged(rng: Draw, animals: np.ndarray) -> np.ndarray:
    """Places of each tile on which at least one animal lies: what a detector sees after suppressing overlaps."""
    tile = np.repeat(np.arange(TILES), animals)
    places = np.unique(tile * PLACES + rng.integers(0, PLACES, len(tile)))
    return np.bincount(places // PLACES, minlength=TILES)


def _covers(found: Outcome) -> list[str]:
    """Coverage of the intervals, where there are enough of them to say."""
    return ["-", "-"] if found.none > 90 else [f"{found.covers_90:.1f}", f"{found.covers_95:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screening", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, nargs="+", default=[50, 200])
    given = parser.parse_args()
    print("| animals | draws | tiles drawn by | tiles looked at | bias, % | error, % | no interval, % | 90 % holds, % |"
          " 95 % holds, % | too low, % | too high, % | width, % |")  # fmt: skip
    print("| --- " * 12 + "|")
    for world in WORLDS:
        for draws in given.draws:
            for name in DETECTORS:
                found = simulate(Setting(world, name, draws), repeats=given.repeats, seed=given.seed)
                cells = [f"{world}, {found.truth:,}", draws, name if name == "random" else f"{name} detector",
                         f"{found.screened:.0f}", f"{100 * found.bias:+.1f}", f"{100 * found.rmse:.0f}",
                         f"{found.none:.0f}", *_covers(found),
                         f"{found.low:.1f}", f"{found.high:.1f}", f"{100 * found.width:.0f}"]  # fmt: skip
                print(f"| {' | '.join(map(str, cells))} |".replace("nan", "-"), flush=True)


if __name__ == "__main__":
    main()
