"""The run directory: what lies where, written so that a kill at any moment loses at most the shard in work."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Overall, Verdict
from xaiseg.protocol import Requirement
from xaiseg.statistics.interval import Interval

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Version of the row and plan layout; part of the key of a run.
SCHEMA: Final = "xaiseg-run/1"
#: A full disk, a full quota (which Windows does not know), no permission, a read-only disk, no such place.
_NO_ROOM: Final = (
    errno.ENOSPC,
    getattr(errno, "EDQUOT", errno.ENOSPC),
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
)
ONCE: Final = "once"
ERRORS: Final = "errors"
COSTS: Final = "costs"


@dataclass(frozen=True)
class EvidenceItem:
    """What the galleries show of one case.

    Attributes:
        case: its id.
        kind: why it was kept: "worst:<check>" and/or "random".
        scores: check id -> score by which it was judged (smaller is worse).
        draw: its seeded hash; the smallest are the random cases.
        arrays: image, reference, prediction and "map:<name>" arrays.
    """

    case: str
    kind: tuple[str, ...]
    scores: Mapping[str, float]
    draw: int
    arrays: Mapping[str, np.ndarray]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and renames it to ``path`` when the block ends well.

    Raises:
        UsageError: the disk is full or not writable; what was written before stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the place itself may be what is wrong
            temporary.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise UsageError(
                f"cannot write: {error.strerror}",
                where=path,
                then="Free some space or choose another --out, then run the same command: it goes on where it stopped",
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _rename(temporary: Path, path: Path) -> None:
    """The moment at which a file comes into being; its own function so that tests can fail it."""
    temporary.replace(path)


def plain(value: Any) -> Any:
    """Turns dataclasses, enums, paths, NumPy values and NaN into plain JSON data (NaN and infinities become null)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, Verdict):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class RunDirectory:
    """Reads and writes one run; knows names and formats, decides nothing.

    Args:
        path: the directory; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def existing(cls, path: str | Path) -> RunDirectory:
        """Opens a run that was planned before.

        Raises:
            UsageError: there is no plan.json.
        """
        run = cls(path)
        if not (run.path / "plan.json").is_file():
            hint = "See `xaiseg audit --help`"
            raise UsageError("this is no run directory: it holds no plan.json", where=path, then=hint)
        return run

    # --- plain files -----------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file whole."""
        target = self.path / name
        with whole(target) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """Writes plain JSON without NaN."""
        return self.write_text(name, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the run.

        Raises:
            UsageError: it is missing or damaged.
        """
        target = self.path / name
        try:
            return json.loads(target.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            hint = "Run `xaiseg audit` again"
            raise UsageError("this file of the run is missing", where=target, then=hint) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"this file of the run is damaged ({error})", where=target) from error

    def plan(self) -> dict[str, Any]:
        """The plan, as plain data."""
        plan: dict[str, Any] = self.read_json("plan.json")
        written = plan.get("schema")
        if written != SCHEMA:
            raise UsageError("the run was written by another version", where=self.path, got=written, allowed=SCHEMA)
        return plan

    def sweep(self) -> None:
        """Removes temporary files that a kill left behind."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    # --- tables ----------------------------------------------------------------------------------------------------

    def table_path(self, name: str, shard: int | str) -> Path:
        """measurements/<check>/shard-00000.parquet, measurements/<check>/once.parquet, costs/... or errors/..."""
        part = shard if isinstance(shard, str) else f"shard-{shard:05d}"
        folder = self.path / name if name in (COSTS, ERRORS) else self.path / "measurements" / name
        return folder / f"{part}.parquet"

    def write_cases(self, table: pa.Table) -> None:
        """Writes cases.parquet."""
        _write_parquet(self.path / "cases.parquet", table)

    def write_table(self, name: str, shard: int | str, table: pa.Table) -> None:
        """Writes one table of one shard whole."""
        _write_parquet(self.table_path(name, shard), table)

    def is_done(self, shard: int | str) -> bool:
        """Costs are written last, so a shard whose costs are there is whole."""
        return self.table_path(COSTS, shard).is_file()

    def table(self, name: str) -> pd.DataFrame:
        """All rows of a check (or of "costs" or "errors"), sorted by case, so that shards and engines do not show."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = self.table_path(name, 0).parent
        parts = [pq.read_table(path, partitioning=None) for path in sorted(folder.glob("*.parquet"))]
        if not parts:
            raise UsageError(f"the run holds no rows of '{name}'", where=self.path, then="Run `xaiseg audit` again")
        frame: pd.DataFrame = pa.concat_tables(parts, promote_options="default").to_pandas()
        keys = [key for key in ("case", "object", "subject", "target", "factor", "level") if key in frame.columns]
        return frame.sort_values(keys, kind="stable", ignore_index=True) if keys else frame

    def has_table(self, name: str) -> bool:
        """Whether any shard of this table was written."""
        return any(self.table_path(name, 0).parent.glob("*.parquet"))

    def cases(self) -> pd.DataFrame:
        """One row a case: case, cluster, shard, strata and inclusion probabilities ``p:<check>``."""
        import pandas as pd

        return pd.read_parquet(self.path / "cases.parquet")

    def errors(self) -> list[dict[str, str]]:
        """Failed images and crashed checks: dicts with case, check, kind, reason, traceback."""
        rows: list[dict[str, Any]] = []
        if self.has_table(ERRORS):
            rows = [{str(key): value for key, value in row.items()} for row in self.table(ERRORS).to_dict("records")]
        later = self.read_json("crashed.json") if (self.path / "crashed.json").is_file() else {}
        noted = {row["check"] for row in rows}
        return rows + [
            {"case": "", "check": check, "kind": "crashed", "reason": reason, "traceback": ""}
            for check, reason in later.items()
            if check not in noted
        ]

    # --- evidence --------------------------------------------------------------------------------------------------

    def write_evidence(self, shard: int, items: Sequence[EvidenceItem]) -> None:
        """Writes the shard's gallery cases: one npz a case and an index."""
        folder = self.path / "evidence" / f"shard-{shard:05d}"
        index = []
        for number, item in enumerate(items):
            with whole(folder / f"{number}.npz") as temporary, temporary.open("wb") as handle:
                np.savez_compressed(handle, allow_pickle=False, **dict(item.arrays))
            index.append({"case": item.case, "scores": item.scores, "draw": item.draw, "file": number})
        with whole(folder / "index.json") as temporary:
            temporary.write_text(json.dumps(plain(index)), encoding="utf-8")

    def evidence(self, *, worst: int = 6, random: int = 6) -> list[EvidenceItem]:
        """The global worst cases of each check and the randomly drawn ones, from the shards' candidates."""
        entries: list[dict[str, Any]] = []
        for path in sorted((self.path / "evidence").glob("shard-*/index.json")):
            entries += [entry | {"folder": path.parent} for entry in json.loads(path.read_text(encoding="utf-8"))]
        kinds = chosen_kinds(
            [(entry["case"], entry["scores"], entry["draw"]) for entry in entries], worst=worst, random=random
        )
        items = []
        for entry in entries:
            if entry["case"] in kinds:
                with np.load(entry["folder"] / f"{entry['file']}.npz", allow_pickle=False) as arrays:
                    held = {name: arrays[name] for name in arrays.files}
                kind = tuple(sorted(kinds[entry["case"]]))
                items.append(EvidenceItem(entry["case"], kind, entry["scores"], entry["draw"], held))
        return items

    # --- results ---------------------------------------------------------------------------------------------------

    def save_estimates(self, estimates: Sequence[Estimate]) -> None:
        """Writes estimates.json."""
        self.write_json("estimates.json", list(estimates))

    def estimates(self) -> list[Estimate]:
        """Reads estimates.json."""
        return [_estimate(row) for row in self.read_json("estimates.json")]

    def save_findings(self, findings: Sequence[Finding], overall: Overall) -> None:
        """Writes findings.json."""
        self.write_json("findings.json", {"findings": list(findings), "overall": overall})

    def findings(self) -> tuple[list[Finding], Overall]:
        """Reads findings.json."""
        document = self.read_json("findings.json")
        overall = document["overall"] | {"verdict": Verdict(document["overall"]["verdict"])}
        overall["caveats"] = tuple(overall["caveats"])
        return [_finding(row) for row in document["findings"]], Overall(**overall)


def chosen_kinds(
    candidates: Iterable[tuple[str, Mapping[str, float], int]], *, worst: int, random: int
) -> dict[str, list[str]]:
    """Which cases a gallery shows and why.

    Args:
        candidates: (case, {check: score, smaller is worse}, seeded hash) of each case.
        worst: how many of the lowest scores of each check.
        random: how many of the smallest hashes.

    Returns:
        case -> ["worst:<check>", ..., "random"]; what it chooses overall lies in the union of what it chooses by shard.

    >>> chosen_kinds([("a", {"x": 0.1}, 9), ("b", {"x": 0.7}, 3), ("c", {"x": 0.4}, 5)], worst=1, random=1)
    {'a': ['worst:x'], 'b': ['random']}
    """
    listed = list(candidates)
    kinds: dict[str, list[str]] = {}
    for check in sorted({check for _, scores, _ in listed for check in scores}):
        scored = sorted((scores[check], case) for case, scores, _ in listed if check in scores)
        for _, case in scored[:worst]:
            kinds.setdefault(case, []).append(f"worst:{check}")
    for _, case in sorted((draw, case) for case, _, draw in listed)[:random]:
        kinds.setdefault(case, []).append("random")
    return kinds


def _write_parquet(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _interval(row: Mapping[str, Any] | None) -> Interval | None:
    return None if row is None else Interval(**row)


def _estimate(row: Mapping[str, Any]) -> Estimate:
    values = dict(row)
    for name in ("interval", "detail", "dropped"):
        values[name] = _interval(values[name])
    values["holm"] = tuple((int(k), lower, upper) for k, lower, upper in values["holm"])
    return Estimate(**values)


def _finding(row: Mapping[str, Any]) -> Finding:
    values = dict(row)
    requirement = dict(values["requirement"])
    requirement["maps_to"] = {key: tuple(items) for key, items in requirement["maps_to"].items()}
    values["requirement"] = Requirement(**requirement)
    values["verdict"] = Verdict(values["verdict"])
    for name in ("members", "failing"):
        values[name] = tuple(values[name])
    return Finding(**values)
