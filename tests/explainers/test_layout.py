import pytest
import torch
from torch import nn

from xaiseg.errors import UsageError
from xaiseg.explainers.layout import Layout, layout_of

ANY = nn.Identity()


@pytest.mark.parametrize(
    ("count", "grid", "expected"),
    [
        (196, (224, 224), (14, 14, 0)),
        (197, (224, 224), (14, 14, 1)),
        (201, (224, 224), (14, 14, 5)),
        (1 + 6 * 8, (96, 128), (6, 8, 1)),
        (30 * 40, (480, 640), (30, 40, 0)),
        (7 * 10, (100, 150), (7, 10, 0)),  # sides that the patches do not divide
        (1 + 2 * 32, (32, 512), (2, 32, 1)),
    ],
)
def test_the_grid_of_tokens_follows_from_their_number_and_the_inputs_proportions(count, grid, expected):
    found = layout_of((1, count, 4), ANY, grid)
    assert (found.rows, found.columns, found.leading) == expected


@pytest.mark.parametrize(
    ("shape", "part", "kind"),
    [
        ((1, 64, 12, 16), ANY, "first"),
        ((1, 12, 16, 64), ANY, "last"),
        ((1, 16, 16, 16), ANY, "first"),  # every reading fits: the usual one
        ((1, 16, 16, 16), nn.LayerNorm(16), "last"),
        ((1, 12, 16, 64), nn.Conv2d(1, 12, 1), "first"),
        ((1, 16, 12, 1), ANY, "first"),  # a strip
    ],
)
def test_channels_stand_where_the_proportions_or_the_part_say(shape, part, kind):
    grid = (16, 16) if shape == (1, 16, 16, 16) else (48, 64)
    assert layout_of(shape, part, grid).kind == kind


def test_what_has_no_grid():
    assert layout_of((1, 10), ANY, (8, 8)) is None
    assert layout_of((1, 35, 4), ANY, (64, 64)) is None
    assert layout_of((1, 2, 3, 4, 5), ANY, (8, 8)) is None
    with pytest.raises(UsageError, match=r"3 x 4.*11 cells"):
        layout_of((1, 11, 4), ANY, (8, 8), (3, 4))


def test_outputs_come_onto_their_grid_cell_by_cell():
    output = torch.randn(2, 1 + 6, 5)
    grid = Layout("tokens", 2, 3, 1).to_grid(output)
    assert grid.shape == (2, 5, 2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(grid[:, :, i, j], output[:, 1 + 3 * i + j])
    last = torch.randn(1, 2, 3, 5)
    torch.testing.assert_close(Layout("last", 2, 3).to_grid(last), last.permute(0, 3, 1, 2))
    assert (Layout("last", 2, 3).channel_axis, Layout("first", 2, 3).channel_axis) == (-1, 1)
