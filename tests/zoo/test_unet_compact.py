import torch
from torch import nn

from xaiseg.zoo.unet_compact import UNetCompact


def test_output_depends_on_far_and_near_pixels_of_its_own_image_only():
    torch.manual_seed(0)
    network = UNetCompact(1, 1).eval()
    image = torch.rand(2, 1, 64, 64, requires_grad=True)
    network(image)[0, 0, 32, 32].backward()
    reach = (image.grad[0, 0].abs() > 0).nonzero()
    assert (image.grad[1] == 0).all()
    assert reach.max(dim=0).values.min() - reach.min(dim=0).values.max() > 40


def test_a_shift_by_eight_pixels_shifts_the_output():
    torch.manual_seed(0)
    network = UNetCompact(1, 1).eval()
    image = torch.zeros(1, 1, 160, 160)
    image[..., 72:88, 72:88] = torch.rand(16, 16)
    with torch.no_grad():
        here, there = network(image), network(image.roll(8, dims=-1))
    torch.testing.assert_close(here.roll(8, dims=-1)[..., 60:100, 60:100], there[..., 60:100, 60:100])


def test_no_activation_is_in_place_so_that_attribution_methods_can_hook_it():
    assert not any(module.inplace for module in UNetCompact(1, 1).modules() if isinstance(module, nn.ReLU))


def test_it_exposes_nothing_intrinsic():
    assert UNetCompact(1, 1).intrinsic(torch.zeros(1, 1, 16, 16)) == {}
