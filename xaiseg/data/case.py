"""The words of the data layer: a case, a reference to one, and a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

#: Columns of a sidecar that say how a tile of a survey came about; see docs/data.md.
SURVEY: Final = ("known_empty", "augmented", "footprint", "probability", "draw_probability", "drawn", "draws")


@dataclass(frozen=True)
class CaseRef:
    """Where one case lies; small, picklable, and all that a worker receives.

    Attributes:
        id: unique within the data set; never a path outside it.
        image: path of the image (or what the reader needs to make it).
        reference: path of the reference mask, or None.
        reader2: path of a second reader's mask, or None.
        cluster: the independent unit (patient, site, flight).
        strata: factor -> level, as text.
        spacing_mm: (row, column) pixel size in millimetres, or None when unknown.
        extra: what else the reader needs (slice index, annotation ids, ...).
        survey: those of the columns :data:`SURVEY` that the sidecar fills in, as checked text: "true" or "false" for
            known_empty and augmented, "disjoint" or "overlapping" for footprint, a number in (0, 1] for probability and
            draw_probability, a whole number above 0 for drawn and draws.
    """

    id: str
    image: str
    reference: str | None = None
    reader2: str | None = None
    cluster: str = ""
    strata: Mapping[str, str] = field(default_factory=dict)
    spacing_mm: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    survey: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One image with its reference annotation, loaded.

    Attributes:
        ref: where it came from.
        image: (C, H, W) float32 in the subject's declared range.
        reference: (H, W) uint8 class indices; 255 = ignore; None when there is no annotation.
        reader2: (H, W) uint8 class indices of a second reader, or None.
        boxes: (N, 5) float32 xyxy pixels and class index (255 = a region to ignore), for detection data, or None.
        outlines: one tuple a box of its polygons, each (P, 2) float32 x, y in pixels; an empty tuple where there is
            a box alone, None where ``boxes`` is None. The enclosing box of a slanted animal is half ground.
    """

    ref: CaseRef
    image: np.ndarray
    reference: np.ndarray | None = None
    reader2: np.ndarray | None = None
    boxes: np.ndarray | None = None
    outlines: tuple[tuple[np.ndarray, ...], ...] | None = None

    @property
    def id(self) -> str:
        """The case's name."""
        return self.ref.id

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(frozen=True)
class ImageSpec:
    """What the subject expects of an image: channels, value range and classes of the reference.

    With ``task`` "detection" class 0 is an object and the reference is boxes; otherwise class 0 is the background.
    """

    channels: int
    value_range: tuple[float, float] = (0.0, 1.0)
    classes: tuple[str, ...] = ("background", "foreground")
    max_pixels: int = 50_000_000
    task: Literal["segmentation", "detection"] = "segmentation"


@dataclass(frozen=True)
class Dataset:
    """The cases of one entry of ``data:`` in model.yaml.

    Attributes:
        name: test, train, validation, calibration, members, nonmembers or backgrounds.
        reader: name of the reader that loads the cases.
        cases: sorted by id.
        cluster_column: the column that gave the clusters, or None when images are assumed independent.
        strata: the declared factors, in order.
        list_sha256: digest of ids, paths, clusters and strata.
        source: the data folder or description, as written by the user.
        generated: True for phantoms; the report then reads "demonstration on generated images".
        unmatched: files that belong to no case: an image that the annotations do not list, a mask or a file of labels
            without its image.
        filtered: images that ``where`` leaves out.
    """

    name: str
    reader: str
    cases: tuple[CaseRef, ...]
    cluster_column: str | None
    strata: tuple[str, ...]
    list_sha256: str
    source: str
    generated: bool = False
    unmatched: tuple[str, ...] = ()
    filtered: int = 0

    @property
    def n_clusters(self) -> int:
        """Number of independent units."""
        return len({case.cluster for case in self.cases})
