"""The parts of model.yaml that say what a model is: its source, how it wants its images, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: Every kind of source, and how it stands with weights in a file beside it.
SOURCES: Final[Mapping[str, Literal["required", "optional", "none"]]] = {
    "zoo": "required",
    "torch": "optional",
    "exported": "none",
    "torchscript": "none",
    "onnx": "none",
    "smp": "required",
    "torchvision": "required",
    "ultralytics": "none",
    "python": "none",
    "predictions": "none",
}


#: Pixels of a network's grid; more is a slip or wants tiles.
Side = Annotated[int, Field(ge=1, le=16384)]


class Part(BaseModel):
    """A mapping of model.yaml: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class SmpSource(Part):
    """A model of segmentation-models-pytorch; encoder weights are never fetched from a network."""

    arch: str = Field(description="class name, e.g. Unet, FPN, DeepLabV3Plus")
    encoder: str = Field(description="encoder name, e.g. resnet18 or tu-mobilenetv3_small_100")
    weights: str | None = Field(None, description="the same as `weights` beside `smp`")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments, e.g. {encoder_depth: 3}")


class Source(Part):
    """Where the model comes from: exactly one kind, and the file of its weights where the kind takes one."""

    zoo: str | None = Field(None, description="name of a zoo model")
    torch: str | None = Field(None, description="builder of a torch module: pkg.mod:build or file.py:build (trust)")
    exported: str | None = Field(None, description="a torch.export file, .pt2 (trust)")
    torchscript: str | None = Field(None, description="a TorchScript file (trust)")
    onnx: str | None = Field(None, description="an ONNX file; a black box")
    smp: SmpSource | None = Field(None, description="a model of segmentation-models-pytorch")
    torchvision: str | None = Field(None, description="a model of torchvision, e.g. deeplabv3_resnet50")
    ultralytics: str | None = Field(None, description="a detector of ultralytics, .pt (trust; extra `yolo`, AGPL-3.0)")
    python: str | None = Field(None, description="a function on arrays (B, C, H, W): file.py:predict (trust)")
    predictions: str | None = Field(None, description="a folder of masks by case id or a file of detections, no model")
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


class TileSpec(Part):
    """How a large image is cut into tiles for a detector."""

    size: tuple[Annotated[Side, Field(ge=32)], Annotated[Side, Field(ge=32)]] = Field(description="[H, W] in pixels")
    overlap: Annotated[int, Field(ge=0)] = Field(
        64, description="pixels that neighbours share; at least the length of the largest animal"
    )

    @model_validator(mode="after")
    def _moves_on(self) -> TileSpec:
        if 2 * self.overlap > min(self.size):
            raise ValueError(f"the overlap {self.overlap} is more than half of the tile {list(self.size)}")
        return self


class InputSpec(Part):
    """How the network wants its images. `mean` and `std` are in the units of `range`."""

    channels: Annotated[int, Field(ge=1, le=1024)] = 1
    range: tuple[float, float] = (0.0, 1.0)
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    size: tuple[Side, Side] | None = Field(
        None, description="[H, W] of the network's grid, at most 16384; null = each image's own"
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb", description="order of the network's three channels; mean and std stand in this order"
    )
    resize: Literal["pad", "letterbox", "stretch", "none"] = Field(
        "pad", description="pad (or letterbox, the same) keeps the aspect and fills up; none leaves images as they are"
    )
    align: Literal["centre", "corner"] = Field("centre", description="where a padded image lies on the grid")
    pad_value: float | None = Field(
        None, description="what fills up, in the units of `range`; null = its lowest value (ultralytics: 114/255 of it)"
    )
    multiple_of: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="sides are padded to a multiple; null = what the source is known to need"
    )
    mode: Literal["bilinear", "nearest"] = Field("bilinear", description="interpolation towards the network")
    tile: TileSpec | None = Field(
        None, description="detection: larger images are looked at tile by tile; null = as a whole"
    )

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("the range must rise, [lowest, highest]")
        return value

    @property
    def padding(self) -> Literal["pad", "stretch", "none"]:
        """`resize` under one name each."""
        return "pad" if self.resize == "letterbox" else self.resize

    @property
    def fill(self) -> float:
        """What fills up, in the units of `range`."""
        return self.range[0] if self.pad_value is None else self.pad_value

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if self.channel_order == "bgr" and self.channels != 3:
            raise ValueError(f"channel_order: bgr is for 3 channels, not for {self.channels}")
        if self.pad_value is not None and not self.range[0] <= self.pad_value <= self.range[1]:
            raise ValueError(f"pad_value {self.pad_value:g} lies outside the range {list(self.range)}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise ValueError(f"{name} has {len(value)} values for {self.channels} channels")
            if name == "std" and min(value if isinstance(value, tuple) else (value,)) <= 0:
                raise ValueError("std must be above 0")
        return self


class ThresholdSpec(Part):
    """The operating threshold on the foreground probability or a box's score, and the data it was chosen on."""

    value: Annotated[float, Field(gt=0, lt=1)] = 0.5
    chosen_on: Literal["val", "default", "test", "unknown"] = "default"


class OutputSpec(Part):
    """What the network answers. `key` and `index` pick from a dict or tuple; without them the subject picks."""

    kind: Literal["logits", "probabilities", "labels"] = "logits"
    activation: Literal["sigmoid", "softmax"] | None = Field(
        None, description="null = sigmoid for one channel, softmax for more"
    )
    threshold: ThresholdSpec = ThresholdSpec()
    key: str | None = None
    index: Annotated[int, Field(ge=0)] | None = None
    layout: Literal["auto", "yolox", "yolov8", "yolov5", "fastestdet", "end2end", "torchvision"] = Field(
        "auto", description="detection: how the answer holds the boxes; auto = the only one that its shape allows"
    )
    iou: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="detection: boxes of a class that overlap more are one; null = torchvision's own, or 0.5",
    )
    score_floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.001, description="detection: boxes with a score at or below it are dropped"
    )

    @model_validator(mode="after")
    def _ordered(self) -> OutputSpec:
        if self.score_floor > self.threshold.value:
            raise ValueError(f"score_floor {self.score_floor:g} lies above the threshold {self.threshold.value:g}")
        return self
