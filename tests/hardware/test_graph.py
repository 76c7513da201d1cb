import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.hardware.networks import Everything
from xaiseg.errors import UsageError
from xaiseg.hardware.graph import trace


class Then(nn.Module):
    """A convolution and what a test puts behind it."""

    def __init__(self, behind) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(1, 2)
        self.constant = nn.Parameter(torch.ones(1))
        self.behind = behind

    def forward(self, x):
        return self.behind(self, self.conv(x))


def test_every_operator_gets_its_kind_and_its_numbers():
    graph = trace(Everything().eval())
    kinds = [node.kind for node in graph.nodes]
    assert [kinds.count(kind) for kind in ("convolution", "norm", "add", "concat", "bilinear", "nearest")] == [
        6, 4, 2, 1, 1, 1,
    ]  # fmt: skip
    by_kind = {node.kind: node.operation for node in graph.nodes}
    assert (by_kind["max_pool"].kernel, by_kind["max_pool"].stride, by_kind["max_pool"].padding) == (
        (3, 3),
        (2, 2),
        (1, 1),
    )
    assert (by_kind["bilinear"].factor, by_kind["nearest"].factor, by_kind["average_pool"].kernel) == (4, 2, (2, 2))
    assert sorted(node.operation.ceiling for node in graph.nodes if node.kind == "relu") == [
        6,
        float("inf"),
        float("inf"),
    ]


def test_gates_stay_in_floating_point_and_are_named():
    graph = trace(Everything().eval())
    assert [node.operator for node in graph.outside] == ["sigmoid", "mul"]
    assert all("gates are sigmoids and products" in line for line in graph.remains())
    product = graph.outside[1]
    (border,) = graph.readers(product.name)
    assert border.kind == "quantise"
    assert [node.kind for node in graph.readers(border.name)] == ["concat"]


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (lambda s, y: s.other(y), r"^other: GroupNorm .*cannot be folded.*1 convolutions.*outside: \[other\]"),
        (lambda s, y: F.instance_norm(y), "instance_norm cannot move .*cannot be folded"),
        (lambda s, y: F.gelu(y), r"own code: gelu cannot move .*no integer form.*outside: \[gelu\]"),
        (lambda s, y: y + 1, "reads a constant"),
        (lambda s, y: y + s.constant, "reads a constant"),
        (lambda s, y: torch.cat((y, y), 1), "one value twice"),
        (lambda s, y: torch.cat((y, F.relu(y))), "only channels"),
        (lambda s, y: torch.add(y, F.relu(y), alpha=2), "a sum with a factor"),
        (lambda s, y: F.avg_pool2d(y, 3), "a power of two of pixels"),
        (lambda s, y: F.avg_pool2d(y, 2, padding=1), "padding, ceil_mode and divisor_override"),
        (lambda s, y: F.max_pool2d(y, 3, ceil_mode=True), "ceil_mode, return_indices and dilation"),
        (lambda s, y: F.interpolate(y, size=(9, 9)), "one whole scale_factor: write scale_factor=2, .* in place"),
        (lambda s, y: F.interpolate(y, size=s.conv(y).shape[-2:]),
         r"^the network's own code: interpolate .*in place of size.*outside: \[getattr, getitem, interpolate\]"),
        (lambda s, y: F.interpolate(y, scale_factor=(2.0, 3.0)), "one whole scale_factor"),
        (lambda s, y: F.interpolate(y, scale_factor=3, mode="bilinear"), "needs a power of two"),
        (lambda s, y: F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True), "without align_corners"),
        (lambda s, y: y.flatten(), "after the first"),
        (lambda s, y: F.dropout(y), "evaluation mode is needed"),
        (lambda s, y: y if y.shape[0] else s.conv(y), "^Then: .*control flow.*network itself decides: move that code"),
        (lambda s, y: (y, y), "answers more than one tensor"),
    ],
)  # fmt: skip
def test_what_cannot_move_is_named_with_its_place(behind, message):
    with pytest.raises(UsageError, match=message):
        trace(Then(behind).eval())


def test_all_that_cannot_move_is_said_at_once_and_may_stay_outside():
    network = Then(lambda s, y: s.conv.weight.new_ones(1) * F.gelu(s.other(y))).eval()
    network.behind = lambda s, y: F.gelu(s.other(y))
    with pytest.raises(UsageError, match=r"GroupNorm in other, gelu in the network itself.*outside: \[other, gelu\]"):
        trace(network)
    graph = trace(network, outside=("other", "gelu"))
    assert [(node.kind, node.operator) for node in graph.nodes][-2:] == [("outside", "GroupNorm"), ("outside", "gelu")]
    assert graph.remains()[0].startswith("other (GroupNorm) stays in floating point: its mean and deviation")


def test_a_module_that_stays_outside_is_one_node():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1), nn.GELU()), nn.Conv2d(2, 1, 1)).eval()
    graph = trace(network, outside=("1",))
    assert [(node.kind, node.path) for node in graph.nodes][2:] == [
        ("convolution", "0"), ("outside", "1"), ("quantise", "1"), ("convolution", "2"),
    ]  # fmt: skip


def test_a_module_whose_code_decides_is_named_and_can_stay_outside():
    inner = Then(lambda s, y: y if y.mean() > 0 else -y)
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(inner), nn.Conv2d(2, 1, 1)).eval()
    with pytest.raises(UsageError, match=r'^1.0: .*cannot be traced.*floating point: outside: \["1.0"\].$'):
        trace(network)
    assert [node.path for node in trace(network, outside=("1.0",)).outside] == ["1.0"]


def test_a_step_up_behind_the_head_stays_outside():
    graph = trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear")).eval())
    assert graph.nodes[-1].kind == "outside"
    assert "all digits" in graph.remains()[0]


def test_networks_without_sense_here_are_refused():
    with pytest.raises(UsageError, match="^Sequential: the network has no convolution.*nothing that can move"):
        trace(nn.Sequential(nn.ReLU(), nn.GELU()).eval())
    with pytest.raises(UsageError, match="^Sequential: all convolutions are kept outside"):
        trace(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), outside=("0",))
    with pytest.raises(UsageError, match="^network: this module is in training mode"):
        trace(nn.Conv2d(1, 1, 1))
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()
    network[1].train()
    with pytest.raises(UsageError, match="^1: this module is in training mode"):
        trace(network)
    with pytest.raises(UsageError, match="outside: the network has no such part. Got: heads"):
        trace(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), outside=("heads",))
