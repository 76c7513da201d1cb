"""Sidecar tables: one row a case, columns for cluster, strata, spacing and filters."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from xaiseg.data.case import SURVEY
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place
from xaiseg.errors import MissingFileError, NothingToAudit, UsageError, did_you_mean

Rows = dict[str, dict[str, str]]

#: Columns whose name says that their values are independent units, the first of them first.
#: A group is often a part of them (frames in a row), so it comes last.
CLUSTER_COLUMNS: Final = ("cluster", "patient", "patient_id", "flight", "group")
_TOO_MANY: Final = "\x00"  # no header can hold it


def read_sidecars(paths: Sequence[Path]) -> Rows:
    """Rows of CSV or Parquet files by the column ``id``; later files add columns.

    Raises:
        UsageError: a file is missing or unreadable, has no column id, or names an id twice.
    """
    merged: Rows = {}
    for path in paths:
        for id, row in _read(path).items():
            merged.setdefault(id, {}).update(row)
    return merged


def read_rows(entry: DataEntry, place: Place) -> tuple[Rows, Path]:
    """The rows of an entry's sidecars (``meta: []`` = of none), and the file or folder that messages name.

    Raises:
        UsageError: as :func:`read_sidecars`.
    """
    if entry.sidecars is None:
        meta = place.base / "meta.csv"
        return (read_sidecars([meta]), meta) if meta.is_file() else ({}, place.base)
    paths = [place.find(name) for name in entry.sidecars]
    return read_sidecars(paths), paths[0] if paths else place.base


def _read(path: Path) -> Rows:
    if not path.is_file():
        raise MissingFileError("this sidecar is missing", where=path)
    rows: Rows = {}
    for number, row in enumerate(_parquet(path) if path.suffix.lower() == ".parquet" else _csv(path), start=2):
        name = spelled("id", row)
        if name is None:
            raise UsageError("the sidecar has no column 'id'", where=path, got=", ".join(row))
        id = row.pop(name)
        if not id and not any(row.values()):
            continue  # spreadsheets leave such rows behind
        if id in rows:
            raise UsageError(f"the id '{id}' stands twice", where=f"{path}:{number}")
        rows[id] = row
    return rows


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            first = handle.readline()
            handle.seek(0)
            # A spreadsheet separates by what the language of its computer uses.
            between = next((mark for mark in ";\t" if mark in first and "," not in first), ",")
            table = csv.DictReader(handle, restkey=_TOO_MANY, delimiter=between)
            rows = []
            for row in table:
                if _TOO_MANY in row:
                    what = "this row has more fields than the header"
                    raise UsageError(what, where=f"{path}:{table.line_num}", then="Put quotes around commas")
                rows.append({key: value or "" for key, value in row.items()})
            return rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"this sidecar cannot be read ({error})", where=path, allowed="CSV in UTF-8") from error


def _parquet(path: Path) -> list[dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"this sidecar cannot be read ({error})", where=path) from error
    return [{key: text(value) for key, value in row.items()} for row in table]


def text(value: Any) -> str:
    """A value as it would stand in a CSV file.

    >>> text(True), text(None), text(3.0), text("B")
    ('true', '', '3.0', 'B')
    """
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def keep(row: Mapping[str, str], where: Mapping[str, Any]) -> bool:
    """Whether a row has all wanted values; numbers compare as numbers.

    >>> keep({"part": "test", "age": "41.0"}, {"part": "test", "age": 41})
    True
    """
    return all(_same(row.get(column, ""), wanted) for column, wanted in where.items())


def _same(held: str, wanted: Any) -> bool:
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        try:
            return float(held) == wanted
        except ValueError:
            return False
    if isinstance(wanted, bool):  # spreadsheets leave a no blank
        return TRUTH.get(held.strip().lower(), None if held.strip() else False) is wanted
    return held == text(wanted)


#: Words of spreadsheets for yes and no.
TRUTH: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def wanted_columns(entry: DataEntry) -> tuple[str, ...]:
    """The columns that an entry names."""
    spacing = (entry.spacing_mm,) if isinstance(entry.spacing_mm, str) else ()
    cluster = (entry.cluster,) if entry.cluster else ()
    return (*cluster, *entry.strata, *spacing, *entry.where)


def require_columns(entry: DataEntry, columns: Collection[str], source: object) -> None:
    """Refuses an entry that names a column which the tables do not have.

    Raises:
        UsageError: naming the column, with a hint.
    """
    for column in wanted_columns(entry):
        if column not in columns:
            hint = did_you_mean(column, columns) if columns else "There is no sidecar table; name one under meta:"
            raise UsageError(f"there is no column '{column}'", where=source, then=hint)


def chosen(
    entry: DataEntry, images: Collection[str], rows: Mapping[str, Mapping[str, str]], source: object
) -> list[str]:
    """The ids that stay, in the order of ``images``.

    Raises:
        UsageError: a row without its image, or an image whose row lacks a column that the entry needs.
        NothingToAudit: none is left.
    """
    lost = [id for id, row in rows.items() if id not in images and keep(row, entry.where)]
    if lost:
        then = "Add them (to the file of annotations, where there is one), or take their rows out"
        if all(PurePosixPath(id).suffix and str(PurePosixPath(id).with_suffix("")) in images for id in lost[:3]):
            then = "An id is the file name without its ending"
        raise UsageError("the sidecar names images that are not there", where=source, got=_few(lost), then=then)
    left = [id for id in images if id in rows and keep(rows[id], entry.where)] if entry.where else list(images)
    needed = wanted_columns(entry)
    bare = [id for id in left if any(column not in rows.get(id, {}) for column in needed)]
    if bare:
        what = f"these images have no row that gives {', '.join(dict.fromkeys(needed))}"
        raise UsageError(what, where=source, got=_few(bare))
    if not left:
        raise NothingToAudit("no image is left", where=source, got=f"where: {dict(entry.where)}")
    return left


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


def described(entry: DataEntry, id: str, row: Mapping[str, str], source: object) -> dict[str, Any]:
    """Cluster, strata, spacing and survey columns of one case, as fields of a CaseRef.

    Raises:
        UsageError: an empty cluster, a spacing that is no positive number, or a survey column with another value.
    """
    cluster = row[entry.cluster] if entry.cluster else id
    if not cluster and entry.unnamed == "one":
        cluster = f"(no {entry.cluster})"
    if not cluster:
        then = "Fill it in, name another column under cluster:, or say unnamed: one"
        raise UsageError(f"the case '{id}' has no {entry.cluster}", where=source, then=then)
    return {
        "cluster": cluster,
        "strata": {factor: row[factor] for factor in entry.strata},
        "spacing_mm": _spacing(entry, id, row, source),
        "survey": {name: _survey(name, value, id, source) for name in SURVEY if (value := _held(row, name))},
    }


def _held(row: Mapping[str, str], name: str) -> str:
    """The value of a survey column. Those that hold words are found in any case, as spreadsheets write them."""
    column = spelled(name, row) if name in WORDS else name
    return row.get(column or name, "")


def spelled(name: str, columns: Iterable[str]) -> str | None:
    """The column of a known name as the table spells it, or None.

    >>> spelled("flight", ["id", "Flight "]), spelled("flight", ["Flight", "flight"]), spelled("flight", ["id"])
    ('Flight ', 'flight', None)
    """
    found = [column for column in columns if column.strip().lower() == name]
    return name if name in found else min(found, default=None)


#: Survey columns that hold words -> the words of spreadsheets and what they mean; capital letters do not matter.
WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "known_empty": {word: text(value) for word, value in TRUTH.items()},
    "augmented": {word: text(value) for word, value in TRUTH.items()},
    "footprint": {"disjoint": "disjoint", "overlapping": "overlapping"},
}


def _survey(name: str, value: str, id: str, source: object) -> str:
    """The checked value of a survey column."""
    if name in WORDS:
        known = WORDS[name]
        if value.lower() not in known:
            what = f"the column {name} of '{id}' has another value than is known"
            raise UsageError(what, where=source, got=value, allowed=", ".join(dict.fromkeys(known.values())))
        return known[value.lower()]
    if name in ("drawn", "draws"):
        if not (value.isdecimal() and int(value) > 0):
            allowed = "a whole number above 0: how often the tile was drawn, or how many draws there were"
            raise UsageError(f"the column {name} of '{id}' is no number of draws", where=source, got=value,
                             allowed=allowed)  # fmt: skip
        return value
    try:
        chance = float(value)
    except ValueError:
        chance = math.nan
    if not 0.0 < chance <= 1.0:
        what = f"the column {name} of '{id}' is no probability"
        raise UsageError(what, where=source, got=value, allowed="above 0, at most 1: how likely the tile was drawn")
    return value


def _spacing(entry: DataEntry, id: str, row: Mapping[str, str], source: object) -> tuple[float, float] | None:
    wanted, ground = entry.spacing_mm, _ground(id, row, source)
    if wanted is None:
        return ground
    if isinstance(wanted, str):
        if not row[wanted].strip():
            return None  # not known of this one
        try:
            pair = (float(row[wanted]),) * 2
        except ValueError as error:
            raise UsageError(f"the spacing of '{id}' is no number", where=source, got=row[wanted]) from error
    else:
        pair = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if not all(0 < side < math.inf for side in pair):  # NaN too
        raise UsageError(f"the spacing of '{id}' is not positive", where=source, got=pair)
    if ground is not None and any(abs(side / ground[0] - 1) > _SAME_GROUND for side in pair):
        what = f"spacing_mm and gsd_cm of '{id}' disagree"
        raise UsageError(what, where=source, got=f"{pair[0]:g} mm and {ground[0]:g} mm a pixel", then="Correct one")
    return float(pair[0]), float(pair[1])


#: Rounded ground sample distances may differ from the spacing by this share.
_SAME_GROUND: Final = 0.05


def _ground(id: str, row: Mapping[str, str], source: object) -> tuple[float, float] | None:
    """The size of a pixel that a column gsd_cm gives, or None where it is blank.

    Raises:
        UsageError: it is no positive number.
    """
    column = spelled("gsd_cm", row)
    if column is None or not row[column].strip():
        return None
    try:
        side = 10.0 * float(row[column])
    except ValueError:
        side = math.nan
    if not 0 < side < math.inf:
        then = "Write decimals with a point" if "," in row[column] else None
        what = f"the ground sample distance of '{id}' is no size of a pixel"
        raise UsageError(what, where=source, got=row[column], allowed="centimetres, such as 1.2, or blank", then=then)
    return side, side
