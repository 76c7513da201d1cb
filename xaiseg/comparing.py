"""Two audits side by side: which verdicts changed, which numbers moved, and whether they moved beyond their intervals.

Reads audit.json documents alone. The interval of a difference comes from the two intervals by MOVER (Zou and Donner
2008, Statistics in Medicine 27:1693). Where both audits used the same cases the two estimates go together, so that
this interval is wider than a paired one would be: what it calls moved has moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from xaiseg.errors import UsageError

SCHEMA: Final = "xaiseg-audit/1"
#: From best to worst; a step to the right is a change for the worse.
_ORDER: Final = ("PASS", "NOT APPLICABLE", "MEASURED", "INSUFFICIENT EVIDENCE", "NOT RUN", "ERROR", "FAIL")

Direction = Literal["better", "worse", "changed", "new", "gone"]


@dataclass(frozen=True)
class FindingChange:
    """A requirement whose verdict is not what it was.

    Attributes:
        id: of the requirement.
        sentence: the requirement in English.
        severity: gate, warn or info, as in the newer audit.
        before, after: verdicts, or "" where the audit does not have the requirement.
        direction: better, worse, new, gone; "changed" where the bound is another one.
    """

    id: str
    sentence: str
    severity: str
    before: str
    after: str
    direction: Direction


@dataclass(frozen=True)
class EstimateMove:
    """A number that both audits hold.

    Attributes:
        id: of the estimate.
        before, after: values, None where undefined.
        before_interval, after_interval: (lower, upper), or None.
        difference: after - before, or None.
        interval: (lower, upper) of the difference at the same level, or None.
        moved: the interval of the difference excludes 0; for a fact, the value is another one. None = cannot tell.
        direction: better or worse by the metric's good direction, "changed" where it has none, "" where not moved.
        unit: unit of the values.
    """

    id: str
    before: float | None
    after: float | None
    before_interval: tuple[float, float] | None
    after_interval: tuple[float, float] | None
    difference: float | None
    interval: tuple[float, float] | None
    moved: bool | None
    direction: Literal["better", "worse", "changed", ""]
    unit: str = ""


@dataclass(frozen=True)
class Comparison:
    """What changed from one audit to the next.

    Attributes:
        sentence: the change in one sentence.
        before, after: headline of each audit.
        findings: requirements whose verdict changed, the worst first.
        estimates: every number that both audits hold, those that moved first.
        only_before, only_after: ids of estimates that one of them lacks.
        notes: why the two may not be comparable (other protocol, data, seed), and what is the same.
    """

    sentence: str
    before: str
    after: str
    findings: tuple[FindingChange, ...]
    estimates: tuple[EstimateMove, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    notes: tuple[str, ...]


def compare(audit_a: Mapping[str, Any], audit_b: Mapping[str, Any]) -> Comparison:
    """Compares a former audit with a newer one.

    Args:
        audit_a: the former audit.json document.
        audit_b: the newer one.

    Raises:
        UsageError: a document is not an audit of this version.
    """
    for name, document in (("the former audit", audit_a), ("the newer audit", audit_b)):
        if document.get("schema") != SCHEMA:
            raise UsageError(f"{name} is of another version", got=document.get("schema"), allowed=SCHEMA)
    held_a = {row["id"]: row for row in audit_a["estimates"]}
    held_b = {row["id"]: row for row in audit_b["estimates"]}
    moves = [_move(held_a[id], held_b[id]) for id in held_a if id in held_b]
    changes = _finding_changes(audit_a["findings"], audit_b["findings"])
    before, after = audit_a["overall"]["headline"], audit_b["overall"]["headline"]
    return Comparison(
        sentence=_sentence(before, after, changes, moves),
        before=before,
        after=after,
        findings=tuple(changes),
        estimates=tuple(sorted(moves, key=_first_what_moved)),
        only_before=tuple(id for id in held_a if id not in held_b),
        only_after=tuple(id for id in held_b if id not in held_a),
        notes=tuple(_notes(audit_a, audit_b)),
    )


def comparison_text(comparison: Comparison) -> str:
    """The comparison as plain text for a terminal; unmoved numbers are counted, not listed."""
    lines = [comparison.sentence, *(f"note: {note}" for note in comparison.notes)]
    if comparison.findings:
        lines += ["", "Verdicts that changed:"]
        lines += [
            f"  {change.direction:<8}{change.before or 'absent'} > {change.after or 'absent'}  {change.sentence}"
            for change in comparison.findings
        ]
    moved = [move for move in comparison.estimates if move.moved]
    if moved:
        lines += ["", "Numbers that moved beyond their intervals:"]
        lines += [f"  {move.direction:<8}{move.id}: {_moved_text(move)}" for move in moved]
    within = sum(move.moved is False for move in comparison.estimates)
    unknown = sum(move.moved is None for move in comparison.estimates)
    lines += ["", f"{within} numbers did not move beyond their intervals; for {unknown} this cannot be told."]
    for words, ids in (("the former", comparison.only_before), ("the newer", comparison.only_after)):
        if ids:
            lines.append(f"Only {words} audit holds: {', '.join(ids)}")
    return "\n".join(lines)


def difference_interval(
    before: float, before_interval: tuple[float, float], after: float, after_interval: tuple[float, float]
) -> tuple[float, float]:
    """Interval of after - before from the intervals of both (MOVER), for independent estimates.

    >>> [round(end, 3) for end in difference_interval(0.5, (0.4, 0.6), 0.8, (0.75, 0.85))]
    [0.188, 0.412]
    """
    difference = after - before
    down = math.hypot(after - after_interval[0], before_interval[1] - before)
    up = math.hypot(after_interval[1] - after, before - before_interval[0])
    return difference - down, difference + up


def _move(row_a: Mapping[str, Any], row_b: Mapping[str, Any]) -> EstimateMove:
    before, after = row_a["value"], row_b["value"]
    ends_a, ends_b = _ends(row_a), _ends(row_b)
    difference = None if before is None or after is None else after - before
    interval, moved = None, None
    if row_a["kind"] == row_b["kind"] == "fact" and difference is not None:
        moved = difference != 0
    elif difference is not None and ends_a and ends_b and _level(row_a) == _level(row_b):
        interval = difference_interval(before, ends_a, after, ends_b)
        moved = interval[0] > 0 or interval[1] < 0
    return EstimateMove(
        id=row_b["id"],
        before=before,
        after=after,
        before_interval=ends_a,
        after_interval=ends_b,
        difference=difference,
        interval=interval,
        moved=moved,
        direction=_direction(row_b.get("better", ""), difference) if moved and difference is not None else "",
        unit=row_b.get("unit", ""),
    )


def _ends(row: Mapping[str, Any]) -> tuple[float, float] | None:
    interval = row.get("interval")
    if interval is None or interval["lower"] is None or interval["upper"] is None:
        return None
    return interval["lower"], interval["upper"]


def _level(row: Mapping[str, Any]) -> float:
    return round(float(row["interval"]["alpha"]), 9)


def _direction(better: str, difference: float) -> Literal["better", "worse", "changed"]:
    if better not in ("higher", "lower"):
        return "changed"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def _first_what_moved(move: EstimateMove) -> tuple[int, str]:
    order = {"worse": 0, "better": 1, "changed": 2}
    return order.get(move.direction, 3 if move.moved is None else 4), move.id


def _finding_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[FindingChange]:
    held_a, held_b = {row["id"]: row for row in old}, {row["id"]: row for row in new}
    changes = []
    for id in {**held_b, **held_a}:
        row_a, row_b = held_a.get(id), held_b.get(id)
        before, after = (row["verdict"] if row else "" for row in (row_a, row_b))
        moved_bound = row_a is not None and row_b is not None and _bound(row_a) != _bound(row_b)
        if before != after or moved_bound:
            row = row_b or row_a or {}
            direction = "changed" if moved_bound else _step(before, after)
            changes.append(FindingChange(id, row["sentence"], row["severity"], before, after, direction))
    order = ("worse", "gone", "changed", "new", "better")
    return sorted(changes, key=lambda change: (change.severity != "gate", order.index(change.direction), change.id))


def _bound(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["requirement"]["sense"], row["requirement"]["bound"]


def _step(before: str, after: str) -> Direction:
    if not before:
        return "new"
    if not after:
        return "gone"
    return "worse" if _ORDER.index(after) > _ORDER.index(before) else "better"


def _notes(audit_a: Mapping[str, Any], audit_b: Mapping[str, Any]) -> list[str]:
    digests = [
        (audit["protocol"]["sha256"], _lists(audit), audit["model"].get("weights_sha256"))
        for audit in (audit_a, audit_b)
    ]
    (protocol_a, data_a, weights_a), (protocol_b, data_b, weights_b) = digests
    notes = []
    if protocol_a != protocol_b:
        notes.append("the protocols differ, so bounds and parameters may not be the same")
    if data_a != data_b:
        notes.append("the audited cases differ (images, clusters, strata or --limit)")
    else:
        notes.append("both audited the same cases; the intervals of differences ignore the pairing and are wide")
    if weights_a == weights_b and weights_a is not None:
        notes.append("both audited the same weights")
    return notes


def _lists(audit: Mapping[str, Any]) -> Any:
    """What decides which cases were audited: the list, and with ``--limit`` how many clusters by which seed."""
    data, run = audit["data"], audit.get("run") or {}
    listed = data.get("list_sha256") or (data.get("test") or {}).get("list_sha256")
    return listed, run.get("limit"), None if run.get("limit") is None else run.get("seed")


def _sentence(before: str, after: str, changes: Sequence[FindingChange], moves: Sequence[EstimateMove]) -> str:
    verdict = f"The verdict stays {after}" if before == after else f"The verdict changed from {before} to {after}"
    worse = sum(change.direction == "worse" for change in changes)
    better = sum(change.direction == "better" for change in changes)
    moved = [sum(move.direction == way for move in moves) for way in ("worse", "better", "changed")]
    numbers = f"{moved[0]} numbers moved for the worse, {moved[1]} for the better"
    numbers += f", {moved[2]} without a good direction" if moved[2] else ""
    return f"{verdict}; {worse} requirements read worse and {better} better; {numbers}."


def _moved_text(move: EstimateMove) -> str:
    unit = f" {move.unit}" if move.unit else ""
    text = (
        f"{_number(move.before)}{_span(move.before_interval)} > {_number(move.after)}{_span(move.after_interval)}{unit}"
    )
    difference = move.difference or 0.0
    return f"{text}, difference {difference:+.4g}{_span(move.interval)}"


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
