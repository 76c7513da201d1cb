"""How much does the model look around? What each class owes to each other region, and how far a prediction looks.

Every predicted region, the background among them, is replaced in turn, and the fall of each class's mean logit over its
own region is noted. And the prediction is made again from the region alone and from more and more of what surrounds it,
until it is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, log2
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.explanation import FROM_IMAGE
from xaiseg.checks.quantities import UNIT_RANGE, missing
from xaiseg.data.case import Case
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.context import ENOUGH, class_context, context_radius
from xaiseg.explainers.replacement import Replacement
from xaiseg.explainers.targets import NO_FOREGROUND
from xaiseg.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

CHECK: Final = "explanation.context"


@dataclass(frozen=True)
class Params:
    """How the surroundings are taken away.

    Attributes:
        baseline: what replaced pixels show: "mean", "blur", "noise" or "inpaint" of the image.
        enough: Dice with the whole image's prediction from which on the surroundings count as enough.
    """

    baseline: Replacement = "mean"
    enough: float = ENOUGH

    def __post_init__(self) -> None:
        if self.baseline not in FROM_IMAGE:
            allowed = ", ".join(FROM_IMAGE)
            raise UsageError("no such baseline", where=f"{CHECK}.baseline", got=self.baseline, allowed=allowed)
        if not 0 < self.enough <= 1:
            raise UsageError("no such Dice", where=f"{CHECK}.enough", got=self.enough, allowed="above 0, at most 1")


@check(
    CHECK,
    question="How far does the model look around?",
    needs={"segmenter", "model", "scores"},
    params=Params,
    columns=[
        ("kind", pa.string()),  # fall | radius
        ("fall", pa.float64()),  # of the target's mean logit without the region
        ("share", pa.float64()),  # of the image that the region covers
        ("radius_px", pa.float64()),
        ("diagonal_px", pa.float64()),
        ("radii_px", pa.list_(pa.float64())),  # what was tried, rising
        ("dices", pa.list_(pa.float64())),  # of the prediction from that much with that from the whole image
    ],
)
class ClassContext:
    """Rows: one a predicted class and replaced region (``target``, ``level``), and one on the radius, for each case."""

    def forwards(self, params: Params) -> int:
        """About how many forwards a case takes: ten classes at most, and the radii up to a diagonal of 1,000 pixels."""
        side = 1000
        return 2 + 10 + ceil(log2(side) / log2(1.5)) + ceil(log2(side / 3))

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Takes regions away, and gives the surroundings back."""
        subject, params, prediction = context.segmenter, context.params, context.prediction()
        if not (prediction.labels > 0).any():
            yield {"kind": "radius", "status": "not_applicable", "reason": NO_FOREGROUND}
            return
        seed = derive_seed(context.seed, CHECK, case.id)
        budget = Budget(int(context.facts.get("batch", Budget().batch_size)))
        session = Session(subject, case.image, seed=seed, budget=budget, prediction=prediction)
        try:
            table = class_context(session, baseline=params.baseline)
            found = context_radius(session, enough=params.enough, baseline=params.baseline)
        finally:
            context.count(forwards=session.forwards)
        for removed, falls, share in zip(table.removed, table.falls, table.shares, strict=True):
            for target, fall in zip(table.targets, falls, strict=True):
                place: Row = {"target": target, "factor": "without", "level": removed}
                yield {**place, "kind": "fall", "fall": float(fall), "share": float(share)}
        yield {
            "kind": "radius", "radius_px": float(found.radius_px), "diagonal_px": float(np.hypot(*case.shape)),
            "radii_px": found.radii_px.astype(float).tolist(), "dices": found.dice.tolist(),
        }  # fmt: skip

    def quantities(self, tables: Tables, params: Params) -> Iterator[Quantity]:
        """The class-to-class table, the radius, and what is left of the prediction without any surroundings."""
        table = tables.ok(CHECK)
        if table.empty:
            yield from (missing(name, NO_FOREGROUND) for name in ("context_radius", "dice_of_region_alone"))
            return
        yield from _falls(table[table["kind"] == "fall"])
        yield from _radii(table[table["kind"] == "radius"])


def _falls(rows: pd.DataFrame) -> Iterator[Quantity]:
    for (target, removed), held in rows.groupby(["target", "level"], sort=True):
        note = "Fall of the class's mean logit over its own region when the region is replaced."
        yield Quantity(
            "context_fall", "mean", held["case"].to_numpy(), held["fall"].to_numpy(dtype=np.float64), unit="logit",
            target=str(target), factor="without", level=str(removed), note=note,
        )  # fmt: skip


def _radii(rows: pd.DataFrame) -> Iterator[Quantity]:
    cases = rows["case"].to_numpy()
    radius = rows["radius_px"].to_numpy(dtype=np.float64)
    note = "Smallest radius around the predicted region from which the prediction is the same as from the whole image."
    yield Quantity("context_radius_px", "mean", cases, radius, unit="px", note=note)
    share = np.clip(radius / rows["diagonal_px"].to_numpy(dtype=np.float64), 0.0, 1.0)
    yield Quantity(
        "context_radius", "mean", cases, share, bounds=UNIT_RANGE, note="The same as a share of the diagonal."
    )
    alone = np.array([float(dices[0]) for dices in rows["dices"]])
    note = "Dice of the prediction from the region alone, all else replaced, with that from the whole image."
    yield Quantity("dice_of_region_alone", "mean", cases, alone, bounds=UNIT_RANGE, note=note)
