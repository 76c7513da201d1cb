"""Are the data sound? Failed images, duplicates, labels, and test cases that the model may have been trained on.

A leak is looked for three ways: the same file (SHA-256), the same decoded pixels, and the same declared patient in
both lists. Near-duplicates (difference hash) are hints to look at, never proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, fact, failed_cases, missing, reference_rows
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case, CaseRef, Dataset

ID: Final = "data.integrity"
_SHOWN: Final = 3


@dataclass(frozen=True)
class Params:
    """What counts as nearly the same picture.

    Attributes:
        near_bits: pictures are near-duplicates when at most this many of the 64 bits of their difference hashes differ.
    """

    near_bits: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.near_bits <= 64:
            raise UsageError("out of range", where=f"{ID}: near_bits", got=self.near_bits, allowed="0 to 64")


@check(
    ID,
    question="Are the data sound?",
    params=Params,
    columns=[
        ("entry", pa.string()),
        ("name", pa.string()),
        ("cluster", pa.string()),
        ("file_sha256", pa.string()),
        ("pixel_sha256", pa.string()),
        ("dhash", pa.string()),
        ("constant", pa.bool_()),
        ("empty_reference", pa.bool_()),
        ("labels", pa.list_(pa.int64())),
    ],
)
class DataIntegrity:
    """One row a test case, and one a case of the train list (``entry`` = "train", ``case`` empty)."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Fingerprints of the picture and the label values of its reference."""
        row: Row = {"entry": "test", "name": case.id, "cluster": case.ref.cluster, **_fingerprints(case.ref, case)}
        if case.reference is not None:
            present = np.flatnonzero(np.bincount(case.reference.ravel(), minlength=256))
            labels = [int(value) for value in present if value != masks.IGNORE]
            row |= {"labels": labels, "empty_reference": not any(labels)}
        elif case.boxes is not None:  # of a detector, where class 0 is an object
            labels = sorted({int(value) for value in case.boxes[:, 4] if value != masks.IGNORE})
            row |= {"labels": labels, "empty_reference": not labels}
        yield row

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """Fingerprints of the train list; pictures are decoded, nothing is predicted."""
        train = datasets.get("train")
        for ref in train.cases if train else ():
            declared = train is not None and train.cluster_column is not None
            row: Row = {"entry": "train", "name": ref.id, "cluster": ref.cluster if declared else None}
            try:
                row |= _fingerprints(ref, context.load(ref, "train"))
            except DataError as error:
                # The file can still be compared byte by byte; its failure is no failure of the audited cases.
                row |= {"file_sha256": _file_hash(ref), "status": "undefined", "reason": str(error)}
            yield row

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Counts of this data set; only the share of failed images has an interval."""
        table = tables.rows[ID]
        yield _failed_images(table)
        yield from _unmatched(tables.facts.get("unmatched"))
        test = reference_rows(table)
        test = test[test["entry"] == "test"]
        yield from _labels(test, len(tables.facts["classes"]))
        yield from _duplicates(test, params.near_bits)
        yield from _overlap(tables, table, test, params.near_bits)


def _fingerprints(ref: CaseRef, case: Case) -> Row:
    from xaiseg.data.hashing import dhash

    image = np.ascontiguousarray(case.image)
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.tobytes())
    constant = bool(image.min() == image.max())
    return {
        "file_sha256": _file_hash(ref),
        "pixel_sha256": digest.hexdigest(),
        "dhash": None if constant else f"{int(dhash(image)):016x}",
        "constant": constant,
    }


def _file_hash(ref: CaseRef) -> str | None:
    """Digest of the file that holds the picture; None where there is none (phantoms)."""
    return _path_hash(ref.image) if Path(ref.image).is_file() else None


@lru_cache(maxsize=8)
def _path_hash(path: str) -> str:
    # Cached because the slices of a volume, which follow one another, share one large file.
    from xaiseg.data.hashing import file_sha256

    return str(file_sha256(Path(path)))


def _failed_images(table: pd.DataFrame) -> Quantity:
    cases = np.array(sorted(set(table.loc[table["case"] != "", "case"])), dtype=object)
    failed = np.isin(cases, np.array(failed_cases(table), dtype=object)).astype(np.float64)
    return Quantity(
        "failed_images", "proportion", cases, failed,
        better="lower", weigh="case", bounds=UNIT_RANGE,
        note="images that could not be read, do not fit their mask or could not be predicted",
    )  # fmt: skip


def _unmatched(files: Mapping[str, Any] | None) -> Iterator[Quantity]:
    """How many files of the data belong to no case, where the reader looked for any."""
    if files is not None:
        first, count = files["first"], files["count"]
        more = f" and {count - len(first)} more" if count > len(first) else ""
        note = "images that the annotations do not list, or annotations without an image"
        named = f": {', '.join(first)}{more}" if first else ""
        yield fact("unmatched_files", count, of="file", note=note + named)


def _labels(test: pd.DataFrame, n_classes: int) -> Iterator[Quantity]:
    constant = test.loc[test["constant"].eq(True), "case"]
    yield fact("constant_images", len(constant), better="lower", of="image", note=_named(constant))
    annotated = test[test["labels"].notna()]
    empty = annotated.loc[annotated["empty_reference"].eq(True), "case"]
    note = "references without any foreground pixel or box; each must be a confirmed negative"
    yield fact("empty_references", len(empty), of="image", note=note)
    yield fact(
        "all_empty_references", float(len(annotated) > 0 and len(empty) == len(annotated)), better="lower",
        note="1 = no reference holds any foreground, so nothing can be found",
    )  # fmt: skip
    outside = annotated.loc[[any(value >= n_classes for value in labels) for labels in annotated["labels"]], "case"]
    yield fact("unexpected_labels", len(outside), better="lower", of="image", note=_named(outside))


def _duplicates(test: pd.DataFrame, near_bits: int) -> Iterator[Quantity]:
    groups = [names.tolist() for _, names in test.groupby("pixel_sha256", sort=True)["case"] if len(names) > 1]
    copies = [f"{group[0]} = {copy}" for group in groups for copy in group[1:]]
    yield fact("duplicates", len(copies), better="lower", of="image", note=_named(copies))
    near = test[test["dhash"].notna()].drop_duplicates("pixel_sha256")
    hashes = _as_bytes(near["dhash"])
    pairs = [(a, b) for a, b in near_pairs(hashes, hashes, near_bits) if a < b]
    cases, clusters = near["case"].to_numpy(), near["cluster"].to_numpy()
    across = sum(clusters[a] != clusters[b] for a, b in pairs)
    named = _named([f"{cases[a]} ~ {cases[b]}" for a, b in pairs])
    yield fact(
        "near_duplicates", len({index for pair in pairs for index in pair}), of="image",
        note=f"{across} of {len(pairs)} pairs lie in different clusters{'; ' + named if named else ''}",
    )  # fmt: skip


def _overlap(tables: Tables, table: pd.DataFrame, test: pd.DataFrame, near_bits: int) -> Iterator[Quantity]:
    train = table[table["entry"] == "train"]
    if train.empty:
        for metric in ("overlap_train_test", "near_overlap_train_test"):
            yield missing(metric, "model.yaml names no train list")
        return
    blind = train[train["file_sha256"].isna() & train["pixel_sha256"].isna()]
    leaked = sorted(_leaked(tables, train, test))
    if blind.empty or leaked:
        note = _named(leaked) or f"same file, same pixels or same declared cluster, against {len(train)} train cases"
        yield fact("overlap_train_test", len(leaked), better="lower", of="image", note=note)
    else:
        yield missing("overlap_train_test", f"{len(blind)} train images could not be read: {_named(blind['name'])}")
    near_train, near_test = train[train["dhash"].notna()], test[test["dhash"].notna()]
    pairs = near_pairs(_as_bytes(near_test["dhash"]), _as_bytes(near_train["dhash"]), near_bits)
    close = sorted({near_test["case"].iloc[a] for a, _ in pairs} - set(leaked))
    yield fact("near_overlap_train_test", len(close), better="lower", of="image", note=_named(close))


def _leaked(tables: Tables, train: pd.DataFrame, test: pd.DataFrame) -> set[str]:
    """Test cases with the file, the pixels or the declared cluster of a train case; failed ones by cluster alone."""
    leaked: set[str] = set()
    for column in ("file_sha256", "pixel_sha256"):
        known = set(train[column].dropna())
        leaked |= set(test.loc[test[column].isin(known), "case"])
    if tables.facts.get("cluster_declared"):
        known = set(train["cluster"].dropna()) - {""}
        leaked |= set(tables.cases.loc[tables.cases["cluster"].isin(known), "case"])
    return leaked


def near_pairs(first: np.ndarray, second: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Pairs of hashes that differ in at most ``bits`` bits.

    Args:
        first: (n, 8) uint8 hashes.
        second: (m, 8) uint8 hashes.
        bits: in 0..64.

    >>> near_pairs(np.zeros((1, 8), np.uint8), np.array([[0] * 7 + [3]], np.uint8), 2)
    [(0, 0)]
    """
    ones = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)
    pairs = []
    for index, one in enumerate(first):
        distance = ones[second ^ one].sum(axis=1, dtype=np.uint8)
        pairs += [(index, int(other)) for other in np.flatnonzero(distance <= bits)]
    return pairs


def _as_bytes(hashes: pd.Series[str]) -> np.ndarray:
    return np.frombuffer(b"".join(bytes.fromhex(value) for value in hashes), dtype=np.uint8).reshape(-1, 8)


def _named(names: Iterable[str]) -> str:
    """The first few names; empty without any."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}" if listed else ""
