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

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from xaiseg import yamlfile
from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.errors import UsageError, did_you_mean

DataName = Literal["train", "validation", "calibration", "test", "members", "nonmembers"]

#: Every kind of source, and how it stands with weights in a file beside it.
SOURCES: Final[Mapping[str, Literal["required", "optional", "none"]]] = {
    "zoo": "required",
    "torch": "optional",
    "exported": "none",
    "torchscript": "none",
    "onnx": "none",
    "smp": "required",
    "torchvision": "required",
    "python": "none",
    "predictions": "none",
}


#: Text that YAML reads as itself without quotes.
_PLAIN: Final = re.compile(r"[A-Za-z_/][\w./-]*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class SmpSource(_Part):
    """A model of segmentation-models-pytorch; encoder weights are never fetched from a network."""

    arch: str = Field(description="class name, e.g. Unet, FPN, DeepLabV3Plus")
    encoder: str = Field(description="encoder name, e.g. resnet18 or tu-mobilenetv3_small_100")
    weights: str | None = Field(None, description="the same as `weights` beside `smp`")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments, e.g. {encoder_depth: 3}")


class Source(_Part):
    """Where the model comes from: exactly one kind, and the file of its weights where the kind takes one."""

    zoo: str | None = Field(None, description="name of a zoo model")
    torch: str | None = Field(None, description="builder of a torch module: pkg.mod:build or file.py:build (trust)")
    exported: str | None = Field(None, description="a torch.export file, .pt2 (trust)")
    torchscript: str | None = Field(None, description="a TorchScript file (trust)")
    onnx: str | None = Field(None, description="an ONNX file; a black box")
    smp: SmpSource | None = Field(None, description="a model of segmentation-models-pytorch")
    torchvision: str | None = Field(None, description="a segmentation model of torchvision, e.g. deeplabv3_resnet50")
    python: str | None = Field(None, description="a function on arrays (B, C, H, W): file.py:predict (trust)")
    predictions: str | None = Field(None, description="a folder of predictions by case id; no model at all")
    weights: str | None = Field(None, description=".safetensors, or .pth / .pt / .ckpt read with weights_only")

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        kinds = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a source has exactly one of {', '.join(SOURCES)}; got {', '.join(kinds) or 'none'}")
        rule = SOURCES[kinds[0]]
        if rule == "required" and self.weights_file is None:
            raise ValueError(f"a source of kind {kinds[0]} needs `weights:`, else an untrained model would be audited")
        if rule == "none" and self.weights is not None:
            raise ValueError(f"a source of kind {kinds[0]} holds its own weights; remove `weights:`")
        if self.smp is not None and self.smp.weights and self.weights:
            raise ValueError("weights are given twice, inside and beside `smp:`")
        return self

    @property
    def kind(self) -> str:
        """The one kind that is given."""
        return next(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def target(self) -> str:
        """What the kind names: a name, a file, a folder or ``module:function``."""
        value = getattr(self, self.kind)
        return f"{value.arch}/{value.encoder}" if isinstance(value, SmpSource) else str(value)

    @property
    def weights_file(self) -> str | None:
        """The file of the weights as the user wrote it, or None."""
        return self.weights or (self.smp.weights if self.smp is not None else None)


class InputSpec(_Part):
    """How the network wants its images. `mean` and `std` are in the units of `range`."""

    channels: Annotated[int, Field(ge=1, le=1024)] = 1
    range: tuple[float, float] = (0.0, 1.0)
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="[H, W] of the network's grid; null = each image's own"
    )
    resize: Literal["pad", "stretch", "none"] = Field(
        "pad", description="pad keeps the aspect and fills up with the lowest value; none leaves images as they are"
    )
    multiple_of: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="sides are padded to a multiple; null = what the source is known to need"
    )
    mode: Literal["bilinear", "nearest"] = Field("bilinear", description="interpolation towards the network")

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("the range must rise, [lowest, highest]")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise ValueError(f"{name} has {len(value)} values for {self.channels} channels")
            if name == "std" and min(value if isinstance(value, tuple) else (value,)) <= 0:
                raise ValueError("std must be above 0")
        return self


class ThresholdSpec(_Part):
    """The operating threshold on the foreground probability, and the data it was chosen on."""

    value: Annotated[float, Field(gt=0, lt=1)] = 0.5
    chosen_on: Literal["val", "default", "test", "unknown"] = "default"


class OutputSpec(_Part):
    """What the network answers. `key` and `index` pick from a dict or tuple; without them the subject picks."""

    kind: Literal["logits", "probabilities", "labels"] = "logits"
    activation: Literal["sigmoid", "softmax"] | None = Field(
        None, description="null = sigmoid for one channel, softmax for more"
    )
    threshold: ThresholdSpec = ThresholdSpec()
    key: str | None = None
    index: Annotated[int, Field(ge=0)] | None = None


class ModelDocument(_Part):
    """The keys of model.yaml."""

    name: Annotated[str, Field(min_length=1)]
    version: str = ""
    task: Literal["segmentation", "detection"] = "segmentation"
    classes: tuple[str, ...] = Field(description="index 0 is the background of a segmentation model")
    source: Source
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict, description="other builds, audited pairwise")
    data_root: str | None = Field(None, description="folder of relative data paths; null = the folder of this file")
    data: dict[DataName, DataEntry] = Field(default_factory=dict)
    intended_use: str = ""
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
        return classes


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
    variants: Mapping[str, Mapping[str, Any]]
    data_root: Path
    data: Mapping[str, DataEntry]
    intended_use: str
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
        return ImageSpec(channels=self.input.channels, value_range=self.input.range, classes=self.classes)

    def with_data(self, name: str, entry: DataEntry) -> ModelFile:
        """The same model with another entry under ``data:``."""
        return replace(self, data={**self.data, name: entry})

    def override_data_root(self, folder: Path) -> ModelFile:
        """The same model with its data in another folder."""
        return replace(self, data_root=folder)

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
            "variants": {name: dict(variant) for name, variant in self.variants.items()},
            "intended_use": self.intended_use,
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
    if len(keys) == 2 and keys[0] == "data":
        return DataEntry
    parts: dict[tuple[str | int, ...], type[BaseModel]] = {
        (): ModelDocument,
        ("source",): Source,
        ("source", "smp"): SmpSource,
        ("input",): InputSpec,
        ("output",): OutputSpec,
        ("output", "threshold"): ThresholdSpec,
    }
    return parts.get(keys)
