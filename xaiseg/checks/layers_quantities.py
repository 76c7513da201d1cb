"""The figures of ``equivalence.layers`` for one build: its layers, its ladder, and what of them is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing
from xaiseg.hardware.ladder import RUNGS
from xaiseg.hardware.layerwise import decibels

if TYPE_CHECKING:
    import pandas as pd

#: Metric -> (column of the error, what it is).
_RATIOS: Final = {
    "sqnr": ("noise", "Float network's values over their difference to this build's"),
    "sqnr_local": ("local_noise", "Float network's values over what this layer alone makes of its rounded input"),
}


def layer_quantities(
    rows: pd.DataFrame, variant: str, params: Any, chances: Mapping[str, float], *, has_build: bool
) -> Iterator[Quantity]:
    """All quantities of one variant.

    Args:
        rows: of the check, of this variant, status "ok".
        variant: its name.
        params: of the check.
        chances: probability of each case to be drawn.
        has_build: whether the variant is the network in integers; other models have no layers to compare.
    """
    once, cases = rows[rows["case"] == ""], rows[rows["case"] != ""]
    if not has_build or cases.empty:
        why = "no image gave an answer" if has_build else "it is a model with a source of its own, not this network"
        for metric in ("sqnr", "sqnr_local", "saturated", "flips", "rungs_that_break", "layers_below_floor"):
            yield replace(missing(metric, why), subject=variant)
        return
    layers, rungs = cases[cases["factor"] != "rung"], cases[cases["factor"] == "rung"]
    by_layer = dict(iter(layers.groupby("target", sort=False)))
    ordered = [name for name in once.sort_values("place")["target"] if name in by_layer]
    for name in ordered:
        yield from _ratios(by_layer[name], variant, name)
    yield _saturated(layers, variant)
    yield _dead(by_layer, variant)
    for level, held in rungs.groupby("level", sort=True):
        yield from _rung(held, variant, str(level))
    yield _first_rung(rungs, variant, params, chances)
    yield _first_layer([(name, by_layer[name]) for name in ordered], variant, params, chances)


def _ratio(sums: np.ndarray) -> float:
    return decibels(float(sums[0]), float(sums[1]))


def _ratios(held: pd.DataFrame, variant: str, layer: str) -> Iterator[Quantity]:
    for metric, (column, note) in _RATIOS.items():
        yield Quantity(
            metric, "statistic", held["case"].to_numpy(dtype=object),
            held[["signal", column]].to_numpy(dtype=np.float64), unit="dB", better="higher", target=layer,
            subject=variant, function=_ratio, weigh="case", note=f"{note}, ratio of sums over images.",
        )  # fmt: skip


def _saturated(layers: pd.DataFrame, variant: str) -> Quantity:
    sums = layers.groupby("case", sort=True)[["saturated", "values"]].sum()
    return Quantity(
        "saturated", "mean", sums.index.to_numpy(dtype=object),
        (sums["saturated"] / sums["values"]).to_numpy(dtype=np.float64), better="lower", worst=1.0, bounds=UNIT_RANGE,
        subject=variant, note="Share of all values at an end of their format while the float value lies beyond it.",
    )  # fmt: skip


def dead_channels(held: pd.DataFrame) -> tuple[int, int]:
    """Channels of a layer that are zero in integers in every image and not in the float network; and all channels."""
    alive = np.bitwise_or.reduce(np.stack([np.asarray(row, dtype=np.uint8) for row in held["alive"]]), axis=0)
    return int((alive == 1).sum()), int(alive.size)


def _dead(by_layer: Mapping[Any, pd.DataFrame], variant: str) -> Quantity:
    counts = np.array([dead_channels(held) for held in by_layer.values()]).sum(axis=0)
    note = f"Of {counts[1]} channels: zero in integers in every image, but not in the float network."
    return replace(fact("dead_channels", float(counts[0]), better="lower", of="channel", note=note), subject=variant)


def _rung(held: pd.DataFrame, variant: str, level: str) -> Iterator[Quantity]:
    words = {"flips": "the rung above", "flips_from_float": "floating point"}
    for metric, against in words.items():
        values = held[metric].to_numpy(dtype=np.float64) / np.maximum(held["pixels"].to_numpy(dtype=np.float64), 1.0)
        yield Quantity(
            metric, "mean", held["case"].to_numpy(dtype=object), values, better="lower", worst=1.0, bounds=UNIT_RANGE,
            factor="rung", level=level, subject=variant, weigh="case",
            note=f"{RUNGS[level][0].upper()}{RUNGS[level][1:]}: pixels that change sides against {against}.",
        )  # fmt: skip


def _weights(held: pd.DataFrame, chances: Mapping[str, float]) -> np.ndarray:
    return np.array([1.0 / chances[case] for case in held["case"]])


def broken_rungs(rungs: pd.DataFrame, params: Any, chances: Mapping[str, float]) -> list[str]:
    """Rungs whose mean share of flips against the rung above passes the parameter, from the first on."""
    found = []
    for level, held in rungs.groupby("level", sort=True):
        shares = held["flips"].to_numpy(dtype=np.float64) / np.maximum(held["pixels"].to_numpy(dtype=np.float64), 1.0)
        if float(np.average(shares, weights=_weights(held, chances))) > params.rung_flips:
            found.append(str(level))
    return found


def _first_rung(rungs: pd.DataFrame, variant: str, params: Any, chances: Mapping[str, float]) -> Quantity:
    broken = broken_rungs(rungs, params, chances)
    first = f"first {broken[0]}, {RUNGS[broken[0]]}" if broken else "none does"
    note = f"Rungs at which more than {100 * params.rung_flips:g} % of the pixels change sides: {first}."
    return replace(fact("rungs_that_break", len(broken), better="lower", of="rung", note=note), subject=variant)


def _first_layer(
    layers: list[tuple[str, pd.DataFrame]], variant: str, params: Any, chances: Mapping[str, float]
) -> Quantity:
    low = []
    for name, held in layers:
        sums = (held[["signal", "noise"]].to_numpy(dtype=np.float64) * _weights(held, chances)[:, None]).sum(axis=0)
        ratio = _ratio(sums)
        if ratio < params.layer_db:
            low.append((name, ratio))
    first = f"first in {low[0][0]} ({low[0][1]:.1f} dB)" if low else "none does"
    note = f"Of {len(layers)} layers: their accumulated error leaves less than {params.layer_db:g} dB: {first}."
    return replace(fact("layers_below_floor", len(low), better="lower", of="layer", note=note), subject=variant)
