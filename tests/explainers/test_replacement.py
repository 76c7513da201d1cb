import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import bright_square
from xaiseg.errors import UsageError
from xaiseg.explainers.replacement import DESCRIPTION, replacement


@pytest.mark.parametrize("kind", sorted(DESCRIPTION))
@pytest.mark.parametrize("shape", [(1, 24, 32), (3, 7, 5), (2, 1, 1), (1, 1, 30)])
def test_every_kind_fits_every_image(kind, shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = replacement(image, kind, dataset_mean=torch.full((shape[0], 1, 1), 0.3))
    assert found.shape == image.shape
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert image.min() - 1e-6 <= found.min() or kind == "dataset-mean"
    assert found.max() <= image.max() + 1e-6 or kind == "dataset-mean"


def test_noise_depends_on_the_seed_alone_and_looks_like_the_image():
    image = bright_square(height=64, width=64)
    first, again, other = (replacement(image, "noise", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(first.mean() - image.mean())) < 0.05


def test_inpaint_is_the_mean_of_the_circle_by_its_definition():
    image = torch.rand(2, 20, 31, generator=torch.Generator().manual_seed(3))
    found = replacement(image, "inpaint").numpy()
    for i, j in ((0, 0), (10, 15), (19, 30), (3, 28)):
        circle = [
            image[:, k, m].numpy() for k in range(20) for m in range(31) if round(float(np.hypot(k - i, m - j))) == 2
        ]
        np.testing.assert_allclose(found[:, i, j], np.mean(circle, axis=0), atol=1e-5)


def test_inpaint_leaves_a_plane_as_it_is_and_hides_a_small_bright_spot():
    plane = (torch.arange(40.0)[:, None] + 2 * torch.arange(40.0)).div(120)[None]
    inner = (slice(None), slice(5, 35), slice(5, 35))
    torch.testing.assert_close(replacement(plane, "inpaint")[inner], plane[inner], atol=1e-5, rtol=0)
    spot = torch.zeros(1, 40, 40)
    spot[0, 19:22, 19:22] = 1
    assert replacement(spot, "inpaint")[0, 20, 20] < 1e-6


def test_the_dataset_mean_is_the_callers():
    image, mean = torch.rand(2, 4, 5), torch.rand(2, 4, 5)
    assert torch.equal(replacement(image, "dataset-mean", dataset_mean=mean), mean)
    assert replacement(image, "dataset-mean", dataset_mean=np.ones((2, 1, 1)))[1, 3, 4] == 1
    with pytest.raises(UsageError, match="was not given"):
        replacement(image, "dataset-mean")
    with pytest.raises(UsageError, match="does not fit"):
        replacement(image, "dataset-mean", dataset_mean=torch.zeros(3, 1, 1))
    with pytest.raises(UsageError, match="no such baseline"):
        replacement(image, "black")
