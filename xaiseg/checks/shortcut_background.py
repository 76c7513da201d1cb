"""Does it find objects before any background? The same objects before other backgrounds.

Every object that the model finds keeps its place and its pixels; all around it is replaced by a background of the
user's own, from images without an object, or blurred. In the sham the objects are cut out and put back before their own
background, so that seams cost nothing. What is lost beyond the sham was owed to the background. Any model loses an
object before a background into which it blends; one that leans on its own background loses it before most others. The
index of context reliance sets the loss against the share that is lost when the object itself
goes. After arXiv:2510.03317.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import missing
from xaiseg.checks.shortcut_asking import COLUMNS, NO_OBJECT, Asked, Asker, Trial
from xaiseg.checks.shortcut_quantities import effects, held_rows, left_out, lost, objects, persistent_drops, reason_of
from xaiseg.editing.backgrounds import blurred_background, composed, fitted, pasted_back
from xaiseg.editing.fills import get_fill
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case, CaseRef

ID: Final = "shortcut.background"
FACTOR: Final = "background"
NO_BANK: Final = "no image without an object is among the data of the bank; name a folder of them as data: backgrounds"
FEW: Final = (
    "fewer images without an object were found in the data of the bank than `backgrounds` asks for; name a folder of "
    "them as data: backgrounds"
)
#: Images that are looked at for each background in search of one without an object, where the sidecar names none.
_TRIES: Final = 20


@dataclass(frozen=True)
class Params(Asked):
    """The backgrounds.

    Attributes:
        bank: entry of ``data:`` in model.yaml whose images without an object are the backgrounds.
        backgrounds: backgrounds a case, drawn by seed, from other clusters where there are any.
        blur: standard deviation of the blurred background, as a share of the image's shorter side; 0 = no blur.
        fill: what a removed object leaves behind, for the index: "mean", "blur", "telea" or a filling of your own.
            Only removal takes the margin along.
    """

    bank: str = "test"
    backgrounds: int = 3
    blur: float = 0.1
    fill: str = "telea"

    def __post_init__(self) -> None:
        super().__post_init__()
        get_fill(self.fill)
        if self.backgrounds < 0 or not 0 <= self.blur <= 1 or not (self.backgrounds or self.blur):
            raise UsageError(
                "there is no other background", where=f"{ID}: backgrounds, blur", got=(self.backgrounds, self.blur),
                allowed="backgrounds 0 or more, blur 0 to 1, not both 0",
            )  # fmt: skip


@check(
    ID,
    question="Does it find objects before any background?",
    needs=("reference", "model"),
    params=Params,
    columns=COLUMNS,
)
class ShortcutBackground:
    """One row an object and edit; ``level`` is swap, blur or removal, and with several backgrounds each is a row."""

    def forwards(self, params: Params) -> int:
        """The most forwards a case."""
        return 2 * (params.backgrounds + (params.blur > 0) + params.most_objects)

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Changes the background of all objects together, and removes each alone."""
        asker = Asker(context, case, context.params)
        chosen = asker.chosen()
        if not chosen:
            yield {"status": "not_applicable", "reason": NO_OBJECT}
            return
        params = context.params
        backgrounds = list(_backgrounds(context, case)) if params.backgrounds else []
        if len(backgrounds) < params.backgrounds:
            reason = FEW if backgrounds else NO_BANK
            yield {"factor": FACTOR, "level": "swap", "status": "not_applicable", "reason": reason}
        yield from asker.rows(_changed(asker, case, params, backgrounds))
        asker.pictured = True  # that an answer goes with its object is nothing to show
        yield from asker.fillings(
            asker.filling(number, asker.cut(number), params.fill, factor=FACTOR, level="removal") for number in chosen
        )

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """What the background decides, alone and against what the object decides."""
        rows, failed = held_rows(tables, ID)
        swapped = "the objects before backgrounds of other images"
        for level, wanted, note in (
            ("swap", params.backgrounds > 0, swapped),
            ("blur", params.blur > 0, "the objects before their own background, blurred"),
        ):
            if wanted:
                yield from effects(
                    objects(rows, FACTOR, level), failed, "suppression", factor=FACTOR,
                    level=level, better="lower", note=note, worst=1.0, absent=reason_of(tables, ID, level),
                )  # fmt: skip
        if params.backgrounds:
            yield from persistent_drops(
                objects(rows, FACTOR, "swap"), failed, params.backgrounds, factor=FACTOR, level="swap", note=swapped,
                absent=reason_of(tables, ID, "swap"),
            )  # fmt: skip
            yield _reliance(rows)
        yield from left_out(tables, ID)


def _changed(asker: Asker, case: Case, params: Params, backgrounds: Sequence[np.ndarray]) -> Iterator[Trial]:
    """All objects before each of the backgrounds and before their own, blurred; one sham serves all.

    Without a margin: it would carry a rim of the own background along, by which the model may know the object.
    """
    region = asker.union()
    sham = pasted_back(case.image, region)
    for background in backgrounds:
        yield Trial(FACTOR, "swap", composed(case.image, region, background), sham)
    if params.blur:
        yield Trial(FACTOR, "blur", blurred_background(case.image, region, params.blur * min(case.shape)), sham)


def _backgrounds(context: Context, case: Case) -> Iterator[np.ndarray]:
    """Pieces of images without an object, of other clusters where there are any; ignored regions are objects here."""
    params, rng = context.params, context.generator("backgrounds")
    listed = [ref for ref in context.listed(params.bank) if ref.id != case.id]
    listed = [ref for ref in listed if ref.cluster != case.ref.cluster] or listed
    empty = [ref for ref in listed if ref.survey.get("known_empty") == "true"]
    others = [ref for ref in listed if ref.survey.get("known_empty") != "true"]
    found, tries = 0, params.backgrounds * _TRIES
    for source in (empty, others):  # declared ones first, since they need no search
        for position in rng.permutation(len(source))[:tries]:
            if found == params.backgrounds:
                return
            tries -= 1
            background = _without_object(context, source[int(position)])
            if background is not None:
                found += 1
                yield fitted(background, case.shape, rng)


def _without_object(context: Context, ref: CaseRef) -> np.ndarray | None:
    """The image (C, H, W), or None where it shows an object or nobody has looked.

    What an entry ``backgrounds`` holds is a background by declaration, whether it has annotations or not.
    """
    entry = context.params.bank
    try:
        case = context.load(ref, entry)
    except DataError:
        return None  # it is no background; where it is audited as well, the check of the data names it
    known = case.boxes is not None or case.reference is not None or entry == "backgrounds"
    boxed = case.boxes is not None and len(case.boxes) > 0
    drawn = case.reference is not None and bool((case.reference > 0).any())
    return case.image if known and not boxed and not drawn else None


def _reliance(rows: pd.DataFrame) -> Quantity:
    """What other backgrounds take away, over what removing the object takes away; both beyond their shams."""
    swap, removal = (_sums(objects(rows, FACTOR, level)) for level in ("swap", "removal"))
    if not swap or not removal:
        return missing("context_reliance", "no object was edited both ways")
    cases, none = sorted({*swap, *removal}), (0.0, 0.0)
    sums = np.array([[*swap.get(case, none), *removal.get(case, none)] for case in cases])
    note = "suppression by other backgrounds over the effect of removal; 0 = the object alone decides"
    return Quantity(
        "context_reliance", "statistic", cases, sums, better="lower", of="object", weigh="case", function=_ratio,
        note=note,
    )  # fmt: skip


def _sums(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Case -> summed effect on being found, and number of values."""
    effect = rows.assign(effect=lost(rows)).groupby("case", sort=True)["effect"].agg(["sum", "size"])
    return {str(case): (float(total), float(size)) for case, total, size in effect.itertuples()}


def _ratio(total: np.ndarray) -> float:
    """(mean swap effect) / (mean removal effect); undefined where removal takes nothing away."""
    swap, swapped, removal, removals = total
    if swapped <= 0 or removals <= 0 or removal <= 0:
        return math.nan
    return float((swap / swapped) / (removal / removals))
