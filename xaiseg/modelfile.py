"""model.yaml: what the user says about the model, checked key by key before anything is loaded.

Relative paths of weights resolve against the file's folder; relative paths of data against ``data_root``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from xaiseg import yamlfile
from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.errors import UsageError, did_you_mean
from xaiseg.modelfile_parts import SOURCES, InputSpec, OutputSpec, Part, SmpSource, Source, ThresholdSpec, TileSpec
from xaiseg.modelfile_variants import VariantSpec

__all__ = [
    "SOURCES",
    "DataName",
    "InputSpec",
    "ModelDocument",
    "ModelFile",
    "OutputSpec",
    "SmpSource",
    "Source",
    "ThresholdSpec",
    "flow",
    "parse_model",
    "read_model_file",
]

DataName = Literal["train", "validation", "calibration", "test", "members", "nonmembers", "backgrounds"]

#: Text that YAML reads as itself without quotes.
_PLAIN: Final = re.compile(r"[A-Za-z_/][\w./-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


class ModelDocument(Part):
    """The keys of model.yaml."""

    name: Annotated[str, Field(min_length=1)]
    version: str = ""
    task: Literal["segmentation", "detection"] = "segmentation"
    classes: tuple[str, ...] = Field(description="index 0 is the background of a segmentation model")
    source: Source
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()
    variants: dict[str, VariantSpec] = Field(default_factory=dict, description="other builds, audited beside the model")
    data_root: str | None = Field(None, description="folder of relative data paths; null = the folder of this file")
    data: dict[DataName, DataEntry] = Field(default_factory=dict)
    intended_use: str = ""
    empty_share: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="detection: share of images without an object where the model will be used, e.g. 0.99"
    )
    lesion_always_present: bool = Field(False, description="by intended use, every image shows a lesion")
    readers_see_maps: bool = Field(False, description="explanation maps are shown to readers")
    trust: bool = Field(False, description="allow a source that can execute code")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(classes)) != len(classes) or not 1 <= len(classes) <= 255:
            raise ValueError("classes are 1 to 255 different names")
        if info.data.get("task") == "segmentation" and len(classes) < 2:
            raise ValueError(f"a segmentation model has two classes or more, e.g. [background, {classes[0]}]")
        if info.data.get("task") == "detection" and classes[0].lower() == "background":
            raise ValueError("the classes of a detector are those of its boxes; leave the background out")
        return classes

    @field_validator("variants")
    @classmethod
    def _named(cls, variants: dict[str, VariantSpec]) -> dict[str, VariantSpec]:
        for name in variants:
            if name in ("reference", "each") or not re.fullmatch(r"[\w.+-]{1,40}", name):
                raise ValueError(f"{name!r} is no name of a variant; letters, digits and . _ + - are")
        return variants


@dataclass(frozen=True)
class ModelFile:
    """A model.yaml that was read and checked; the keys are those of :class:`ModelDocument`.

    Attributes:
        data_root: the folder that relative data paths resolve against.
        path: where the file was read from; relative paths of models and weights resolve against its folder.
        text: the text of the file.
        sha256: digest of the text.
        lines: path of keys -> line.
    """

    name: str
    version: str
    task: Literal["segmentation", "detection"]
    classes: tuple[str, ...]
    source: Source
    input: InputSpec
    output: OutputSpec
    variants: Mapping[str, VariantSpec]
    data_root: Path
    data: Mapping[str, DataEntry]
    intended_use: str
    empty_share: float | None
    lesion_always_present: bool
    readers_see_maps: bool
    trust: bool
    path: Path
    text: str
    sha256: str
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, repr=False, compare=False)

    def where(self, *keys: str | int) -> str:
        """``file:line`` of a key, for errors."""
        return yamlfile.where(self.path, self.lines, keys)

    def image_spec(self) -> ImageSpec:
        """What a reader must deliver."""
        given = self.input
        return ImageSpec(channels=given.channels, value_range=given.range, classes=self.classes, task=self.task)

    def with_data(self, name: str, entry: DataEntry) -> ModelFile:
        """The same model with another entry under ``data:``."""
        return replace(self, data={**self.data, name: entry})

    def override_data_root(self, folder: Path) -> ModelFile:
        """The same model with its data in another folder."""
        return replace(self, data_root=folder)

    def with_empty_share(self, share: float) -> ModelFile:
        """The same model for a survey in which this share of the images is empty.

        Raises:
            UsageError: no share, or the model is no detector.
        """
        if not 0 <= share < 1:
            raise UsageError("this is no share of empty images", where="empty_share", got=share, allowed="0 to below 1")
        if self.task != "detection":
            raise UsageError("empty_share is for detectors", where=self.path, got=f"task: {self.task}")
        return replace(self, empty_share=share)

    def facts(self) -> dict[str, Any]:
        """What the plan stores about the model, as plain data: every key but ``data`` and ``data_root``."""
        return {
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "classes": list(self.classes),
            "source": self.source.model_dump(mode="json", exclude_none=True),
            "input": self.input.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
            "variants": {
                name: variant.model_dump(mode="json", exclude_none=True) for name, variant in self.variants.items()
            },
            "intended_use": self.intended_use,
            **({} if self.empty_share is None else {"empty_share": self.empty_share}),
            "lesion_always_present": self.lesion_always_present,
            "readers_see_maps": self.readers_see_maps,
            "trust": self.trust,
        }


def read_model_file(path: str | Path) -> ModelFile:
    """Reads and checks a model.yaml; loads no model and opens no data.

    Raises:
        UsageError: naming file and line; see :func:`xaiseg.yamlfile.read_yaml` for what is refused.
    """
    return _checked(yamlfile.read_yaml(Path(path)))


def parse_model(text: str, *, path: Path) -> ModelFile:
    r"""The same from text; ``path`` is what relative paths start from and what errors name.

    >>> text = "name: m\nclasses: [background, lesion]\nsource: {onnx: m.onnx}\n"
    >>> parse_model(text, path=Path("model.yaml")).source.kind
    'onnx'
    >>> parse_model(text + "intput: {channels: 3}\n", path=Path("model.yaml"))
    Traceback (most recent call last):
    xaiseg.errors.UsageError: model.yaml:4: 'intput' is not a key of model.yaml. did you mean 'input'?
    """
    return _checked(yamlfile.parse_yaml(text, path=path))


def flow(value: Any) -> str:
    """A value as one line of YAML, with quotes only where they are needed.

    >>> print(flow({"reader": "folder", "meta": ("a b.csv", "no"), "count": 3}))
    {reader: folder, meta: ["a b.csv", "no"], count: 3}
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


def _checked(file: yamlfile.YamlFile) -> ModelFile:
    try:
        document = ModelDocument.model_validate(file.data)
    except ValidationError as error:
        raise _explain(error, file) from error
    _refuse_other_task(document, file)
    folder = file.path.parent
    root = folder / (document.data_root or "")
    data = {name: _beside(entry, folder) for name, entry in document.data.items()}
    return ModelFile(
        **{**dict(document), "data_root": root, "data": data},
        path=file.path,
        text=file.text,
        sha256=hashlib.sha256(file.text.encode("utf-8")).hexdigest(),
        lines=file.lines,
    )


#: Keys of `output` that mean something for one task only.
_ONLY: Final = {"segmentation": ("kind", "activation"), "detection": ("layout", "iou", "score_floor")}


def _refuse_other_task(document: ModelDocument, file: yamlfile.YamlFile) -> None:
    for task, keys in _ONLY.items():
        given = [key for key in keys if key in document.output.model_fields_set]
        if given and document.task != task:
            what = f"output.{given[0]} is for task: {task}"
            raise UsageError(what, where=file.where("output", given[0]), got=f"task: {document.task}")
    if document.input.tile is not None and (document.task != "detection" or document.source.kind == "predictions"):
        got = f"task: {document.task}, source: {document.source.kind}"
        raise UsageError("input.tile is for detectors that look at images", where=file.where("input", "tile"), got=got)


def _beside(entry: DataEntry, folder: Path) -> DataEntry:
    """The entry with each sidecar that lies beside model.yaml named in full, so that it is found wherever the data lie.

    A list of who was trained on (split.csv) belongs to the model, while the data it divides may lie anywhere.
    """
    if entry.sidecars is None:
        return entry
    names = [(name, (folder / name).resolve()) for name in entry.sidecars]
    found = tuple(str(path) if path.is_file() else name for name, path in names)
    return entry if found == entry.sidecars else entry.model_copy(update={"meta": found})


def _explain(error: ValidationError, file: yamlfile.YamlFile) -> UsageError:
    """The first problem in the order of the file, in the grammar of all errors."""
    problems = sorted(error.errors(include_url=False), key=lambda p: (p["type"] != "extra_forbidden", p["loc"] == ()))
    problem = problems[0]
    keys = tuple(part for part in problem["loc"] if part in _steps(file))
    place = file.where(*keys)
    last = str(problem["loc"][-1]) if problem["loc"] else ""
    parent = ".".join(str(part) for part in problem["loc"][:-1]) or "model.yaml"
    if problem["type"] == "extra_forbidden":
        part = _part(tuple(problem["loc"][:-1]))
        hint = did_you_mean(last, part.model_fields) if part else None
        return UsageError(f"'{last}' is not a key of {parent}", where=place, then=hint)
    if problem["type"] == "missing":
        return UsageError(f"the key '{last}' is missing in {parent}", where=place)
    name = ".".join(map(str, keys))
    message = problem["msg"].removeprefix("Value error, ")
    got = None if isinstance(problem["input"], dict | BaseModel) else repr(problem["input"])
    return UsageError(f"{name}: {message}" if name else message, where=place, got=got)


def _steps(file: yamlfile.YamlFile) -> set[str | int]:
    return {step for keys in file.lines for step in keys}


def _part(keys: tuple[str | int, ...]) -> type[BaseModel] | None:
    if len(keys) == 2 and keys[0] in ("data", "variants"):
        return DataEntry if keys[0] == "data" else VariantSpec
    if len(keys) == 3 and keys[0] == "variants" and keys[2] == "source":
        return Source
    parts: dict[tuple[str | int, ...], type[BaseModel]] = {
        (): ModelDocument,
        ("source",): Source,
        ("source", "smp"): SmpSource,
        ("input",): InputSpec,
        ("input", "tile"): TileSpec,
        ("output",): OutputSpec,
        ("output", "threshold"): ThresholdSpec,
    }
    return parts.get(keys)
