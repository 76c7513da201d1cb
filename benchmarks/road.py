"""ROAD's imputation against pytorch-grad-cam's: the time of the fills, and what the fast ones change in the score."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter

from benchmarks.rows import Row, side_by_side
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.targets import predicted_region
from xaiseg.faithfulness.imputation import impute
from xaiseg.faithfulness.road import PERCENTILES, road
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file

MODEL = Path("examples/clinical/unet-compact.yaml")
SIDE = 512
SHORT = (10.0, 50.0, 90.0)
METHODS = ("hirescam", "occlusion")


def rows(*, long: bool) -> Iterator[Row]:
    runs = 5 if long else 3
    percentiles = PERCENTILES if long else SHORT
    image, holes = _image(), _holes(percentiles)
    difference = _score_difference(6 if long else 2, percentiles)
    yield _row("exact", ">= 2", image, holes, runs, "")
    yield _row("fast", ">= 10", image, holes, runs, f"; {difference}")


def _phantom(index: int) -> np.ndarray:
    """(512, 512) float32 in [0, 1]."""
    return phantom_case(PhantomSpec(size=(SIDE, SIDE)), index)[0].astype(np.float32) / 255


def _image() -> np.ndarray:
    """(3, 512, 512): three phantoms as the channels of one image."""
    return np.stack([_phantom(index) for index in range(3)])


def _holes(percentiles: tuple[float, ...]) -> list[np.ndarray]:
    """What a smooth map hides at each percentile, most important first."""
    values = gaussian_filter(np.random.default_rng(0).standard_normal((SIDE, SIDE)), SIDE / 40)
    return [values >= np.percentile(values, percentile) for percentile in percentiles]


def _row(mode: str, goal: str, image: np.ndarray, holes: list[np.ndarray], runs: int, more: str) -> Row:
    peer_image = torch.from_numpy(image)
    peer_masks = [torch.from_numpy((~hidden).astype(np.float32)) for hidden in holes]
    imputer = NoisyLinearImputer(0.0)

    def ours() -> list[np.ndarray]:
        return [impute(image, hidden, mode=mode) for hidden in holes]

    def peer() -> list[np.ndarray]:
        return [imputer(peer_image, mask).numpy() for mask in peer_masks]

    gaps = [np.abs(a - b)[:, hidden] for a, b, hidden in zip(ours(), peer(), holes, strict=True)]
    largest, mean = max(float(gap.max()) for gap in gaps), float(np.mean([gap.mean() for gap in gaps]))
    share = ", ".join(f"{hidden.mean():.0%}" for hidden in holes)
    return side_by_side(
        f"ROAD imputation, {mode}",
        ours,
        peer,
        peer_version=f"grad-cam {version('grad-cam')}",
        settings=f"3 channels of {SIDE} x {SIDE} px, {share} of the pixels removed, no noise, 1 thread",
        goal=goal,
        same_result=f"difference of filled values, range 0 to 1: largest {largest:.1e}, mean {mean:.1e}{more}",
        runs=runs,
        inverse=True,
    )


def _score_difference(cases: int, percentiles: tuple[float, ...]) -> str:
    """How far ROAD of real maps of the shipped U-Net moves between both modes."""
    subject = load_subject(read_model_file(MODEL))
    gaps, used, index = [], 0, 0
    while used < cases:
        session = Session(subject, _phantom(index)[None])
        region = predicted_region(session.prediction, subject.info.classes)
        index += 1
        if region is None:
            continue
        used += 1
        maps = {name: explain(session, name, [region]).values[0] for name in METHODS}
        ties = np.random.default_rng(index).random(region.mask.shape)
        found = [
            road(session, region, maps, ties=ties, percentiles=percentiles, mode=mode) for mode in ("exact", "fast")
        ]
        gaps += [
            found[1][variant][name].combined - found[0][variant][name].combined
            for variant in found[0]
            for name in found[0][variant]
        ]
    size = np.abs(gaps)
    return (
        f"ROAD of {len(gaps)} maps of the shipped U-Net on {cases} phantoms of {SIDE} x {SIDE} px against the exact "
        f"mode: largest difference {size.max():.4f}, mean {size.mean():.4f}, bias {np.mean(gaps):+.4f}"
    )
