import torch
from scipy import ndimage

from xaiseg.zoo.augmentation import Augmentation, augment, augment_boxes

OFF = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)


def only(**settings):
    return Augmentation(**{**vars(OFF), **settings})


def run(settings, images, masks=None, seed=0):
    masks = (images[:, 0] > 0.5).to(torch.uint8) if masks is None else masks
    return augment(images, masks, settings, torch.Generator().manual_seed(seed))


def pictures(count=6, side=32):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(5))


def test_switched_off_it_changes_nothing():
    images = pictures()
    changed, masks = run(OFF, images)
    torch.testing.assert_close(changed, images, atol=1e-5, rtol=0)
    assert torch.equal(masks, (images[:, 0] > 0.5).to(torch.uint8))


def test_it_is_the_same_under_a_seed():
    images = pictures()
    assert torch.equal(run(Augmentation(), images)[0], run(Augmentation(), images)[0])
    assert not torch.equal(run(Augmentation(), images)[0], run(Augmentation(), images, seed=1)[0])


def test_a_flip_flips_image_and_mask():
    images = pictures()
    changed, masks = run(only(flip=1.0), images)
    torch.testing.assert_close(changed, images.flip(-1), atol=1e-5, rtol=0)
    assert torch.equal(masks, (images[:, 0] > 0.5).to(torch.uint8).flip(-1))


def test_image_and_mask_move_together():
    images = torch.zeros(8, 1, 64, 64)
    images[..., 24:40, 20:44] = 1.0
    changed, masks = run(only(rotate_degrees=20, scale=0.2, shift=0.1), images)
    valid = masks != 255
    overlap = ((changed[:, 0] > 0.5) == (masks == 1))[valid].float().mean()
    assert overlap > 0.99
    assert (masks != (images[:, 0] > 0.5)).any()


def test_what_comes_from_outside_the_image_does_not_count():
    images = torch.ones(8, 1, 32, 32)
    changed, masks = run(only(shift=0.3), images, torch.ones(8, 32, 32, dtype=torch.uint8))
    assert set(masks.unique().tolist()) == {1, 255}
    assert ((changed[:, 0] < 0.2) <= (masks == 255)).all()


def test_the_blur_is_gaussian():
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 16] = 1.0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        changed = augment(image, torch.zeros(1, 33, 33, dtype=torch.uint8), only(blur_px=2.0), generator)[0][0, 0]
        rows = torch.arange(33) - 16.0
        sd = float(((changed * rows[:, None] ** 2).sum() / changed.sum()).sqrt())
        expected = torch.from_numpy(ndimage.gaussian_filter(image[0, 0].numpy(), max(sd, 1e-3), truncate=2.5))
        assert sd <= 2.0
        torch.testing.assert_close(changed, expected, atol=0.02, rtol=0)


def test_values_stay_between_zero_and_one():
    changed, _ = run(Augmentation(gain=2.0, noise_sd=0.5), pictures())
    assert changed.min() >= 0
    assert changed.max() <= 1


def rectangles(count=16, side=64, objects=3, seed=2):
    """Bright rectangles on black, their boxes and labels; the last object of each image is none."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(4, 40, (count, objects, 2), generator=generator).float()
    boxes = torch.cat((low, low + torch.randint(6, 20, (count, objects, 2), generator=generator)), dim=2)
    labels = torch.zeros(count, objects)
    labels[:, -1] = -1
    images = torch.zeros(count, 1, side, side)
    for image, held in zip(images, boxes.long().tolist(), strict=True):
        left, top, right, bottom = held[0]
        image[:, top:bottom, left:right] = 1.0
    return images, boxes, labels


def moved(settings, seed=0):
    images, boxes, labels = rectangles()
    return augment_boxes(images, boxes, labels, settings, torch.Generator().manual_seed(seed))


def test_boxes_stay_around_what_they_held():
    images, boxes, labels = moved(only(flip=0.5, scale=0.3, shift=0.1))
    assert len({tuple(row) for row in boxes[:, 0].round().tolist()}) > 10
    for image, box, label in zip(images[:, 0], boxes[:, 0], labels[:, 0], strict=True):
        rows, columns = torch.nonzero(image > 0.5, as_tuple=True)
        if label == 0 and len(rows):
            seen = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
            torch.testing.assert_close(seen, box, atol=1.01, rtol=0)


def test_all_eight_turns_occur_and_each_keeps_boxes_tight():
    images = torch.zeros(64, 1, 32, 32)
    images[:, :, 3:7, 5:17] = 1.0  # no turn leaves this as it is
    boxes = torch.tensor([5.0, 3, 17, 7]).expand(64, 1, 4)
    turned, found, _ = augment_boxes(
        images, boxes, torch.zeros(64, 1), only(flip=0.5), torch.Generator().manual_seed(0)
    )
    assert len({tuple(box) for box in found[:, 0].round().int().tolist()}) == 8
    for image, (left, top, right, bottom) in zip(turned[:, 0], found[:, 0].round().int().tolist(), strict=True):
        assert float(image[top:bottom, left:right].min()) > 0.99
        assert float(image.sum()) == torch.tensor(48.0).item() or abs(float(image.sum()) - 48) < 1e-3


def test_what_leaves_the_image_is_ignored_and_what_has_left_is_gone():
    images = torch.zeros(400, 1, 64, 64)
    boxes = torch.tensor([[0.0, 20, 16, 36], [24, 24, 40, 40]]).expand(400, 2, 4)
    _, found, labels = augment_boxes(
        images, boxes, torch.zeros(400, 2), only(shift=0.4), torch.Generator().manual_seed(0)
    )
    shares = (found[..., 2:] - found[..., :2]).prod(dim=2) / 256
    assert ((labels == 0) == (shares >= 0.25)).all()
    assert ((labels == 255) == ((shares > 0) & (shares < 0.25))).all()
    assert ((labels == -1) == (shares <= 0)).all()
    assert {int(label) for label in labels[:, 0]} == {0, 255, -1}
    assert (found >= 0).all()
    assert (found <= 64).all()


def test_what_is_no_object_stays_none():
    _, _, labels = moved(only(flip=0.5, scale=0.3))
    assert (labels[:, -1] == -1).all()
