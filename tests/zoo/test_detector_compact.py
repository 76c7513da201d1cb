import pytest
import torch

from xaiseg import zoo
from xaiseg.data.scenes import SceneSpec, scene_case
from xaiseg.fitting_boxes import BoxPictures, BoxTask, average_precision_of, pools_of
from xaiseg.loading import load_subject, read_model_file
from xaiseg.subject import RawBoxes
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.detector_compact import PRIOR, STRIDES, DetectorCompact, decode
from xaiseg.zoo.detector_loss import detection_loss


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DetectorCompact(3, 2).eval()


def test_decoding_is_what_the_docstring_says():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 6, 4, generator=generator)
    centres = torch.rand(6, 2, generator=generator) * 100
    boxes = decode(values, centres, 16)
    for image in range(2):
        for cell in range(6):
            dx, dy, width, height = values[image, cell].tolist()
            x, y = centres[cell, 0].item() + 16 * dx, centres[cell, 1].item() + 16 * dy
            w, h = 16 * torch.tensor(width).exp().item(), 16 * torch.tensor(height).exp().item()
            expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            torch.testing.assert_close(boxes[image, cell], expected)


def test_cells_cover_the_grid_and_say_their_level(network):
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        dense, raw = network.dense(x), network(x)
    assert isinstance(raw, RawBoxes)
    cells = [(8 * c + 4, 8 * r + 4) for r in range(8) for c in range(12)]
    cells += [(16 * c + 8, 16 * r + 8) for r in range(4) for c in range(6)]
    assert dense.centres.tolist() == [list(map(float, cell)) for cell in cells]
    assert dense.strides.tolist() == [8.0] * 96 + [16.0] * 24
    assert raw.level.tolist() == [0] * 96 + [1] * 24
    torch.testing.assert_close(raw.scores, dense.logits.sigmoid())
    torch.testing.assert_close(raw.xyxy, dense.boxes)


def test_a_cell_answers_for_what_lies_under_it(network):
    """A change in one corner of the picture moves the scores of the cells there most, on both levels."""
    x = torch.rand(1, 3, 256, 256)
    changed = x.clone()
    changed[..., 200:216, 40:56] = 1 - changed[..., 200:216, 40:56]
    with torch.no_grad():
        dense, other = network.dense(x), network.dense(changed)
    moved = (dense.logits - other.logits).abs().amax(dim=2)[0]
    for stride in STRIDES:
        level = dense.strides == stride
        x_at, y_at = dense.centres[level][moved[level].argmax()].tolist()
        assert abs(x_at - 48) <= 3 * stride
        assert abs(y_at - 208) <= 3 * stride


def test_an_untrained_detector_finds_nothing(network):
    with torch.no_grad():
        scores = network(torch.rand(1, 3, 128, 128)).scores
    assert 0.2 * PRIOR < float(scores.median()) < 5 * PRIOR


def test_candidates_are_differentiable_from_the_image(network):
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    raw = network(x)
    for value in (raw.scores[0, 10, 1], raw.xyxy[0, 70, 2]):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert float(gradient.abs().sum()) > 0


def test_the_answer_does_not_depend_on_the_rest_of_the_batch(network):
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        whole, alone = network(x), network(x[1:2])
    torch.testing.assert_close(whole.scores[1:2], alone.scores, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(whole.xyxy[1:2], alone.xyxy, atol=1e-4, rtol=1e-5)


def test_it_learns_four_scenes_by_heart():
    spec, wanted = SceneSpec(split="train", size=(128, 128), empty_share=0.0), (0, 3, 5, 9)
    scenes = [scene_case(spec, index) for index in wanted]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes])
    most = max(len(scene.boxes) for scene in scenes)
    boxes = torch.full((4, most, 5), -1.0)
    for row, scene in enumerate(scenes):
        boxes[row, : len(scene.boxes)] = torch.from_numpy(scene.boxes)
    torch.manual_seed(0)
    network = DetectorCompact(3, 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    first = None
    for _ in range(70):
        loss = detection_loss(network.dense(images.float() / 255), boxes[..., :4], boxes[..., 4])
        first = loss.item() if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.35 * first
    held = BoxPictures(images, boxes[..., :4], boxes[..., 4], list("abcd"))
    # In training mode, since running averages need more steps than this.
    network.eval = lambda: network
    score = BoxTask().score(network, held)
    assert score.ap50 > 0.9
    assert score.f1 > 0.9


def test_the_card_and_the_recipe_say_detection():
    card = zoo.card("detector-compact")
    assert card.task == "detection"
    assert card.parameters < 1_000_000
    recipe = zoo.recipe_of("detector-compact")
    assert recipe.size % card.multiple_of == 0
    assert recipe.augmentation != Augmentation()


def test_the_shipped_detector_finds_seals(repository):
    model = read_model_file(repository / "examples" / "wildlife" / "model.yaml")
    subject = load_subject(model)
    assert {"raw_boxes", "gradients", "activations"} <= subject.info.offers
    spec, found, truths = SceneSpec(), [], []
    for index in range(24):
        scene = scene_case(spec, index)
        found += subject.predict([torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255])
        truths.append(scene.boxes)
    assert average_precision_of(pools_of(found, truths, 1)) > 0.5
