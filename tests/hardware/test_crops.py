import pytest
import torch

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from xaiseg.hardware.crops import crop_agrees


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_crop_of_a_right_answer_agrees(name):
    layer = layer_named(name, bias=90)
    x = inputs_of(layer)
    found, offset = slow_sums(x, layer), layer.bias.double()
    assert all(crop_agrees(x, found, layer, layer.weight.double(), offset, seed=seed) for seed in range(40))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_crop_of_a_wrong_answer_differs(name):
    layer = layer_named(name)
    x = inputs_of(layer)
    found = slow_sums(x, layer)
    found[:, -1] += 1
    assert not any(crop_agrees(x, found, layer, layer.weight.double(), None, seed=seed) for seed in range(40))


def test_crops_visit_images_and_places():
    layer = layer_named("3x3")
    x = inputs_of(layer)
    right = slow_sums(x, layer)
    seen = set()
    for image, row in ((0, 0), (1, 0), (0, 8), (1, 8)):
        found = right.clone()
        found[image, :, row] += 1
        seen |= {
            (image, row)
            for seed in range(60)
            if not crop_agrees(x, found, layer, layer.weight.double(), None, seed=seed)
        }
    assert len(seen) == 4


def test_a_crop_of_fractions_does_not_agree():
    layer = layer_named("1x1")
    x = inputs_of(layer) / 2
    found = torch.nn.functional.conv2d(x.double(), layer.weight.double())
    assert not any(crop_agrees(x, found, layer, layer.weight.double(), None, seed=seed) for seed in range(5))
