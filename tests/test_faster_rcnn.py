import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.faster_rcnn import ListingTask, build, train_faster_rcnn
from xaiseg.loading import load_subject, read_model_file
from xaiseg.zoo.recipe import IGNORE


def test_boxes_without_an_area_and_regions_to_ignore_are_no_targets():
    from benchmarks.faster_rcnn import _target

    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 2, 9], [1, 1, 5, 5], [-1, -1, -1, -1]])
    held = _target(boxes, torch.tensor([0.0, 0, IGNORE, -1]), "cpu")
    assert held["boxes"].tolist() == [[0, 0, 4, 4]]
    assert held["labels"].tolist() == [1]  # 0 is torchvision's background


def test_the_pyramid_sees_seals():
    network = build(64).eval()
    with torch.no_grad():
        features = network.backbone(torch.rand(1, 3, 64, 64))
    assert [tuple(held.shape[-2:]) for held in features.values()] == [(8, 8), (4, 4), (2, 2), (1, 1)]


@pytest.fixture
def seals(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "tiles"
    (folder / "images").mkdir(parents=True)
    images, boxes, parts = [], [], ["id,part"]
    for index in range(6):
        pixels = rng.integers(180, 255, (64, 64, 3), dtype=np.uint8)
        pixels[20:40, 16:36] = 40
        Image.fromarray(pixels).save(folder / "images" / f"t{index}.png")
        images.append({"id": index, "file_name": f"t{index}.png", "width": 64, "height": 64, "group": f"g{index}"})
        boxes.append({"id": index, "image_id": index, "category_id": 1, "bbox": [16, 20, 20, 20], "area": 400})
        parts.append(f"t{index},{('train', 'train', 'train', 'train', 'validation', 'test')[index]}")
    held = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "seal"}]}
    (folder / "annotations.json").write_text(json.dumps(held), encoding="utf-8")
    (tmp_path / "parts.csv").write_text("\n".join(parts) + "\n", encoding="utf-8")
    return folder


def test_a_training_leaves_a_model_that_can_be_audited(seals, tmp_path, monkeypatch):
    from dataclasses import replace

    import benchmarks.faster_rcnn as faster

    monkeypatch.setattr(faster, "RECIPE", replace(faster.RECIPE, images_per_epoch=4, batch=2))
    args = argparse.Namespace(size=64, epochs=1, seed=0, backbone=None)
    train_faster_rcnn(seals, tmp_path / "parts.csv", tmp_path / "out", args)
    model = read_model_file(tmp_path / "out" / "model.yaml")
    assert model.output.threshold.chosen_on == "val"
    subject = load_subject(model)
    (found,) = subject.predict([torch.rand(3, 64, 64)])
    assert found.xyxy.shape[1] == 4


def test_a_step_lowers_the_loss_of_what_it_saw(seals):
    # The sum of both stages over the same pictures, before and after steps on them; regions are drawn by a seed.
    from dataclasses import replace

    from benchmarks.faster_rcnn import RECIPE
    from xaiseg.data.case import ImageSpec
    from xaiseg.training_parts import divided
    from xaiseg.zoo.augmentation import Augmentation

    task, recipe = ListingTask(1), replace(RECIPE, size=64, augmentation=Augmentation(0, 0, 0, 0, 0, 0, 0, 0))
    spec = ImageSpec(channels=3, classes=("seal",), task="detection")
    parts = divided(seals, seals.parent / "out", 0, (), spec, seals.parent / "parts.csv")
    own = task.pictures(parts.cases("train", spec), recipe, "train")
    torch.manual_seed(0)
    network = build(64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4)
    losses = []
    for _ in range(8):
        loss = task.loss(network, own, torch.arange(4), recipe, torch.Generator().manual_seed(0), "cpu")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
