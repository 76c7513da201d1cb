"""``python -m benchmarks.error_bars``: what sampled maps state as their error, beside the spread between seeds.

A ratio of 1 says that the error bars are right, above 1 that they are too long. For a target of which few cells matter
(one pixel of a network with a receptive field of 5 px) and for one that many move. About two minutes of one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from xaiseg.adapters import wrap_module
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.lime import LimeParams
from xaiseg.explainers.rise import RidgeParams, RiseParams
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.targets import Region

SHAPE = (40, 56)
SEEDS = 24
CASES: tuple[tuple[str, str, Any], ...] = (
    ("`kernelshap`, 256 masks of 64 segments", "kernelshap", KernelShapParams(256, agreement=2)),
    ("`kernelshap`, 512 masks", "kernelshap", KernelShapParams(512, agreement=2)),
    ("`kernelshap`, 1,024 masks", "kernelshap", KernelShapParams(1024, agreement=2)),
    ("`lime`", "lime", LimeParams(512)),
    ("`rise`, independent masks", "rise", RiseParams(512, sampling="bernoulli", agreement=2)),
    ("`rise`, Sobol masks", "rise", RiseParams(512, agreement=2)),
    ("`ridge`, independent masks, one grid", "ridge", RidgeParams(512, sampling="bernoulli", offsets=1, agreement=2)),
    ("`ridge`, independent masks, 4 grids", "ridge", RidgeParams(512, sampling="bernoulli", agreement=2)),
    ("`ridge`, Sobol masks, 4 grids", "ridge", RidgeParams(512, agreement=2)),
)


def network() -> nn.Module:
    """Two 3 x 3 convolutions with ReLU and a head: an output pixel sees 5 x 5 pixels."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 1)
    )
    with torch.no_grad():
        for part in (made[0], made[2]):
            part.weight *= 4
    return made


def ratios(method: str, params: Any) -> tuple[float, float]:
    """Stated error over standard deviation between seeds, root mean squares over pixels: one pixel, and a region."""
    image = np.random.default_rng(1).random(SHAPE, dtype=np.float32)
    image[10:25, 15:35] = 0.9
    pixel, region = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    pixel[20, 20], region[5:35, 5:50] = True, True
    targets, subject = [Region(1, pixel, label="pixel"), Region(1, region, label="region")], wrap_module(network())
    found = [explain(Session(subject, image[None], seed=seed), method, targets, params=params) for seed in range(SEEDS)]
    spread = np.stack([each.values for each in found]).var(axis=0, ddof=1)
    stated = np.mean([np.square(each.stderr) for each in found], axis=0)
    one, many = np.sqrt(stated.mean(axis=(1, 2)) / spread.mean(axis=(1, 2)))
    return float(one), float(many)


def main() -> None:
    torch.set_num_threads(1)
    print("| | one pixel | region |\n| --- | --- | --- |")
    for words, method, params in CASES:
        one, many = ratios(method, params)
        print(f"| {words} | {one:.1f} | {many:.1f} |", flush=True)


if __name__ == "__main__":
    main()
