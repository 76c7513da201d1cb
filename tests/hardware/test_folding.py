import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything, Vectors, images, seeded
from xaiseg.errors import UsageError
from xaiseg.hardware.folding import float_values, fold
from xaiseg.hardware.graph import trace


@pytest.mark.parametrize("network", [Everything(), Vectors()])
def test_the_folded_network_is_the_network(network):
    network, x = seeded(network).double(), images(3).double()
    graph = fold(trace(network)).graph
    assert not any(node.kind in ("norm", "identity") for node in graph.nodes)
    with torch.inference_mode():
        expected = network(x)
        assert torch.allclose(float_values(graph, (x,))[graph.output], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_behind_a_transposed_convolution_meets_output_channels(groups):
    network = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups), nn.BatchNorm2d(6))
    network, x = seeded(network).double(), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    graph = fold(trace(network)).graph
    assert len(graph.nodes) == 3
    assert torch.allclose(float_values(graph, (x,))[graph.output], network(x), rtol=0, atol=1e-12)


def test_rectifiers_join_only_what_nothing_else_reads():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.b(x + x.relu()).relu()

    network = seeded(Both())
    folded = fold(trace(network))
    assert [node.kind for node in folded.graph.nodes] == [
        "input",
        "quantise",
        "convolution",
        "relu",
        "add",
        "convolution",
    ]
    assert [node.rectifier is not None for node in folded.graph.nodes] == [False] * 5 + [True]
    x = images(1)
    assert torch.allclose(float_values(folded.graph, (x,))[folded.graph.output], network(x), atol=1e-6)


def test_a_norm_without_a_convolution_of_its_own_is_refused():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    with pytest.raises(UsageError, match=r"^norm: BatchNorm2d cannot be folded.*outside: \[norm\]"):
        fold(trace(Shared().eval()))
    with pytest.raises(UsageError, match="^2: BatchNorm2d cannot be folded"):
        fold(trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)).eval()))
    with pytest.raises(UsageError, match="keeps no running statistics"):
        fold(trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)).eval()))


def test_what_has_no_numbers_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).eval()
    network[1].weight.data.fill_(float("nan"))
    with pytest.raises(UsageError, match="^1: weights, bias or norm hold NaN"):
        fold(trace(network))
    with pytest.raises(UsageError, match="^0: .*this padding is not modelled"):
        fold(trace(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")).eval()))
    graph = fold(trace(nn.Sequential(nn.Linear(2, 2)).eval())).graph
    with pytest.raises(UsageError, match="a linear layer reads vectors"):
        float_values(graph, (torch.zeros(1, 2, 2),))
    with pytest.raises(UsageError, match="other arguments. Got: 2. Allowed: input"):
        float_values(graph, (torch.zeros(1, 2),) * 2)
