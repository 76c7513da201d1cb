"""A context, cases and tables for checks under test, without engine, files or model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from xaiseg.checks.base import Quantity, Row, Tables, get_check
from xaiseg.data.case import Case, CaseRef
from xaiseg.seeds import generator
from xaiseg.subject import Boxes, Prediction

FACTS: Mapping[str, Any] = {
    "classes": ["background", "lesion"],
    "lesion_always_present": False,
    "readers_see_maps": False,
    "strata": [],
    "generated": True,
    "cluster_declared": True,
    "value_range": [0.0, 1.0],
    "channels": 1,
    "has_train_list": False,
}
_DEFAULTS = {
    "object": "",
    "subject": "reference",
    "target": "",
    "factor": "",
    "level": "",
    "status": "ok",
    "reason": "",
}


@dataclass
class FakeContext:
    """What a check may ask for; ``predictor`` maps an image (C, H, W) to its prediction."""

    held: Prediction | None = None
    params: Any = None
    facts: Mapping[str, Any] = field(default_factory=lambda: dict(FACTS))
    seed: int = 0
    subject: Any = None
    case: str = ""
    predictor: Callable[[np.ndarray], Prediction] | None = None
    loader: Callable[[CaseRef, str], Case] | None = None
    forwards: int = 0
    backwards: int = 0
    calls: int = 0
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    boxes: Boxes | None = None
    windows: list[tuple[str, float, tuple[float, ...]]] = field(default_factory=list)
    variants: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Prediction | Exception] = field(default_factory=dict)

    @property
    def segmenter(self):
        return self.subject

    @property
    def detector(self):
        return self.subject

    def detections(self, subject: str = "reference") -> Boxes:
        assert self.boxes is not None
        return self.boxes

    def window(self, kind: str, rank: float, xyxy: Sequence[float]) -> None:
        self.windows.append((kind, rank, tuple(float(value) for value in xyxy)))

    def generator(self, purpose: str) -> np.random.Generator:
        return generator(self.seed, purpose, self.case)

    def prediction(self, subject: str = "reference") -> Prediction:
        assert self.held is not None
        found = self.held if subject == "reference" else self.others[subject]
        if isinstance(found, Exception):
            raise found
        return found

    def predict(self, images: Sequence[Any]) -> list[Prediction]:
        assert self.predictor is not None
        self.calls += 1
        self.forwards += len(images)
        return [self.predictor(np.asarray(image)) for image in images]

    def count(self, *, forwards: int = 0, backwards: int = 0) -> None:
        self.forwards += forwards
        self.backwards += backwards

    def evidence(self, name: str, array: np.ndarray) -> None:
        self.maps[name] = array

    def load(self, ref: CaseRef, entry: str = "test") -> Case:
        assert self.loader is not None
        return self.loader(ref, entry)


def make_case(
    name: str,
    reference: Any,
    *,
    image: Any = None,
    reader2: Any = None,
    cluster: str = "",
    spacing_mm: tuple[float, float] | None = None,
    strata: Mapping[str, str] | None = None,
    path: str = "",
) -> Case:
    reference = np.asarray(reference, dtype=np.uint8)
    image = np.zeros((1, *reference.shape), np.float32) if image is None else np.asarray(image, np.float32)
    ref = CaseRef(name, path or name, cluster=cluster or name, spacing_mm=spacing_mm, strata=dict(strata or {}))
    return Case(ref, image, reference, None if reader2 is None else np.asarray(reader2, dtype=np.uint8))


def labels(array: Any, probabilities: Any = None) -> Prediction:
    scores = None if probabilities is None else np.asarray(probabilities, dtype=np.float32)
    return Prediction(np.asarray(array, dtype=np.uint8), scores)


def measured(check: str, case: Case, prediction: Prediction | None, *, params: Any = None, **more: Any) -> list[Row]:
    """Rows of one case, as the check yields them."""
    found = get_check(check)
    context = FakeContext(held=prediction, params=params or found.params(), case=case.id, **more)
    return [{"case": case.id, **row} for row in found.measure(context, case)]


def failed(case: str, reason: str = "corrupt PNG") -> Row:
    return {"case": case, "status": "failed", "reason": reason}


def frame(check: str, rows: Sequence[Row]) -> pd.DataFrame:
    """Rows through the check's own schema, as the engine writes and reads them."""
    schema = get_check(check).schema
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"undeclared columns {unknown}"
    table = pa.Table.from_pylist([{**_DEFAULTS, **row} for row in rows], schema=schema).to_pandas()
    return table.sort_values(["case", "object", "target", "factor", "level"], kind="stable", ignore_index=True)


def tables(
    rows: Mapping[str, Sequence[Row]],
    cases: Sequence[Case] | Sequence[Mapping[str, str]],
    **facts: Any,
) -> Tables:
    """Tables of the given rows; ``cases`` are cases or mappings with case, cluster and strata."""
    listed = [
        case if isinstance(case, Mapping) else {"case": case.id, "cluster": case.ref.cluster, **case.ref.strata}
        for case in cases
    ]
    return Tables({check: frame(check, part) for check, part in rows.items()}, pd.DataFrame(listed), {**FACTS, **facts})


def quantities(check: str, held: Tables, params: Any = None) -> dict[tuple[str, ...], Quantity]:
    """(metric, target, factor, level), trailing empty parts left out, a variant's name first -> quantity."""
    found = get_check(check)
    named: dict[tuple[str, ...], Quantity] = {}
    for quantity in found.quantities(held, params or found.params()):
        variant = [quantity.subject] if quantity.subject != "reference" else []
        key = [*variant, quantity.metric, quantity.target, quantity.factor, quantity.level]
        while key[-1] == "":
            key.pop()
        assert tuple(key) not in named, f"{key} is named twice"
        named[tuple(key)] = quantity
    return named


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).astype(np.uint8)
