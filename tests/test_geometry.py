import pytest
import torch

from xaiseg.geometry import boxes_to_image, place, to_image, to_network


@pytest.mark.parametrize("resize", ["pad", "stretch", "none"])
@pytest.mark.parametrize(("image", "size"), [((40, 56), (32, 32)), ((33, 17), (64, 48)), ((16, 16), None)])
def test_the_grid_is_a_multiple_and_holds_the_image(image, size, resize):
    placement = place(image, size=size, resize=resize, multiple_of=16)
    assert placement.outer[0] % 16 == placement.outer[1] % 16 == 0
    for axis in (0, 1):
        assert 0 <= placement.offset[axis] <= placement.outer[axis] - placement.inner[axis]


def test_pad_keeps_the_aspect():
    placement = place((100, 200), size=(64, 64))
    assert placement.inner == (32, 64)
    assert placement.offset == (16, 0)


@pytest.mark.parametrize("multiple", [1, 16])
def test_without_resizing_the_way_there_and_back_changes_nothing(multiple):
    image = torch.rand(1, 2, 21, 35)
    placement = place((21, 35), multiple_of=multiple)
    assert torch.equal(to_image(to_network(image, placement, fill=0.0), placement), image)


def test_padding_has_the_fill_value_and_the_image_its_place():
    placement = place((4, 4), size=(8, 6))
    placed = to_network(torch.ones(1, 1, 4, 4), placement, fill=-3.0)
    assert placed.shape[-2:] == (8, 6)
    assert (placed == -3.0).sum() == 8 * 6 - 6 * 6
    torch.testing.assert_close(placed[placed != -3.0], torch.ones(36))


def test_reducing_averages_so_that_nothing_thin_is_lost():
    image = torch.zeros(1, 1, 64, 64)
    image[..., ::2] = 1.0
    placed = to_network(image, place((64, 64), size=(16, 16)), fill=0.0)
    assert (placed[..., 2:-2] - 0.5).abs().max() < 0.05


def test_a_ramp_comes_back_as_the_ramp():
    ramp = torch.linspace(0, 1, 60).expand(1, 1, 40, 60)
    placement = place((40, 60), size=(32, 32))
    back = to_image(to_network(ramp, placement, fill=0.0), placement)
    assert (back - ramp)[..., 3:-3].abs().max() < 0.02


def test_a_coarser_answer_is_brought_to_the_image():
    placement = place((30, 20), multiple_of=8)
    assert to_image(torch.rand(1, 2, 8, 6), placement).shape == (1, 2, 30, 20)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_gradients_reach_the_images_own_pixels(resize):
    image = torch.rand(1, 1, 20, 30, requires_grad=True)
    placement = place((20, 30), size=(16, 16), resize=resize)
    to_image(to_network(image, placement, fill=0.0), placement).sum().backward()
    assert (image.grad.abs() > 0).float().mean() > 0.95


def test_a_corner_is_where_the_picture_begins():
    placement = place((40, 20), size=(32, 32), multiple_of=16, align="corner")
    assert (placement.inner, placement.outer, placement.offset) == ((32, 16), (32, 32), (0, 0))
    placed = to_network(torch.ones(1, 1, 40, 20), placement, fill=0.0)
    torch.testing.assert_close(placed[..., :16], torch.ones(1, 1, 32, 16))
    assert placed[..., 16:].max() == 0


@pytest.mark.parametrize("align", ["centre", "corner"])
@pytest.mark.parametrize("resize", ["pad", "stretch", "none"])
@pytest.mark.parametrize("image", [(40, 56), (33, 17), (64, 48)])
def test_boxes_come_back_as_a_map_of_them_does(image, resize, align):
    placement = place(image, size=(64, 48), resize=resize, multiple_of=16, align=align)
    top, left = placement.offset
    height, width = placement.inner
    whole = torch.tensor([[left, top, left + width, top + height]]).float().requires_grad_()
    back = boxes_to_image(whole, placement)
    torch.testing.assert_close(back, torch.tensor([[0.0, 0.0, image[1], image[0]]]))
    back.sum().backward()
    assert (whole.grad > 0).all()
    # A box drawn on the network's grid covers, after both ways, the same pixels of the image.
    inside = torch.tensor([left + width // 4, top + height // 4, left + width // 2, top + height // 2])
    drawn = torch.zeros(1, 1, *placement.outer)
    drawn[..., inside[1] : inside[3], inside[0] : inside[2]] = 1
    rows, columns = torch.nonzero(to_image(drawn, placement)[0, 0] >= 0.5, as_tuple=True)
    seen = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    assert (boxes_to_image(inside.float(), placement) - seen).abs().max() <= 1
