"""Does it ignore marks? Burnt-in text, a ruler, calipers and a border, planted on the background.

What a model has learnt to see in them appears where they are, or anywhere else, and what it takes them for a sign
against vanishes. In the sham, pixels of the image's own background from elsewhere stand exactly where the mark would.
Images without an object take part, since there a mark can only mislead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import missing
from xaiseg.checks.shortcut_asking import COLUMNS, NO_ROOM, Asked, Asker, Trial
from xaiseg.checks.shortcut_quantities import DIFFERENCE, change, effects, held_rows, left_out, objects
from xaiseg.editing.artefacts import REGISTRY, plant
from xaiseg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case

ID: Final = "shortcut.artefacts"
FACTOR: Final = "mark"


@dataclass(frozen=True)
class Params(Asked):
    """The marks.

    Attributes:
        marks: "text", "ruler", "calipers" and "border".
    """

    marks: tuple[str, ...] = ("text", "ruler", "calipers", "border")

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"{ID}: marks"
        for name in self.marks:
            if name not in REGISTRY:
                raise UsageError(f"'{name}' is not a mark", where=where, then=did_you_mean(name, REGISTRY))
        if not self.marks or len(set(self.marks)) < len(self.marks):
            allowed = "one or more, each once"
            raise UsageError("the marks cannot be planted", where=where, got=self.marks, allowed=allowed)


@check(ID, question="Does it ignore marks?", needs=("reference", "model"), params=Params, columns=COLUMNS)
class ShortcutArtefacts:
    """One row an image and mark (``level``), and one more for each object that the model finds."""

    def forwards(self, params: Params) -> int:
        """The most forwards a case."""
        return 2 * len(params.marks)

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Plants each mark once, at a place drawn by seed."""
        asker = Asker(context, case, context.params)
        value_range = tuple(context.facts["value_range"])
        yield from asker.fillings(_planted(asker, context, case, kind, value_range) for kind in context.params.marks)

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """What appears, and what vanishes."""
        rows, failed = held_rows(tables, ID)
        for kind in params.marks:
            yield from _appears(rows[(rows["level"] == kind) & (rows["object"] == "")], failed, kind)
            yield from effects(
                objects(rows, FACTOR, kind), failed, "suppression", factor=FACTOR, level=kind, better="lower",
                note=f"{kind} planted on the background", worst=1.0,
            )  # fmt: skip
        yield from left_out(tables, ID)


def _planted(asker: Asker, context: Context, case: Case, kind: str, value_range: tuple[float, float]) -> Trial | Row:
    made = plant(case.image, kind, asker.taken, context.generator(f"mark {kind}"), value_range=value_range)
    if made is None:
        return {"factor": FACTOR, "level": kind, "status": "not_applicable", "reason": NO_ROOM}
    return Trial(FACTOR, kind, made.edit, made.sham, where=made.where)


def _appears(rows: pd.DataFrame, failed: bool, kind: str) -> Iterator[Quantity]:
    if rows.empty and not failed:
        for name in ("appearance", "false_change"):
            yield missing(name, "no image has room for the mark", factor=FACTOR, level=kind)
        return
    yield change(
        rows, "appearance", "claim", factor=FACTOR, level=kind, better="lower", bounds=DIFFERENCE, worst=1.0,
        note=f"{kind}: answers where the mark is (a detector: 0 or 1, a segmenter: share of its area), minus the sham",
    )  # fmt: skip
    yield change(
        rows, "false_change", "false", factor=FACTOR, level=kind,
        note=f"{kind}: false detections an image (a segmenter: share of the image), minus the sham",
    )  # fmt: skip
