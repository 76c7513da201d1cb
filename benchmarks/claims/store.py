"""The rows of all runs in one Parquet file, and the facts of each run beside it; both are committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

FOLDER: Final = Path(__file__).parent
ROWS: Final = FOLDER / "results.parquet"
FACTS: Final = FOLDER / "runs.json"

_BINS = {
    f"{name}_{part}": pa.list_(pa.float32() if part == "sum_p" else pa.int32())
    for name in ("raw", "scaled")
    for part in ("count", "sum_p", "sum_y")
}
SCHEMA: Final = pa.schema(
    {name: pa.string() for name in ("run", "id", "cluster")}
    | {name: pa.float32() for name in ("dice", "iou", "precision", "recall", "specificity")}
    | _BINS
)


@dataclass(frozen=True)
class Results:
    """Everything measured so far.

    Attributes:
        rows: one a run and test image, columns of :data:`SCHEMA`.
        facts: one a run.
    """

    rows: pa.Table
    facts: list[dict[str, Any]]

    @property
    def scores(self) -> dict[str, float]:
        """Validation score by run."""
        return {fact["run"]: fact["selection"] for fact in self.facts}


def load() -> Results:
    """What is stored; nothing at first."""
    if not FACTS.is_file():
        return Results(SCHEMA.empty_table(), [])
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    known = pa.array([fact["run"] for fact in facts])
    rows = pq.read_table(ROWS)
    return Results(rows.filter(pa.compute.is_in(rows["run"], known)), facts)


def add(facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Adds a run; the rows are whole before the facts name it, so an interruption loses at most this run."""
    held = load()
    table = pa.Table.from_pylist([{"run": facts["run"], **row} for row in rows], schema=SCHEMA)
    pq.write_table(
        pa.concat_tables([held.rows, table]), ROWS.with_suffix(".tmp"), compression="zstd", compression_level=9
    )
    ROWS.with_suffix(".tmp").replace(ROWS)
    FACTS.with_suffix(".tmp").write_text(json.dumps([*held.facts, facts], indent=1) + "\n", encoding="utf-8")
    FACTS.with_suffix(".tmp").replace(FACTS)
