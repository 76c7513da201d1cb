"""Does it find objects wherever they lie? Objects at the edge of the image, and objects that are partly hidden.

The image is moved until an object touches its nearest edge; the sham moves it as far in another direction, so that it
mirrors and loses as much and leaves the object inside. And a part of the object is filled in from each of four sides;
the sham fills an equal region of the background in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.shortcut_asking import COLUMNS, NO_OBJECT, Asked, Asker, Trial, name_of
from xaiseg.checks.shortcut_quantities import effects, held_rows, left_out, objects
from xaiseg.editing.fills import get_fill
from xaiseg.editing.places import SIDES, Side, edge_shifts, hidden_part, shifted
from xaiseg.editing.regions import widened
from xaiseg.errors import UsageError

if TYPE_CHECKING:
    from xaiseg.data.case import Case

ID: Final = "shortcut.position"
EDGE: Final = "place"
HIDDEN: Final = "hidden"
NO_WAY: Final = "objects that touch an edge, or lie where no equal shift keeps them inside"


@dataclass(frozen=True)
class Params(Asked):
    """Places and parts.

    Attributes:
        most_objects: as for all shortcut checks.
        edge: whether objects are moved to the edge.
        hidden: shares of the object that are hidden, from each of the four sides; () = none.
        fill: what hides it: "mean", "blur", "telea" or a filling of your own.
    """

    most_objects: int = 1
    edge: bool = True
    hidden: tuple[float, ...] = (0.25, 0.5, 0.75)
    fill: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        get_fill(self.fill)
        wrong = not all(0 < share < 1 for share in self.hidden) or len(set(self.hidden)) < len(self.hidden)
        if wrong or not (self.edge or self.hidden):
            raise UsageError(
                "these parts cannot be hidden", where=f"{ID}: hidden", got=self.hidden,
                allowed="shares above 0 and below 1, each once; none only with edge: true",
            )  # fmt: skip


@check(
    ID,
    question="Does it find objects wherever they lie?",
    needs=("reference", "model"),
    params=Params,
    columns=COLUMNS,
)
class ShortcutPosition:
    """One row an object and edit; ``level`` is edge, or the hidden share and the side."""

    def forwards(self, params: Params) -> int:
        """The most forwards a case."""
        return 2 * params.most_objects * (params.edge + len(SIDES) * len(params.hidden))

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Moves each object to the edge, and hides it from each side."""
        asker, params = Asker(context, case, context.params), context.params
        chosen = asker.chosen()
        if not chosen:
            yield {"status": "not_applicable", "reason": NO_OBJECT}
            return
        if params.edge:
            yield from asker.fillings(_at_edge(asker, case, number) for number in chosen)
        parts = product(chosen, params.hidden, SIDES)
        yield from asker.fillings(_hidden(asker, number, share, side, params.fill) for number, share, side in parts)

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """What the edge costs, and each hidden share over its four sides together."""
        rows, failed = held_rows(tables, ID)
        if params.edge:
            note = "the object moved to the nearest edge"
            yield from effects(
                objects(rows, EDGE, "edge"), failed, "edge_loss", factor=EDGE, level="edge", better="lower", note=note,
                worst=1.0,
            )  # fmt: skip
        for share in params.hidden:
            level = f"{100 * share:g} %"
            held = rows[(rows["factor"] == HIDDEN) & rows["level"].str.startswith(f"{level} from")]
            note = f"{level} of the object filled in ({params.fill}), from four sides"
            yield from effects(
                held, failed, "hidden_loss", factor=HIDDEN, level=level, better="", note=note, worst=None
            )
        yield from left_out(tables, ID)


def _at_edge(asker: Asker, case: Case, number: int) -> Trial | Row:
    shifts = edge_shifts(asker.things[number].region)
    if shifts is None:
        return {
            "factor": EDGE, "level": "edge", "object": name_of(number), "status": "not_applicable", "reason": NO_WAY
        }  # fmt: skip
    edit, sham = (shifted(case.image, *shift) for shift in shifts)
    there, elsewhere = (tuple(thing.at(*shift) for thing in asker.things) for shift in shifts)
    return Trial(EDGE, "edge", edit, sham, number, edit_things=there, sham_things=elsewhere)


def _covered(asker: Asker, number: int, side: Side, share: float) -> np.ndarray:
    """(H, W) bool: the hidden part with its margin, without the part that stays visible."""
    region = asker.things[number].region
    part = hidden_part(region, side, share)
    return np.asarray(widened(part, asker.params.margin_px) & ~(region & ~part))


def _hidden(asker: Asker, number: int, share: float, side: Side, kind: str) -> Trial | Row:
    level = f"{100 * share:g} % from the {side}"
    return asker.filling(number, _covered(asker, number, side, share), kind, factor=HIDDEN, level=level, hidden=True)
