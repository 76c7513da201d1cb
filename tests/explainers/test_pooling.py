"""Region-pooled activations: the average over the region's pixels of what the layer shows on the image."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.test_tap import Tokens
from tests.explainers.toy_concepts import A, B, planted
from tests.explainers.toy_segmenters import ToySegmenter, small_unet
from xaiseg.adapters import wrap_module
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import pooling
from xaiseg.explainers.pooling import Example, encoded, find_layer, pool, region_weights
from xaiseg.modelfile import InputSpec

RNG = np.random.default_rng(3)


def picture(height=13, width=21, seed=0):
    return np.random.default_rng(seed).uniform(size=(1, height, width)).astype(np.float32)


def slow(subject, image, mask, place):
    """Enlarges every channel to the image and averages pixel by pixel."""
    ((_, activation),) = encoded(subject, [Example("x", image)], place)
    shown = subject.to_image_grid(activation[:, None], mask.shape)[:, 0].numpy()
    total, count = np.zeros(len(shown)), 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                total += shown[:, y, x]
                count += 1
    return total / count


SPECS = {
    "own grid": InputSpec(multiple_of=2),
    "padded": InputSpec(size=(32, 32), resize="pad"),
    "stretched": InputSpec(size=(16, 24), resize="stretch"),
    "padded to a multiple": InputSpec(multiple_of=8),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("size", [(13, 21), (24, 10), (4, 6)])
def test_pooling_is_the_average_over_the_region_pixel_by_pixel(spec, size):
    subject = wrap_module(small_unet().network, spec)
    image, mask = picture(*size), RNG.uniform(size=size) < 0.3
    mask[1, 2] = True
    found = pool(subject, [Example("x", image, (mask, ~mask))])
    assert found.place.layer == "bottom.2"
    for vector, region in zip(found.vectors, (mask, ~mask), strict=True):
        np.testing.assert_allclose(vector, slow(subject, image, region, found.place), rtol=1e-5, atol=1e-6)


def test_whole_images_are_pooled_over_all_their_pixels_and_the_padding_counts_nothing():
    subject = wrap_module(small_unet().network, InputSpec(size=(32, 32), resize="pad"))
    image = picture(8, 32)
    found = pool(subject, [Example("x", image)])
    everywhere = np.ones((8, 32), dtype=bool)
    np.testing.assert_allclose(found.vectors[0], slow(subject, image, everywhere, found.place), rtol=1e-5)
    weights = region_weights(subject, [everywhere], (16, 16))[0].numpy()
    assert weights[:5].sum() == 0
    assert weights[11:].sum() == 0
    assert weights.sum() == pytest.approx(1)
    assert (found.rows[0].region, found.rows[0].box) == (None, (0, 0, 32, 8))


def test_a_region_finds_the_direction_planted_in_it():
    image = np.zeros((2, 8, 12), dtype=np.float32)
    image[0, :, :4], image[1, :, 8:] = 2.0, 3.0
    left, right = np.zeros((2, 8, 12), dtype=bool)
    left[:, :4], right[:, 8:] = True, True
    found = pool(planted(), [Example("x", image, (left, right))])
    assert found.place.layer == "relu"
    np.testing.assert_allclose(found.vectors, [2 * A, 3 * B], rtol=1e-5)
    assert [row.box for row in found.rows] == [(0, 0, 4, 8), (8, 0, 12, 8)]


def test_batches_of_any_size_and_mixed_image_sizes_change_nothing():
    subject = small_unet()
    shown = [Example(str(n), picture(*size, seed=n)) for n, size in enumerate([(8, 12)] * 3 + [(10, 6)] * 2)]
    one, many = (pool(subject, iter(shown), batch_size=size).vectors for size in (1, 4))
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(many, pool(subject, shown, batch_size=4).vectors)


def test_no_more_than_a_batch_is_read_ahead_and_no_gradient_is_kept(monkeypatch):
    subject, drawn = small_unet(), []

    def stream():
        for n in range(9):
            drawn.append(n)
            yield Example(str(n), picture(8, 12, seed=n))

    place = find_layer(subject, picture(8, 12))
    reading = encoded(subject, stream(), place, batch_size=2)
    _, activation = next(reading)
    assert len(drawn) <= 3
    assert not activation.requires_grad
    sizes = []
    forward = subject.forward
    monkeypatch.setattr(
        subject, "forward", lambda batch: sizes.append((len(batch), torch.is_grad_enabled())) or forward(batch)
    )
    list(reading)
    assert sizes == [(2, False), (2, False), (2, False), (1, False)]


def test_many_regions_are_taken_in_chunks_with_the_same_result():
    subject = small_unet()
    masks = [RNG.uniform(size=(9, 14)) < 0.4 for _ in range(5)]
    whole, chunks = (region_weights(subject, masks, (4, 7), chunk=size) for size in (8, 2))
    torch.testing.assert_close(whole, chunks)


def test_an_empty_region_has_a_reason_and_no_vector():
    empty, full = np.zeros((8, 12), dtype=bool), np.ones((8, 12), dtype=bool)
    found = pool(small_unet(), [Example("x", picture(8, 12), (empty, full)), Example("none", picture(8, 12), ())])
    assert [row.reason for row in found.rows] == [pooling.EMPTY_REGION, ""]
    assert found.rows[0].box is None
    assert np.isnan(found.vectors[0]).all()
    assert np.isfinite(found.vectors[1]).all()


def test_tokens_are_put_on_their_grid():
    torch.manual_seed(0)
    subject = ToySegmenter(Tokens().eval())
    image = picture(16, 24)
    place = find_layer(subject, image)
    mask = np.zeros((16, 24), dtype=bool)
    mask[:8, :8] = True
    found = pool(subject, [Example("x", image, (mask,))], place=place)
    np.testing.assert_allclose(found.vectors[0], slow(subject, image, mask, place), rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_executed_twice_is_read_where_the_tap_read_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Conv2d(1, 1, 1, bias=False)
            self.head = nn.Conv2d(1, 1, 3, padding=1)
            nn.init.constant_(self.shared.weight, 2.0)

        def forward(self, x):
            return self.head(self.shared(self.shared(x)))

    found = pool(ToySegmenter(Twice()), [Example("x", np.ones((1, 4, 4), dtype=np.float32))], layer="shared")
    assert found.place.run == 1
    assert found.vectors[0].item() == pytest.approx(4)


def test_hooks_are_gone_and_modes_restored_even_after_an_error(monkeypatch):
    subject = small_unet()
    subject.network.down.train()
    place = find_layer(subject, picture(8, 12))
    list(encoded(subject, [Example("x", picture(8, 12))], place))
    monkeypatch.setattr(subject.network.head, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(encoded(subject, [Example("x", picture(8, 12))], place))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in subject.network.modules())
    assert subject.network.down.training
    assert not subject.network.bottom.training


def test_what_cannot_be_pooled_is_one_clear_error():
    subject, image = small_unet(), picture(8, 12)
    with pytest.raises(UsageError, match="no image to read"):
        pool(subject, [])
    with pytest.raises(UsageError, match="no example has a region"):
        pool(subject, [Example("x", image, ())])
    with pytest.raises(UsageError, match="x: a region must lie on its image's grid"):
        pool(subject, [Example("x", image, (np.ones((4, 4), dtype=bool),))])
    with pytest.raises(UsageError, match="mask of truth values"):
        pool(subject, [Example("x", image, (np.ones((8, 12)),))])
    with pytest.raises(UsageError, match="did you mean 'bottom"):
        pool(subject, [Example("x", image)], layer="botom")
    with pytest.raises(SubjectError, match="not finite"):
        pool(subject, [Example("x", image), Example("y", image * np.nan)])


def test_a_black_box_is_one_clear_error():
    subject = ToySegmenter(small_unet().network, offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="toy: pooling a layer needs activations and forward and gradients"):
        pool(subject, [Example("x", picture(8, 12))])
