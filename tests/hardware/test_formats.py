import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything
from xaiseg.errors import UsageError
from xaiseg.hardware.folding import fold
from xaiseg.hardware.formats import Format, keeps_all_digits, quantised, shared
from xaiseg.hardware.graph import trace


def test_halves_are_rounded_up_and_values_kept_in_range():
    x = torch.tensor([0.5, 1.5, -0.5, -1.5, 300.0, -300.0])
    assert quantised(x, Format(0, True, 8), where="x").tolist() == [1, 2, 0, -1, 127, -128]
    assert quantised(x, Format(1, False, 8), where="x").tolist() == [1, 3, 0, 0, 255, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(UsageError, match="^layer: activations hold NaN"):
        quantised(torch.tensor([0.0, bad]), Format(0, True, 8), where="layer")


def test_parts_of_a_concatenation_share_one_format_with_what_pools_them():
    graph = fold(trace(Everything().eval())).graph
    group = shared(graph)
    (concat,) = (node for node in graph.nodes if node.kind == "concat")
    together = {name for name, value in group.items() if value == group[concat.name]}
    kinds = {node.kind for node in graph.nodes if node.name in together}
    assert {"concat", "bilinear", "nearest", "average_pool", "relu", "quantise", "convolution", "add"} == kinds
    assert len(set(group.values())) > 3


def test_a_head_keeps_all_digits_and_is_in_no_group():
    graph = trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).eval())
    assert [keeps_all_digits(graph, node) for node in graph.nodes] == [False, False, False, True]
    assert graph.nodes[-1].name not in shared(graph)
