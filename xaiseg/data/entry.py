"""One entry under ``data:`` of model.yaml: which reader, which files, which columns."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class PhantomEntry(BaseModel):
    """A generated set; see :class:`xaiseg.data.phantoms.PhantomSpec`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "validation", "test"] = Field("test", description="splits never share a patient")
    patients: Annotated[int, Field(ge=1)] | None = Field(None, description="null = the split's own number")
    lesion_free: Annotated[int, Field(ge=0)] | None = Field(None, description="null = a quarter of the patients")
    seed: Annotated[int, Field(ge=0)] = 0
    size: tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]] = (144, 176)


class ShortcutEntry(BaseModel):
    """A planted cue; see :class:`xaiseg.data.scenes.Shortcut`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bright_floe"] = "bright_floe"
    correlation: Annotated[float, Field(ge=0, le=1)] = 1.0


class SceneEntry(BaseModel):
    """A generated set of survey tiles; see :class:`xaiseg.data.scenes.SceneSpec`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "validation", "test"] = Field("test", description="splits share no flight")
    world: Literal["seals", "cetaceans"] = Field("seals", description="seals on ice, or cetaceans in the sea")
    flights: Annotated[int, Field(ge=1)] | None = Field(None, description="null = the split's own number")
    tiles: Annotated[int, Field(ge=1)] | None = Field(None, description="tiles a flight; null = the split's own number")
    empty_share: Annotated[float, Field(ge=0, le=1)] = Field(0.25, description="share of tiles without an animal")
    seed: Annotated[int, Field(ge=0)] = 0
    size: tuple[Annotated[int, Field(ge=64)], Annotated[int, Field(ge=64)]] = (256, 256)
    shortcut: ShortcutEntry | None = Field(None, description="a planted cue, null = none")
    spare_floes: Annotated[float, Field(ge=0, le=20)] = Field(
        1.1, description="mean number of floes beyond those for a seal"
    )
    placement: Literal["ice", "anywhere"] = Field("ice", description="seals mostly on ice, or anywhere on the tile")

    @model_validator(mode="after")
    def _ice(self) -> SceneEntry:
        if self.shortcut is not None and self.world != "seals":
            raise ValueError("the shortcut bright_floe needs `world: seals`; there is no ice in the other")
        for key in ("spare_floes", "placement"):
            if self.world != "seals" and getattr(self, key) != SceneEntry.model_fields[key].default:
                raise ValueError(f"`{key}` needs `world: seals`; there is no ice in the other")
        if self.placement == "anywhere" and self.shortcut is not None and self.shortcut.correlation != 0.5:
            raise ValueError("the shortcut bright_floe needs seals on ice, not `placement: anywhere`")
        return self


#: Columns of the table of cases.
_RESERVED: Final = ("case", "cluster", "shard")


class DataEntry(BaseModel):
    """Where the cases of one entry lie and which columns describe them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: str = Field(
        "folder", description="folder, coco, yolo, voc, nifti, dicom, phantom, scene, or a third party's"
    )
    path: str | None = Field(None, description="a folder with images/, masks/ and perhaps meta.csv, as it stands")
    images: str | None = Field(None, description="folder of the images, when it is not path/images")
    masks: str | None = Field(None, description="folder of the masks, when it is not path/masks")
    masks_reader2: str | None = Field(None, description="folder of a second reader's masks: the ceiling")
    annotations: str | None = Field(
        None, description="coco: JSON file, when it is not path/annotations.json; yolo, voc: folder of the labels"
    )
    meta: str | tuple[str, ...] | None = Field(None, description="CSV or Parquet sidecars with a column id, merged")
    where: dict[str, str | int | float | bool] = Field(default_factory=dict, description="keep rows with these values")
    cluster: str | None = Field(None, description="column of the independent unit (patient, site, flight)")
    unnamed: Literal["refuse", "one"] = Field(
        "refuse", description="images whose cluster column is blank: an error, or together one cluster"
    )
    cluster_name: str | None = Field(None, description="what a cluster is, for the report; null = the column's name")
    strata: tuple[str, ...] = Field((), description="columns of declared subgroups")
    labels: dict[int, Annotated[int, Field(ge=0, le=255)]] | None = Field(
        None,
        description="mask value (coco: category id, yolo: number) -> class index, 255 = ignore; others are refused",
    )
    window: tuple[float, float] | None = Field(
        None, description="[low, high]: stored values that span the model's range; values beyond are clipped"
    )
    spacing_mm: float | tuple[float, float] | str | None = Field(
        None, description="pixel size in mm: a number, [row, column], or the column that holds it"
    )
    phantom: PhantomEntry | None = Field(None, description="for the reader phantom")
    scene: SceneEntry | None = Field(None, description="for the reader scene")

    @model_validator(mode="before")
    @classmethod
    def _phantoms_have_patients(cls, values: Any) -> Any:
        """Generated patients are known, so they are the clusters unless the entry says otherwise."""
        if isinstance(values, dict) and values.get("reader") == "phantom":
            return {"phantom": {}, "cluster": "patient", **values}
        if isinstance(values, dict) and values.get("reader") == "scene":
            return {"scene": {}, "cluster": "flight", **values}
        return values

    @model_validator(mode="after")
    def _somewhere(self) -> DataEntry:
        for name in ("phantom", "scene"):
            if self.reader != name and getattr(self, name) is not None:
                raise ValueError(f"`{name}:` belongs to the reader {name}")
        if self.reader in ("phantom", "scene"):
            return self
        if self.path is None and self.images is None:
            raise ValueError(f"the reader {self.reader} needs `path:` or `images:`")
        if self.annotations is not None and self.reader in ("folder", "nifti", "dicom"):
            raise ValueError(f"`annotations:` belongs to the readers coco, yolo and voc; {self.reader} takes `masks:`")
        if self.masks is not None and self.reader in ("coco", "yolo", "voc"):
            raise ValueError(f"the reader {self.reader} takes its masks from `annotations:`, not from `masks:`")
        return self

    @field_validator("strata")
    @classmethod
    def _own_names(cls, strata: tuple[str, ...]) -> tuple[str, ...]:
        for name in strata:
            if name in _RESERVED or name.startswith(("p:", "survey:", "image:")):
                raise ValueError(f"a column of strata cannot be called '{name}', which a run uses itself; rename it")
        return strata

    @field_validator("window")
    @classmethod
    def _rising(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window is not None and not -math.inf < window[0] < window[1] < math.inf:
            raise ValueError("the window is [low, high] with low < high")
        return window

    @property
    def sidecars(self) -> tuple[str, ...] | None:
        """The sidecar files as a tuple, or None when the entry names none."""
        return (self.meta,) if isinstance(self.meta, str) else self.meta
