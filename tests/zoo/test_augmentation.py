import torch
from scipy import ndimage

from xaiseg.zoo.augmentation import Augmentation, augment

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
