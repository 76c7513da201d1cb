"""A Faster R-CNN with a MobileNetV2 and a feature pyramid of strides 8, 16 and 32, trained by this package's trainer.

``build`` is what the model.yaml of a training names; :mod:`benchmarks.flights` trains with ``--model faster-rcnn``. The
network is torchvision's; where it differs from ``fasterrcnn_mobilenet_v3_large_320_fpn``: levels of stride 8 and 16,
since a seal is 30 pixels long at 320, anchors from 16 pixels on, and 64 boxes an image in the second stage's loss.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d

from xaiseg.data.case import ImageSpec
from xaiseg.detector_sources import boxes_of
from xaiseg.fitting import train
from xaiseg.fitting_boxes import BoxPictures, BoxTask
from xaiseg.modelfile import flow
from xaiseg.subject import Boxes
from xaiseg.training import THRESHOLDS, own_grid, plain_entry
from xaiseg.training_parts import Parts, divided
from xaiseg.weights import file_digest
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.recipe import IGNORE, Recipe

RECIPE: Final = Recipe(
    size=320,
    epochs=10,
    images_per_epoch=288,
    batch=8,
    lr=5e-4,
    weight_decay=1e-2,
    clip=10.0,
    averaging=0.98,
    choose_threshold=True,
    augmentation=Augmentation(rotate_degrees=0, scale=0.3, shift=0.1, gain=0.25, gamma=0.2, blur_px=1.0, noise_sd=0.03),
    bfloat16=False,  # regions are cut out in float32
)
#: Blocks of MobileNetV2 whose answers the pyramid takes, and their channels: strides 8, 16 and 32.
_LEVELS: Final = {"6": "0", "13": "1", "17": "2"}
_CHANNELS: Final = [32, 96, 320]


def build(size: int = RECIPE.size) -> nn.Module:
    """Faster R-CNN for three channels and one class with random weights; images lie in [0, 1]."""
    # Frozen: batches of 8 are too small for statistics, and those of ImageNet are folded into the start.
    features = mobilenet_v2(norm_layer=FrozenBatchNorm2d).features[:18]
    backbone = BackboneWithFPN(features, _LEVELS, _CHANNELS, out_channels=128)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
    return FasterRCNN(
        backbone, num_classes=2, min_size=size, max_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        rpn_anchor_generator=anchors, rpn_pre_nms_top_n_train=600, rpn_post_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=150, rpn_batch_size_per_image=128,
        box_batch_size_per_image=64, box_score_thresh=0.01,
    )  # fmt: skip


class ListingTask(BoxTask):
    """Training of a detector of torchvision, which takes lists and computes its loss itself."""

    def loss(
        self,
        network: nn.Module,
        own: BoxPictures,
        chosen: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
        device: str,
    ) -> Tensor:
        """The sum of the losses of both stages."""
        images, boxes, labels = self.augmented(own, chosen, recipe, generator)
        targets = [_target(one, own_labels, device) for one, own_labels in zip(boxes, labels, strict=True)]
        losses: dict[str, Tensor] = network(list(images.to(device)), targets)
        return torch.stack(list(losses.values())).sum()

    def found(self, network: nn.Module, images: Tensor) -> list[Boxes]:
        """What a network finds in images (B, C, S, S) in [0, 1]."""
        return [boxes_of(one, first_label=1) for one in network(list(images))]


def _target(boxes: Tensor, labels: Tensor, device: str) -> dict[str, Tensor]:
    """Boxes with an area and a class; torchvision refuses others."""
    real = (labels >= 0) & (labels != IGNORE) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {"boxes": boxes[real].to(device), "labels": labels[real].long().to(device) + 1}


def train_faster_rcnn(data: Path, split: Path, out: Path, args: argparse.Namespace) -> None:
    """Trains on a folder and writes OUT/weights.safetensors and OUT/model.yaml; goes on where it was stopped.

    Args:
        data: images/ with COCO labels.
        split: a CSV file with the columns id and part.
        out: of the training.
        args: size, epochs (None = the recipe's), seed, and backbone: the state of ``mobilenet_v2().features`` as
            :mod:`benchmarks.mobilenet_tflite` writes it, None = random weights.
    """
    recipe = replace(RECIPE, size=args.size, epochs=args.epochs or RECIPE.epochs)
    spec = ImageSpec(channels=3, classes=("seal",), task="detection")
    parts = divided(data, out, args.seed, (), spec, split)

    def built() -> nn.Module:
        network: Any = build(args.size)
        if args.backbone is not None:
            state = {name: held for name, held in load_file(args.backbone).items() if not name.startswith("18.")}
            network.backbone.body.load_state_dict(state)
        return network  # type: ignore[no-any-return]

    train(
        built, parts.cases("train", spec), parts.cases("validation", spec), recipe=recipe, task=ListingTask(1),
        start=None if args.backbone is None else file_digest(args.backbone), out=out, seed=args.seed, classes=1,
    )  # fmt: skip
    path = write_model(out, parts, args.size, "value: 0.5, chosen_on: default")
    threshold, score = own_grid(path, parts, spec, THRESHOLDS)
    print(f"validation on the images' own grid: {score}")
    write_model(out, parts, args.size, f"value: {threshold}, chosen_on: val")


def write_model(out: Path, parts: Parts, size: int, threshold: str) -> Path:
    """The model.yaml of a training; its code is this file, beside which it needs this package alone."""
    path = out / "model.yaml"
    lines = [
        "name: faster-rcnn-mobilenet-v2",
        "task: detection",
        "classes: [seal]",
        f"source: {{torch: {flow(f'{Path(__file__).resolve()}:build')}, weights: weights.safetensors}}",
        f"input: {{channels: 3, range: [0, 1], size: [{size}, {size}], resize: pad}}",
        f"output: {{layout: torchvision, score_floor: 0.01, threshold: {{{threshold}}}}}",
        "trust: true",
        f"data_root: {flow(parts.root.as_posix())}",
        "data:",
        *(f"  {part}: {flow(plain_entry(parts.entries[part]))}" for part in ("test", "train", "validation")),
        'intended_use: ""',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
