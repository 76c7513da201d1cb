import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from torch import nn

from xaiseg.faithfulness.sensitivity import max_sensitivity, nearby

IMAGE = torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(0))


def test_nearby_images_lie_within_the_radius_and_repeat():
    first = list(nearby(IMAGE, 0.1, 4, seed=3))
    again = list(nearby(IMAGE, 0.1, 4, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], next(nearby(IMAGE, 0.1, 1, seed=4)))
    spread = torch.stack(first) - IMAGE
    assert 0.08 < float(spread.abs().max()) <= 0.1 + 1e-6
    assert float(spread.min()) < -0.05 < 0.05 < float(spread.max())


def test_the_largest_relative_change_by_the_definition():
    def square(x):
        return x[0].double().numpy() ** 2

    own = square(IMAGE)
    changes = [np.sqrt(((square(x) - own) ** 2).sum()) / np.sqrt((own**2).sum()) for x in nearby(IMAGE, 0.1, 5, 1)]
    assert max_sensitivity(square, IMAGE, radius=0.1, samples=5, seed=1) == pytest.approx(max(changes))
    assert max_sensitivity(square, IMAGE, radius=0.1, samples=5, seed=1, original=own) == pytest.approx(max(changes))


def test_a_map_that_does_not_look_at_the_image_is_not_sensitive_and_a_blank_one_undefined():
    assert max_sensitivity(lambda x: np.ones((6, 7)), IMAGE, radius=0.1) == 0.0
    assert max_sensitivity(lambda x: np.zeros((6, 7)), IMAGE, radius=0.1) is None


def test_it_is_captums_on_the_same_nearby_images():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 4 * 5, 1)).double()

    def saliency(batch):
        leaf = batch.double().clone().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(network(leaf).sum(), leaf)[0]

    drawn = torch.stack(list(nearby(IMAGE, 0.05, 6, seed=2)))
    expected = sensitivity_max(
        lambda inputs: (saliency(inputs[0] if isinstance(inputs, tuple) else inputs),),
        IMAGE[None],
        perturb_func=lambda inputs: drawn,
        n_perturb_samples=6,
        max_examples_per_batch=6,
    )
    own = max_sensitivity(lambda x: saliency(x[None])[0, 0].numpy(), IMAGE, radius=0.05, samples=6, seed=2)
    assert own == pytest.approx(float(expected[0]), rel=1e-6)
