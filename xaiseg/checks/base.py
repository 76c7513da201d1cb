"""What a check is: a question, the rows it measures and the quantities it derives from them.

A check is one file. It declares parameters, needs and columns, measures rows for a case, and names the quantities that
the rows hold. It knows no threshold, no file and no plot. Registration validates it, so a mistake shows at import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.parameters import frozen_with_defaults, load_entry_points
from xaiseg.subject import OFFERS

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from xaiseg.data.case import Case, CaseRef
    from xaiseg.subject import Boxes, Detector, Prediction, Segmenter, Subject
    from xaiseg.variants import Variant

Row = dict[str, Any]

#: Columns that every table has; the engine fills `case`, and `status`/`reason` of failed cases.
KEY: Final = pa.schema(
    [
        ("case", pa.string()),
        ("object", pa.string()),  # a lesion or box of the case; "" = the whole case
        ("subject", pa.string()),  # "reference" or the name of a variant
        ("target", pa.string()),  # class name or explanation target; "" = all
        ("factor", pa.string()),  # e.g. "blur_px"; "" = none
        ("level", pa.string()),  # e.g. "2"; "" = none
        ("status", pa.string()),  # ok | failed | undefined | not_applicable
        ("reason", pa.string()),
    ]
)

#: Needs besides those of :data:`xaiseg.subject.OFFERS`.
DATA_NEEDS: Final = frozenset({"segmenter", "detector", "reference", "train_list", "model", "variants"})
#: Why a check of the other task does not run, by its need; nothing went wrong there.
OTHER_TASK: Final[Mapping[str, str]] = {"segmenter": "it is for segmentation models", "detector": "it is for detectors"}

Kind = Literal["mean", "proportion", "statistic", "rate", "total", "fact"]
#: (positions (n,), groups (n,), weights (n,)) of cases -> function of the (G,) weights of the groups.
Pooled = Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[np.ndarray], float]]


@dataclass(frozen=True)
class Quantity:
    """Values from which the estimate stage makes one estimate, and one for each stratum where ``strata`` is True.

    Attributes:
        metric: name used by a requirement, e.g. "dice".
        kind: "mean" of values; "proportion" of 0/1 values; "statistic" = ``function`` of the (weighted) sum of rows of
            ``values``, or ``pooled`` of whole cases; "rate" of ``values`` (n, 2), events and exposure; "total" of
            draws, ``values`` (n, 2) being ``added`` and ``left`` of :class:`~xaiseg.statistics.design_counts.Shares`,
            whose independent unit is the draw and not the cluster; "fact" = a census of this data set (a count or a
            yes/no), which has no interval.
        cases: (n,) case id of each value. A case may give several values (lesions) or stand for its patient.
        values: (n,) float64, NaN = undefined; for "statistic" (n, d).
        unit: e.g. "px", "%", or "" for a pure number.
        better: which direction is good; "" for neither.
        of: what one value describes: "image", "lesion", "patient", "pixel", "data set".
        worst: value that a failed or undefined case takes in a gate; None when failed cases are already among the
            values (``of="patient"``) or have no meaning.
        target, factor, level, subject: as the key columns.
        strata: also estimate within each declared stratum.
        function: for "statistic": maps the (d,) summed contributions to a number (NaN when undefined).
        pooled: for "statistic" in place of ``function``, for what is no function of sums (average precision);
            ``values`` are then the positions 0 ... n - 1 that it is asked for. See :mod:`xaiseg.statistics.pooled`.
        floor: what a perfect subject would show by chance on these data (null floor), or None.
        weigh: "cluster" gives every cluster the same weight, "case" every value.
        note: one sentence printed beside the number.
        bounds: lowest and highest possible value, or None; gives an interval where all values are equal.
        missing: why the quantity could not be formed; then ``values`` is empty and requirements on it are NOT RUN.
        withheld: why no verdict may hang on the value; it gets no interval, and requirements on it are INSUFFICIENT.
    """

    metric: str
    kind: Kind
    cases: Sequence[str] | np.ndarray
    values: np.ndarray
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    of: str = "image"
    worst: float | None = None
    target: str = ""
    factor: str = ""
    level: str = ""
    subject: str = "reference"
    strata: bool = False
    function: Callable[[np.ndarray], float] | None = None
    floor: float | None = None
    weigh: Literal["cluster", "case"] = "cluster"
    note: str = ""
    missing: str = ""
    bounds: tuple[float, float] | None = None
    pooled: Pooled | None = None
    withheld: str = ""

    def __post_init__(self) -> None:
        if len(self.cases) != len(self.values):
            raise ValueError(f"{self.metric}: {len(self.cases)} cases for {len(self.values)} values")
        if (self.kind == "statistic") != ((self.function is None) != (self.pooled is None)):
            raise ValueError(f"{self.metric}: a statistic, and only a statistic, has one function")


@dataclass(frozen=True)
class Tables:
    """What a check reads when it names its quantities.

    Attributes:
        rows: check id -> its rows as a DataFrame (key columns, then the check's own; failed cases are rows with
            status "failed" and nulls).
        cases: DataFrame, one row a case: case, cluster, weight (1 / inclusion probability, per check in column
            ``p:<check id>``), one column a declared stratum, and the survey columns as ``survey:<name>`` where the
            sidecar has them.
        facts: what the plan knows: {"classes", "lesion_always_present", "readers_see_maps", "strata", "generated",
            "cluster_declared", "train_list", "spacing", ...}.
    """

    rows: Mapping[str, pd.DataFrame]
    cases: pd.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ok(self, check: str) -> pd.DataFrame:
        """The rows of a check whose status is "ok"."""
        table = self.rows[check]
        return table[table["status"] == "ok"]

    def clusters(self, cases: Iterable[str]) -> np.ndarray:
        """The cluster of each case id, as an object array."""
        lookup = dict(zip(self.cases["case"], self.cases["cluster"], strict=True))
        return np.array([lookup[case] for case in cases], dtype=object)


class Context(Protocol):
    """What a check may ask for while it measures one case; everything is counted."""

    subject: Subject
    params: Any
    seed: int
    facts: Mapping[str, Any]

    @property
    def segmenter(self) -> Segmenter:
        """The subject, for checks that need "segmenter"."""

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator seeded by run seed, check, purpose and case."""

    def prediction(self, subject: str = "reference") -> Prediction:
        """The prediction of the current case; already made by the engine, free.

        Raises:
            SubjectError: this build failed on the image.
        """

    @property
    def detector(self) -> Detector:
        """The subject, for checks that need "detector"."""

    def detections(self, subject: str = "reference") -> Boxes:
        """The detections of the current case, on the CPU, down to the subject's score floor; already made, free."""

    @property
    def variants(self) -> Mapping[str, Variant]:
        """The other builds of the audited model, by name; for checks that need "variants"."""

    def predict(self, images: Sequence[np.ndarray | Tensor], subject: str = "reference") -> list[Prediction]:
        """Predictions of further images (C, H, W), batched as the plan says, counted as forwards."""

    def detect(self, images: Sequence[np.ndarray | Tensor]) -> list[Boxes]:
        """Detections in further images (C, H, W), batched as the plan says, counted as forwards."""

    def window(self, kind: str, rank: float, xyxy: Sequence[float]) -> None:
        """Offers a place (corners in pixels) for the gallery ``kind``; the lowest ranks are shown at native scale."""

    def count(self, *, forwards: int = 0, backwards: int = 0) -> None:
        """Adds forwards and backwards (in images) that the check made itself through ``subject.forward``."""

    def evidence(self, name: str, array: np.ndarray) -> None:
        """Offers a (H, W) map for the galleries; kept as 64 x 64 float16 when the case is chosen."""

    def load(self, ref: CaseRef, entry: str = "test") -> Case:
        """Loads a case of a data entry."""

    def listed(self, entry: str = "test") -> Sequence[CaseRef]:
        """The cases of a data entry, () where model.yaml has no such entry."""


class Check(Protocol):
    """A check, as its file writes it; the decorator :func:`check` adds the class variables."""

    id: ClassVar[str]
    question: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    reads: ClassVar[tuple[str, ...]]
    params: ClassVar[type]
    schema: ClassVar[pa.Schema]
    score: ClassVar[str | None]

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Names the quantities that the rows hold. Optional siblings: ``measure(context, case) -> Iterable[Row]`` for
        each case and ``measure_once(context, datasets) -> Iterable[Row]`` once a run (mapping of data entry name to
        :class:`~xaiseg.data.case.Dataset`).
        """


@dataclass(frozen=True)
class NoParams:
    """For a check without parameters."""


REGISTRY: dict[str, Check] = {}
_CheckClass = TypeVar("_CheckClass", bound=type)

#: One module a check, named after its id. A new check of the package is a new file and a line here.
BUILTIN: Final = (
    "data_integrity",
    "provenance",
    "performance_segmentation",
    "performance_detection",
    "subgroups_declared",
    "subgroups_coverage",
    "calibration_pixels",
    "explanation",
    "explanation_intrinsic",
    "explanation_examples",
    "explanation_context",
    "robustness_degradation",
    "shortcut_background",
    "shortcut_object",
    "shortcut_artefacts",
    "shortcut_position",
    "shortcut_lookalikes",
    "equivalence_segmentation",
    "equivalence_explanation",
    "equivalence_detection",
    "equivalence_rtl",
    "hardware_cost",
    "equivalence_layers",
    "equivalence_digits",
)


def check(
    id: str,
    *,
    question: str,
    needs: Iterable[str] = (),
    reads: Iterable[str] = (),
    params: type = NoParams,
    columns: Sequence[tuple[str, pa.DataType]] = (),
    score: str | None = None,
) -> Callable[[_CheckClass], _CheckClass]:
    """Registers a check class.

    Args:
        id: "topic.name"; the file is ``topic_name.py``.
        question: the heading of its section in the report, e.g. "Does it work?".
        needs: subset of :data:`~xaiseg.subject.OFFERS` and :data:`DATA_NEEDS`.
        reads: ids of the checks whose rows it reads besides its own.
        params: a frozen dataclass whose fields all have defaults.
        columns: its own columns after :data:`KEY`.
        score: column by which a case is worse when smaller, for the worst-k gallery.

    Raises:
        ValueError: an unknown need, parameters that are no frozen dataclass with defaults, a column of KEY again, a
            method that is missing, or an id that is taken.
    """

    def register(cls: _CheckClass) -> _CheckClass:
        wanted = frozenset(needs)
        unknown = wanted - OFFERS - DATA_NEEDS
        own = [name for name, _ in columns]
        problems = [
            (id in REGISTRY, "the id is taken"),
            (bool(unknown), f"unknown needs {sorted(unknown)}; allowed: {sorted(OFFERS | DATA_NEEDS)}"),
            (not frozen_with_defaults(params), "params must be a frozen dataclass whose fields have defaults"),
            (bool(set(own) & set(KEY.names)), "columns repeat a key column"),
            (score is not None and score not in own, f"score {score!r} is not among the columns {own}"),
            (not hasattr(cls, "quantities"), "the method quantities(tables, params) is missing"),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(f"check {id!r} ({cls.__module__}.{cls.__name__}): {message}")
        schema = pa.schema([*KEY, *(pa.field(name, kind) for name, kind in columns)])
        facts = {"id": id, "question": question, "needs": wanted, "reads": tuple(reads)}
        for name, value in (facts | {"params": params, "schema": schema, "score": score}).items():
            setattr(cls, name, value)
        REGISTRY[id] = cls()
        return cls

    return register


def load_checks() -> dict[str, Check]:
    """Imports the package's checks and those of third parties (entry point ``xaiseg.checks``)."""
    for name in BUILTIN:
        import_module(f"xaiseg.checks.{name}")
    load_entry_points("xaiseg.checks")
    return REGISTRY


def get_check(id: str) -> Check:
    """The check with this id.

    Raises:
        UsageError: unknown id, with a hint.
    """
    checks = load_checks()
    if id not in checks:
        raise UsageError(f"'{id}' is not a check", then=did_you_mean(id, checks))
    return checks[id]


def check_params(item: Mapping[str, Any]) -> Any:
    """The parameters of a planned check, rebuilt from plan.json (lists become tuples again).

    >>> check_params({"id": "provenance", "params": {}})
    NoParams()
    """
    return get_check(item["id"]).params(**{name: _tuples(value) for name, value in item["params"].items()})


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
