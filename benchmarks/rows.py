"""A benchmark row, timed side by side with its peer, and the file that keeps the rows."""

from __future__ import annotations

import json
import operator
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
SENSES = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Row:
    """One comparison. ``ratio`` is ours / peer in seconds unless ``unit`` says otherwise; ``goal`` bounds it."""

    bench: str
    command: str
    ours: float
    peer: float
    peer_version: str
    settings: str
    unit: str
    ratio: float
    goal: str
    holds: bool
    same_result: float | str
    runs: int


def meets(ratio: float, goal: str) -> bool:
    """Whether a ratio meets a goal such as "<= 1.25"."""
    sense, bound = goal.split()
    return SENSES[sense](ratio, float(bound))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def side_by_side(
    bench: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    peer_version: str,
    settings: str,
    goal: str,
    same_result: float | str,
    runs: int = 5,
    inverse: bool = False,
) -> Row:
    """Times both in turn, ours first and peer first alternately, after one warm-up each.

    The ratio is the median over runs of ours / peer (or peer / ours with ``inverse``: how many times faster we are).
    """
    ours(), peer()
    pairs = []
    for run in range(runs):
        if run % 2:
            b = seconds(peer)
            a = seconds(ours)
        else:
            a = seconds(ours)
            b = seconds(peer)
        pairs.append((a, b))
    ratio = statistics.median(b / a if inverse else a / b for a, b in pairs)
    return Row(
        bench=bench,
        command="make bench",
        ours=round(statistics.median(a for a, _ in pairs), 4),
        peer=round(statistics.median(b for _, b in pairs), 4),
        peer_version=peer_version,
        settings=settings,
        unit="s; ratio = peer / ours" if inverse else "s; ratio = ours / peer",
        ratio=round(ratio, 3),
        goal=goal,
        holds=meets(ratio, goal),
        same_result=same_result,
        runs=runs,
    )


def save(rows: list[Row]) -> None:
    """Writes results.json; rows of benches that did not run this time are kept."""
    held = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
    fresh = {row.bench for row in rows}
    kept = [row for row in held if row["bench"] not in fresh]
    ordered = sorted([*kept, *(asdict(row) for row in rows)], key=lambda row: row["bench"])
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
