"""How many masks a map needs: agreement with a converged RISE map, over real images of a segmenter and of a detector.

    python -m benchmarks converged --long --data DIR --models DIR

DIR holds the data sets and models that docs/explainers/perturbation.md names. What each case gave is kept in
converged_segmenter.json and converged_detector.json; a case that stands there is not measured again. The converged map
rests on 32,768 independent masks with a seed of its own, whose scores wait in benchmarks/cache until the case is done;
every method is compared with it by Spearman over pixels. Two estimates of it stand side by side, which have the same
expectation: the centred average, and the average adjusted by a regression without penalty, (1 - p) times the effects of
cells, whose noise is smaller by what a straight line explains. Their halves say how far each has converged. Ridge
passes through the expectation of the masks first: (1 - p) times its map is what the average converges to. Forwards of
the segmenter run in bfloat16, for all alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.converged_cases import KEEP, Subjected, detector_cases, prepare, segmenter_cases
from benchmarks.rows import Row, meets
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.masks import Sampling
from xaiseg.explainers.rise import averaged, regressed
from xaiseg.explainers.stopping import CellMap, spearman
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.deletion import area_over, hidden_shares, ranking

CASES, CONVERGED, STEPS = 20, 32_768, 14
COUNTS: Final = (128, 256, 512, 1024, 2048, 4096, 8192)
LIMITS: Final[dict[Sampling, int]] = {"bernoulli": 8192, "sobol": 4096}
ROOM: Final = Path(__file__).parent
PEER, OURS = "average, published", "ridge, smooth, Sobol masks"

#: name -> (sampling, responses and bank -> cells)
Estimate = Callable[[Responses, MaskBank], CellMap]
METHODS: Final[dict[str, tuple[Sampling, Estimate]]] = {
    PEER: ("bernoulli", lambda r, _: averaged(r, KEEP, centred=False)),
    "average, centred": ("bernoulli", lambda r, _: averaged(r, KEEP)),
    "average, centred, Sobol masks": ("sobol", lambda r, _: averaged(r, KEEP)),
    "ridge": ("bernoulli", lambda r, bank: regressed(r, bank.cells, 0.0)),
    "ridge, Sobol masks": ("sobol", lambda r, bank: regressed(r, bank.cells, 0.0)),
    "ridge, smooth": ("bernoulli", lambda r, bank: regressed(r, bank.cells, 0.75)),
    OURS: ("sobol", lambda r, bank: regressed(r, bank.cells, 0.75)),
}


@dataclass(frozen=True)
class Measured:
    """One case: agreements and deletion scores.

    Attributes:
        curves: method -> (len(COUNTS),) Spearman with the adjusted converged map, NaN beyond the method's masks.
        plain: the same with the centred average as the converged map.
        halves: (2,) Spearman of the halves of the adjusted and of the averaged converged map.
        deletion: method -> (len(COUNTS),) area over the deletion curve.
    """

    curves: dict[str, np.ndarray]
    plain: dict[str, np.ndarray]
    halves: np.ndarray
    deletion: dict[str, np.ndarray]


def measured(one: Subjected) -> Measured:
    """Everything about one case, from the cache."""
    bank = one.bank("bernoulli", 1)

    def painted(cells: CellMap) -> np.ndarray:
        return np.asarray(bank.cells.paint(cells.values, cells.groups)[0])

    def agree(first: np.ndarray, second: np.ndarray) -> float:
        return spearman(first.ravel(), second.ravel()) or 0.0

    answers, half = one.responses("bernoulli", 1, CONVERGED), CONVERGED // 2
    estimates: list[Callable[[Responses], CellMap]] = [
        lambda r: regressed(r, bank.cells, 0.0),
        lambda r: averaged(r, KEEP),
    ]
    truths = [painted(estimate(answers)) for estimate in estimates]
    parts = [[painted(e(answers.part(s))) for s in (slice(0, half), slice(half, None))] for e in estimates]
    maps: dict[str, list[np.ndarray]] = {}
    for name, (sampling, estimate) in METHODS.items():
        known = one.responses(sampling, 0, LIMITS[sampling])
        counts = [count for count in COUNTS if count <= LIMITS[sampling]]
        maps[name] = [painted(estimate(known.part(slice(0, count)), bank)) for count in counts]
    return Measured(
        {name: _filled([agree(each, truths[0]) for each in found]) for name, found in maps.items()},
        {name: _filled([agree(each, truths[1]) for each in found]) for name, found in maps.items()},
        np.array([agree(*each) for each in parts]),
        {name: _filled(deletion(one, maps[name])) for name in (PEER, OURS)},
    )


def _filled(values: Sequence[float]) -> np.ndarray:
    return np.array([*values, *[np.nan] * (len(COUNTS) - len(values))])


def deletion(one: Subjected, maps: Sequence[np.ndarray]) -> list[float]:
    """The area over the deletion curve of each map; the score is the target's, a probability for a region."""
    session, target = one.session, one.target
    target = target.as_probability() if isinstance(target, Region) else target
    image, fill = session.image, session.baseline("mean")
    everywhere = np.ones(image.shape[1:], dtype=bool)
    ties = np.random.default_rng(0).random(everywhere.shape)
    shares = hidden_shares(STEPS)
    window = max(1, round(min(everywhere.shape) / 16))
    orders = [torch.as_tensor(ranking(each, everywhere, ties, window)) for each in maps]
    pixels = everywhere.size
    stream = (torch.where(order < round(s * pixels), fill, image) for order in orders for s in shares)
    scores = session.scores(stream, [target])[:, 0].reshape(len(maps), -1)
    return [area_over(shares, each / each[0]) for each in scores]


def forwards_for(agreement: float, curve: np.ndarray) -> float:
    """Masks that a mean curve needs for an agreement, straight in the logarithm; infinity where it never gets there.

    >>> forwards_for(0.6, np.array([0.5, 0.7, 0.8, 0.9, 0.9, 0.9, 0.9])).__round__()
    181
    """
    reached = np.nonzero(curve >= agreement)[0]
    if not len(reached):
        return float("inf")
    after = int(reached[0])
    if after == 0:
        return float(COUNTS[0])
    share = (agreement - curve[after - 1]) / (curve[after] - curve[after - 1])
    return float(COUNTS[after - 1] * (COUNTS[after] / COUNTS[after - 1]) ** share)


def table(found: Sequence[dict[str, np.ndarray]]) -> str:
    """Means over cases, as Markdown."""
    lines = ["| masks | " + " | ".join(f"{count:,}" for count in COUNTS) + " |", "| --- " * (len(COUNTS) + 1) + "|"]
    for name in found[0]:
        mean = np.mean([each[name] for each in found], axis=0)
        lines.append(f"| {name} | " + " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in mean) + " |")
    return "\n".join(lines)


def row(kind: str, found: Sequence[Measured], settings: str) -> Row:
    """Forwards of the published average over ours for the same mean agreement, at 256, 512 and 1,024 of ours."""
    peer, ours = (np.mean([each.curves[name] for each in found], axis=0) for name in (PEER, OURS))
    needed = {count: forwards_for(float(ours[COUNTS.index(count)]), peer) for count in (256, 512, 1024)}
    ratios = {count: masks / count for count, masks in needed.items()}
    most = COUNTS[-1]
    told = ", ".join(
        f"{count:,} of ours = {masks:,.0f}" if masks < np.inf else f"{count:,} of ours > {most:,}"
        for count, masks in needed.items()
    )
    at, four = COUNTS.index(512), COUNTS.index(2048)
    pairs = np.array([[each.deletion[OURS][at], each.deletion[PEER][four]] for each in found])
    difference = pairs[:, 0] - pairs[:, 1]
    error = difference.std(ddof=1) / len(found) ** 0.5
    halves = np.mean([each.halves for each in found], axis=0)
    ratio = min(min(each, most / count) for count, each in ratios.items())
    same = (
        f"equal mean Spearman by construction ({told}); deletion {pairs[:, 0].mean():.4f} with 512 of ours, "
        f"{pairs[:, 1].mean():.4f} with 2,048 of the peer's: difference {difference.mean():+.4f}, standard error "
        f"{error:.4f}; halves of the converged map {halves[0]:.3f} (averaged: {halves[1]:.3f})"
    )
    return Row(
        bench=f"masks for the agreement of a published RISE average, {kind}",
        command="make bench-long",
        ours=512,
        peer=round(min(needed[512], most), 1),  # more than the most that was tried counts as that
        peer_version="RISE as published (weights = scores)",
        settings=settings,
        unit="masks; ratio = peer / ours, the smallest at 256, 512 and 1,024 of ours",
        ratio=round(ratio, 2),
        goal=">= 4",
        holds=meets(ratio, ">= 4"),
        same_result=same,
        runs=len(found),
    )


def rows(*, long: bool = False, data: Path | None = None, models: Path | None = None) -> Iterator[Row]:
    """Two rows with their curves, or none without ``long`` and the folders."""
    if not long or data is None or models is None:
        print("converged: left out; it takes --long, --data DIR and --models DIR", flush=True)
        return
    drawn = f"8 x 8 cells, 4 offsets, p = 0.5, mean baseline, converged over {CONVERGED:,} masks"
    kinds: dict[str, tuple[Callable[[], Iterable[Subjected]], bool]] = {
        "segmenter": (lambda: segmenter_cases(data / "busbra_breast_ultrasound", CASES), True),
        "detector": (lambda: detector_cases(data, models / "fastestdet" / "FastestDet.onnx", CASES), False),
    }
    for kind, (opened, half) in kinds.items():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = [kept(one) for one in opened()]
        print(f"{kind}, against the adjusted converged map:\n{table([each.curves for each in found])}", flush=True)
        print(f"{kind}, against the averaged one:\n{table([each.plain for each in found])}", flush=True)
        print(f"{kind}, deletion:\n{table([each.deletion for each in found])}", flush=True)
        yield row(kind, found, f"{len(found)} cases, {drawn}")


def kept(one: Subjected) -> Measured:
    """What the file holds of a case, or what it gives now."""
    file = ROOM / f"converged_{one.kind}.json"
    held: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if one.name not in held:
        prepare([one], [("bernoulli", 0, LIMITS["bernoulli"]), ("sobol", 0, LIMITS["sobol"])])
        prepare([one], [("bernoulli", 1, CONVERGED)])
        held[one.name] = json.loads(json.dumps(asdict(measured(one)), default=_rounded))
        file.write_text(json.dumps(held, indent=0) + "\n", encoding="utf-8")
    row = held[one.name]
    curves = [{name: _array(values) for name, values in row[part].items()} for part in ("curves", "plain", "deletion")]
    return Measured(curves[0], curves[1], _array(row["halves"]), curves[2])


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])
