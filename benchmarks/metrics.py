"""Segmentation metrics against MONAI, and calibration histograms against netcal."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import torch

from benchmarks.rows import Row, side_by_side
from xaiseg.calibration.reliability import expected_calibration_error, histogram
from xaiseg.checks import masks
from xaiseg.data.phantoms import PhantomSpec, phantom_case

CASES = 200


def rows(*, long: bool) -> Iterator[Row]:
    runs = 7 if long else 3
    yield _mask_metrics(runs)
    yield _calibration(runs)


def _pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """References of phantoms and a prediction that is off by two pixels; only pairs that MONAI defines."""
    spec, pairs, index = PhantomSpec(), [], 0
    while len(pairs) < CASES:
        mask = phantom_case(spec, index % 392)[1].astype(bool)
        index += 1
        shifted = np.roll(mask, (2, -1), axis=(0, 1))
        if mask.any() and not mask[[0, 1, -1, -2]].any() and not mask[:, [0, 1, -1, -2]].any():
            pairs.append((mask, shifted))
    return pairs


def _mask_metrics(runs: int) -> Row:
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric

    pairs = _pairs()
    tensors = [tuple(torch.from_numpy(m)[None, None].float() for m in pair) for pair in pairs]

    def ours() -> np.ndarray:
        found = []
        for reference, prediction in pairs:
            box = masks.union_box(reference, prediction)
            a, b = reference[box], prediction[box]
            there, back = masks.border_distances(a, b)
            values = masks.overlap(a, b).dice, masks.hd95(there, back), masks.nsd(there, back, tolerance=2.0)
            found.append(values)
        return np.array(found)

    dice = DiceMetric(include_background=True)
    hausdorff = HausdorffDistanceMetric(include_background=True, percentile=95)
    surface = SurfaceDiceMetric(class_thresholds=[2.0], include_background=True)

    def peer() -> np.ndarray:
        found = []
        for reference, prediction in tensors:
            values = (metric(prediction, reference) for metric in (dice, hausdorff, surface))
            found.append([float(value) for value in values])
        return np.array(found)

    difference = np.abs(ours() - peer()).max(axis=0)
    return side_by_side(
        "mask metrics: Dice, HD95 and NSD",
        ours,
        peer,
        peer_version=f"MONAI {version('monai')}",
        settings=f"{CASES} phantom masks of 144 x 176 px, one at a time, 1 thread",
        goal=">= 4",
        same_result="largest difference Dice {:.1e}, HD95 {:.1e} px, NSD {:.1e}".format(*difference),
        runs=runs,
        inverse=True,
    )


def _calibration(runs: int) -> Row:
    from netcal.metrics import ECE

    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 0.3, 1_000_000)
    labels = rng.random(1_000_000) < probabilities**1.3

    def ours() -> float:
        return expected_calibration_error(histogram(probabilities, labels, bins=15).stacked())

    def peer() -> float:
        return float(ECE(15).measure(probabilities, labels.astype(int)))

    return side_by_side(
        "expected calibration error",
        ours,
        peer,
        peer_version=f"netcal {version('netcal')}",
        settings="1,000,000 pixels, 15 bins of equal width, float64, 1 thread",
        goal=">= 4",
        same_result=abs(ours() - peer()),
        runs=runs,
        inverse=True,
    )
