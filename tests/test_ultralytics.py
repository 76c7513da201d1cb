"""The package itself, where it is installed: random networks whose scores are spread out, against its own answers."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from xaiseg.errors import UsageError
from xaiseg.loading import load_subject
from xaiseg.modelfile import parse_model

SIDE = 320
FLOOR = 0.2


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A folder of settings that is not the user's; none may be written into it by xaiseg."""
    folder = tmp_path_factory.mktemp("settings")
    before = {name: os.environ.get(name) for name in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_VERBOSE")}
    os.environ.update(YOLO_CONFIG_DIR=str(folder), YOLO_OFFLINE="true", YOLO_VERBOSE="false")
    try:
        import ultralytics  # noqa: F401
    except ImportError:
        pytest.skip("ultralytics is not installed (AGPL-3.0; pip install 'xaiseg[yolo]')")
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return folder


@pytest.fixture(scope="module")
def pictures():
    """Soft blobs of colour, exactly the network's size: the libraries resize differently."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((4, 3, 20, 20), dtype=np.float32))
    smooth = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def spread_out(network, pictures):
    """Statistics of these pictures for the normalisations, and class scores of which 1 in 500 passes one half."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.9
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(pictures.float() / 255)
        network.eval()
        last = [branch[-1] for branch in network.model[-1].cv3]
        seen = {}
        hooks = [layer.register_forward_hook(lambda module, _, answer: seen.update({module: answer})) for layer in last]
        network(pictures.float() / 255)
        for hook in hooks:
            hook.remove()
        for layer in last:
            raw = seen[layer] - layer.bias[None, :, None, None]
            layer.weight.mul_(3 / raw.std())
            layer.bias.fill_(-float(np.quantile((raw * (3 / raw.std())).numpy(), 0.998)))


@pytest.fixture(scope="module", params=["yolov8n", "yolov9t", "yolo11n", "yolov8n-seg", "yolo11n-seg"])
def saved(request, settings, pictures, tmp_path_factory):
    from ultralytics import YOLO

    torch.manual_seed(0)
    own = YOLO(f"{request.param}.yaml", verbose=False)
    spread_out(own.model, pictures)
    path = tmp_path_factory.mktemp("yolo") / f"{request.param}.pt"
    own.save(path)
    return path


def model(path, classes):
    text = (
        f"name: m\ntask: detection\nclasses: [{', '.join(classes)}]\nsource: {{ultralytics: {path.name}}}\n"
        f"input: {{channels: 3, range: [0, 1], size: [{SIDE}, {SIDE}], resize: letterbox}}\n"
        f"output: {{iou: 0.7, score_floor: {FLOOR}}}\ntrust: true\n"
    )
    return parse_model(text, path=path.parent / "model.yaml")


def test_it_finds_what_ultralytics_finds(saved, pictures, settings):
    from ultralytics import YOLO

    before = {path: path.read_bytes() for path in settings.rglob("*") if path.is_file()}
    theirs = YOLO(str(saved), verbose=False)
    subject = load_subject(model(saved, theirs.names.values()))
    ours = subject.predict(list(pictures.float() / 255))
    images = [picture.permute(1, 2, 0).flip(2).contiguous().numpy() for picture in pictures]  # BGR
    answers = theirs.predict(images, imgsz=SIDE, conf=FLOOR, iou=0.7, rect=False, device="cpu", verbose=False)
    assert sum(len(answer.boxes) for answer in answers) > 20
    for found, answer in zip(ours, answers, strict=True):
        boxes, labels = answer.boxes.xyxy, answer.boxes.cls.long()
        # It folds the normalisation into the convolutions, so that a score near the floor or a tie may fall otherwise.
        sure = answer.boxes.conf > FLOOR + 0.02
        far = (boxes[:, None] - found.xyxy[None]).abs().amax(dim=2)
        far = torch.maximum(far, 100 * (answer.boxes.conf[:, None] - found.scores[None]).abs())
        far = far + 1e3 * (labels[:, None] != found.labels[None])
        near = far.amin(dim=1) if len(found.scores) else torch.full((len(boxes),), 1e3)
        # The same class, all corners within a pixel and the score within 0.01.
        assert not sure.any() or (near[sure] < 1.0).float().mean() >= 0.97
    assert {path: path.read_bytes() for path in settings.rglob("*") if path.is_file()} == before
    assert {"raw_boxes", "gradients"} <= subject.info.offers
    assert ("instance_masks" in subject.info.offers) == saved.stem.endswith("-seg")


@pytest.mark.parametrize("saved", ["yolov8n-seg", "yolo11n-seg"], indirect=True)
def test_its_instance_masks_lie_where_ultralytics_says(saved, pictures):
    from ultralytics import YOLO

    theirs = YOLO(str(saved), verbose=False)
    (found,) = load_subject(model(saved, theirs.names.values())).predict([pictures[0].float() / 255])
    image = pictures[0].permute(1, 2, 0).flip(2).contiguous().numpy()
    answer = theirs.predict(image, imgsz=SIDE, conf=FLOOR, iou=0.7, device="cpu", retina_masks=True, verbose=False)[0]
    assert found.masks is not None
    far = (answer.boxes.xyxy[:, None] - found.xyxy[None]).abs().amax(dim=2)
    near, which = far.min(dim=1)
    matched = torch.nonzero(near < 0.1).ravel()
    assert len(matched) > 5
    own, mine = answer.masks.data[matched].bool(), found.masks[which[matched]].bool()
    either = (own | mine).flatten(1).sum(dim=1)
    overlap = (own & mine).flatten(1).sum(dim=1)[either > 50] / either[either > 50]
    assert float(overlap.median()) > 0.95


def test_other_classes_and_other_tasks_are_refused(settings, tmp_path):
    from ultralytics import YOLO

    for name in ("yolov8n", "yolov8n-cls"):
        YOLO(f"{name}.yaml", verbose=False).save(tmp_path / f"{name}.pt")
    with pytest.raises(UsageError, match="other classes"):
        load_subject(model(tmp_path / "yolov8n.pt", ["seal"]))
    with pytest.raises(UsageError, match="the file is no detector"):
        load_subject(model(tmp_path / "yolov8n-cls.pt", ["seal"]))
