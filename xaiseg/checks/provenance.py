"""Can it be redone? What was audited, with what, where: names and digests, listed as they are.

The plan collects the items while it resolves model, protocol and data; this check writes them down and says which are
unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import fact, missing

if TYPE_CHECKING:
    from xaiseg.data.case import Dataset

ID: Final = "provenance"
#: How a plan writes what it could not find out.
_UNKNOWN: Final = (None, "", "None")


@check(
    ID,
    question="Can it be redone?",
    columns=[("item", pa.string()), ("value", pa.string())],
)
class Provenance:
    """One row an item; ``value`` is null where the item is unknown."""

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """The plan's items, in its order; the plan names what it looked for in vain too."""
        for item, value in context.facts.get("provenance", {}).items():
            yield {"item": item, "value": None if value in _UNKNOWN else str(value)}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """The share of the listed items that are known."""
        rows = tables.ok(ID)
        if rows.empty:
            yield missing("provenance_complete", "the plan lists no provenance")
            return
        unknown = sorted(rows.loc[rows["value"].isna(), "item"])
        note = f"unknown: {', '.join(unknown)}" if unknown else f"all {len(rows)} items are known"
        yield fact("provenance_complete", 1.0 - len(unknown) / len(rows), better="higher", note=note)
