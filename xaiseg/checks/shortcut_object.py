"""Does it look at the object? Each object is removed, and the answer should go with it.

An object that the model finds is replaced by what its surroundings suggest, in several ways, since none is perfect; the
sham fills an equal region of the image's background in the same way. An answer that stays when the object is gone was
owed to something else. And the other objects of the image are watched: their confidence should stay as it is. After
arXiv:2510.03317, where removing one seal could raise a neighbour's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import missing
from xaiseg.checks.shortcut_asking import COLUMNS, NO_OBJECT, Asked, Asker, name_of
from xaiseg.checks.shortcut_attribution import attribution_lift
from xaiseg.checks.shortcut_quantities import DIFFERENCE, effects, held_rows, left_out, objects
from xaiseg.editing.fills import get_fill
from xaiseg.errors import UsageError
from xaiseg.subject import Detector, Subject

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case

ID: Final = "shortcut.object"
FACTOR: Final = "removal"
LIFT: Final = "attribution"


@dataclass(frozen=True)
class Params(Asked):
    """The fillings.

    Attributes:
        fills: what a removed object leaves behind: "mean", "blur", "telea" or fillings of your own.
        lift: whether the share of the gradient on the object is measured, where the model shows gradients.
    """

    fills: tuple[str, ...] = ("mean", "blur", "telea")
    lift: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.fills:
            get_fill(name)
        if not self.fills or len(set(self.fills)) < len(self.fills):
            allowed = "one or more, each once"
            raise UsageError("the fillings cannot be used", where=f"{ID}: fills", got=self.fills, allowed=allowed)


@check(
    ID,
    question="Does it look at the object?",
    needs=("reference", "model"),
    params=Params,
    columns=[*COLUMNS, ("lift", pa.float64())],  # share of the gradient on the object over its share of the image
)
class ShortcutObject:
    """One row an object and filling (``level``)."""

    def forwards(self, params: Params) -> int:
        """The most forwards a case."""
        return params.most_objects * (2 * len(params.fills) + params.lift)

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Removes each object in each way."""
        asker = Asker(context, case, context.params, telling="kept")
        chosen = asker.chosen()
        if not chosen:
            yield {"status": "not_applicable", "reason": NO_OBJECT}
            return
        yield from asker.fillings(
            asker.filling(number, asker.cut(number), kind, factor=FACTOR, level=kind)
            for number in chosen
            for kind in context.params.fills
        )
        if context.params.lift and _shows_gradients(context.subject):
            yield from _lifts(context, case, asker, chosen)

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """What goes with the object, and what its removal does to its neighbours."""
        rows, failed = held_rows(tables, ID)
        for kind in params.fills:
            held = objects(rows, FACTOR, kind)
            yield from effects(
                held, failed, "removal_effect", factor=FACTOR, level=kind, better="higher", worst=-1.0,
                note=f"each object removed ({kind})",
            )  # fmt: skip
            watched = held[held["neighbour"].notna()]
            if watched.empty:
                why = "no image holds two objects that are found and lie apart"
                yield missing("neighbour_effect", why, factor=FACTOR, level=kind)
                continue
            yield Quantity(
                "neighbour_effect", "mean", watched["case"].to_numpy(dtype=object),
                watched["neighbour"].to_numpy(dtype=np.float64), of="object", factor=FACTOR, level=kind, weigh="case",
                bounds=DIFFERENCE,
                note="mean confidence of the other objects that the edit leaves whole, removal minus sham",
            )  # fmt: skip
        if params.lift:
            yield _lift(rows[rows["factor"] == LIFT])
        yield from left_out(tables, ID)


def _shows_gradients(subject: Subject) -> bool:
    wanted = {"forward", "gradients", *(("raw_boxes",) if isinstance(subject, Detector) else ())}
    return wanted <= subject.info.offers


def _lifts(context: Context, case: Case, asker: Asker, chosen: Sequence[int]) -> Iterator[Row]:
    for number in chosen:
        thing = asker.things[number]
        value = attribution_lift(context.subject, case.image, thing)
        context.count(forwards=1, backwards=1)
        name = {"factor": LIFT, "level": "gradient", "object": name_of(number)}
        yield name | {"target": context.facts["classes"][thing.label], "lift": value}


def _lift(rows: pd.DataFrame) -> Quantity:
    known = rows[rows["lift"].notna()]
    if known.empty:
        return missing("attribution_lift", "the model shows no gradients of the objects that it finds")
    return Quantity(
        "attribution_lift", "mean", known["case"].to_numpy(dtype=object), known["lift"].to_numpy(dtype=np.float64),
        of="object", weigh="case", bounds=(0.0, np.inf),
        note="share of the gradient's size on the object over its share of the image; descriptive, 1 = by chance",
    )  # fmt: skip
