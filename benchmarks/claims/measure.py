"""One training and what it says of images it has not seen, as rows: one an image, on the image's own pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import expit

from benchmarks.claims.imagenet import initialise
from benchmarks.claims.plan import ARMS, FOLDS, Run
from xaiseg.calibration.reliability import histogram
from xaiseg.data.case import Case, ImageSpec
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.fitting import Trained, train
from xaiseg.geometry import place, to_image, to_network
from xaiseg.seeds import derive_seed

BINS: Final = 15
#: Share of the patients outside the test fold that choose the epoch, the learning rate and the temperature.
VALIDATION: Final = 0.2
#: Pixels of the validation part that fit the temperature; a fixed stride keeps it quick.
STRIDE: Final = 7


@dataclass(frozen=True)
class Parts:
    """Cases of one division."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


@functools.cache
def cases(folder: Path, channels: int) -> tuple[Case, ...]:
    """All cases of a folder, read once."""
    spec = ImageSpec(channels=channels, classes=("background", "lesion"))
    entry = entry_from_folder(folder)
    return tuple(load_case(entry, ref, spec) for ref in open_dataset("test", entry, root=folder, spec=spec).cases)


def divide(everything: tuple[Case, ...], data: str, fold: int) -> Parts:
    """Divides by cluster: a seeded hash of its name gives each a fold; of the others a fifth validates.

    Polyps have one division of their own, by near-duplicate group: they have no patients.
    """
    names = sorted({case.ref.cluster for case in everything}, key=lambda name: derive_seed(0, f"claims {data}", name))
    held_out = {name for index, name in enumerate(names) if index % FOLDS == fold}
    rest = [name for name in names if name not in held_out]
    validating = set(
        sorted(rest, key=lambda name: derive_seed(fold, f"claims validation {data}", name))[
            : round(VALIDATION * len(rest))
        ]
    )
    part = {name: "test" if name in held_out else "validation" if name in validating else "train" for name in names}
    return Parts(
        *(
            tuple(case for case in everything if part[case.ref.cluster] == name)
            for name in ("train", "validation", "test")
        )
    )


def run_one(
    run: Run, folders: dict[str, Path], out: Path, *, int8: Path | None, log: Any = print
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Trains (or goes on) and measures.

    Args:
        run: what to train.
        folders: data folder by name of the data.
        out: folder for checkpoints and weights of this run.
        int8: published weights for the arm that starts from them.
        log: receives a line an epoch.

    Returns:
        Facts of the run, and a row a test image: Dice and its kin, reliability histograms before and after
        temperature scaling.
    """
    arm = ARMS[run.arm]
    channels = 1 if run.data == "ultrasound" else 3
    parts = divide(cases(folders[run.data], channels), run.data, run.fold)

    def build() -> torch.nn.Module:
        network = arm.build(channels)
        return initialise(network, int8, [case.image for case in spread(parts.train)]) if arm.initialise else network

    trained = train(
        build,
        parts.train,
        parts.validation,
        recipe=run.recipe,
        objective=arm.objective,
        out=out,
        seed=run.seed,
        log=log,
    )
    network = arm.build(channels)
    network.load_state_dict(load_file(trained.weights))
    network.eval()
    held_out = [logits_and_mask(network, case, run) for case in parts.validation]
    temperature = fit_temperature(held_out)
    rows = [row(case, *logits_and_mask(network, case, run), temperature) for case in parts.test]
    return facts(run, trained, parts, temperature), rows


def spread(cases: tuple[Case, ...], count: int = 64) -> tuple[Case, ...]:
    """About ``count`` cases from all over a list: its first ones come from one device."""
    return cases[:: max(1, len(cases) // count)][:count]


def facts(run: Run, trained: Trained, parts: Parts, temperature: float) -> dict[str, Any]:
    """What is known of a run as a whole."""
    return {
        "run": run.name, "parameters": trained.parameters, "epoch": trained.epoch, "selection": trained.score.selection,
        "temperature": temperature, "train": len(parts.train), "validation": len(parts.validation), "test":
        len(parts.test),
    }  # fmt: skip


@torch.inference_mode()
def logits_and_mask(network: torch.nn.Module, case: Case, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the lesion and the reference on the image's own pixels, (H, W) float64 and bool."""
    placement = place(case.shape, size=(run.recipe.size, run.recipe.size), resize=run.recipe.resize)
    logits = network(to_network(torch.from_numpy(case.image)[None].float(), placement, fill=0.0).clamp(0, 1))
    assert case.reference is not None  # training has refused cases without one
    return to_image(logits, placement)[0, 0].double().numpy(), case.reference == 1


def fit_temperature(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The temperature with the least negative log-likelihood of the pixels.

    >>> z = np.repeat([2.0, -2.0], 1000)
    >>> y = np.concatenate([np.arange(1000) < 731, np.arange(1000) >= 731])
    >>> round(fit_temperature([(z[None], y[None])]), 1)
    2.0
    """
    z = np.concatenate([logits.ravel()[::STRIDE] for logits, _ in pairs])
    sign = np.where(np.concatenate([mask.ravel()[::STRIDE] for _, mask in pairs]), -1.0, 1.0)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0, sign * z / np.exp(log_t)).mean(), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def row(case: Case, logits: np.ndarray, mask: np.ndarray, temperature: float) -> dict[str, Any]:
    """Measures of one image; undefined ones (nothing predicted: precision) are 0 as in the paper's kind of table."""
    predicted = logits > 0
    tp, fp = int((predicted & mask).sum()), int((predicted & ~mask).sum())
    fn, tn = int((~predicted & mask).sum()), int((~predicted & ~mask).sum())
    found: dict[str, Any] = {"id": case.id, "cluster": case.ref.cluster}
    found |= {"dice": _ratio(2 * tp, 2 * tp + fp + fn), "iou": _ratio(tp, tp + fp + fn)}
    found |= {"precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn), "specificity": _ratio(tn, tn + fp)}
    for name, divisor in (("raw", 1.0), ("scaled", temperature)):
        held = histogram(expit(logits / divisor).ravel(), mask.ravel(), bins=BINS)
        found |= {
            f"{name}_count": held.count.astype(np.int32),
            f"{name}_sum_p": held.sum_p.astype(np.float32),
            f"{name}_sum_y": held.sum_y.astype(np.int32),
        }
    return found


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
