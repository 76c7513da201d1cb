"""Networks of many shapes, replayed from a layer on: either exactly, or found out and run whole."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.explainers.test_tap import Tokens
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cam_masks import AblationCamParams
from xaiseg.explainers.replay import ablated, record
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


class Conv(nn.Conv2d):
    def __init__(self, inputs=2, outputs=2):
        super().__init__(inputs, outputs, 3, padding=1)


class Twice(nn.Module):
    """One layer before, at and behind the place of the ablation."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = Conv(1), Conv(), Conv(2, 1)

    def forward(self, x):
        y = self.shared(self.first(x))
        y = self.shared(torch.relu(y))
        return self.last(torch.relu(y))


class SharedBehind(Twice):
    def forward(self, x):
        y = self.shared(self.first(x))
        z = self.last(y)
        return z + self.last(self.shared(torch.relu(y)))


class Aliased(Twice):
    """The first layer's output is written over by a module, and used again afterwards."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        nn.init.constant_(self.first.bias, -0.3)

    def forward(self, x):
        y = self.first(x)
        z = self.shared(self.relu(y))
        return self.last(z + y)


class WrittenOver(Twice):
    """The same by a function, which is executed again and so writes over the replayed output too."""

    def forward(self, x):
        y = self.first(x)
        z = self.shared(F.relu(y, inplace=True))
        return self.last(z + y)


class Vector(Twice):
    """A gate of the whole image, from a layer without a grid."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(2, 2)

    def forward(self, x):
        y = self.first(x)
        gate = torch.sigmoid(self.gate(y.mean(dim=(2, 3))))
        return self.last(self.shared(y * gate[:, :, None, None]))


class BatchSecond(Twice):
    """A layer before keeps the batch on the second axis, so that its outputs cannot be repeated on the first."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Identity()

    def forward(self, x):
        y = self.first(x)
        y = self.rows(y.transpose(0, 1)).transpose(0, 1)
        return self.last(self.shared(y) + y)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Tupled(Twice):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        y, _ = self.pair(self.first(x))
        return self.last(self.shared(y))


def whole(subject, image, layer, run, axis, channels):
    """The score with each channel of the execution that is meant set to zero, by a hook and nothing else."""
    part, found = subject.network.get_submodule(layer), []
    for channel in range(channels):
        seen = []

        def hook(_, __, output, k=channel, seen=seen):
            seen.append(1)
            return output.index_fill(axis, torch.tensor([k]), 0.0) if len(seen) == run + 1 else output

        handle = part.register_forward_hook(hook)
        with torch.no_grad():
            found.append(REGION.score(subject.forward(image[None])).item())
        handle.remove()
    return np.array(found)


@pytest.mark.parametrize(
    ("kind", "layer", "run", "replayed"),
    [
        (Twice, "shared", 1, True),
        (SharedBehind, "shared", 1, True),
        (SharedBehind, "first", 0, True),
        (Aliased, "shared", 0, False),
        (WrittenOver, "shared", 0, True),
        (Vector, "shared", 0, True),
        (BatchSecond, "shared", 0, False),
        (Tupled, "shared", 0, True),
        (Tokens, "norm2", 0, True),
    ],
)
def test_scores_are_those_of_the_whole_network_and_what_cannot_be_replayed_is_found_out(kind, layer, run, replayed):
    torch.manual_seed(1)
    subject, image = ToySegmenter(kind().eval()), bright_square()
    session = Session(subject, image)
    found = explain(session, "ablationcam", [REGION], params=AblationCamParams(layer))
    tap = session.tap([REGION], layer, gradients=False)
    assert tap.run == run
    scores = whole(subject, image, layer, run, tap.layout.channel_axis, len(tap.activation))
    weights = torch.from_numpy(session.score(REGION) - scores).float()
    expected = torch.einsum("c,chw->hw", weights, tap.activation)
    expected = subject.to_image_grid(expected[None, None], MASK.shape)[0, 0].numpy()
    np.testing.assert_allclose(found.values[0], expected, atol=1e-5 * np.abs(expected).max())
    assert ("are those of the unperturbed image" in found.notes[1]) == replayed
    assert ("the whole network is run" in found.notes[1]) != replayed


def test_layers_before_are_not_executed_again():
    subject, image = small_unet(), bright_square()
    net = subject.network
    recorded = record(net, "bottom.2", 0, lambda: net(image[None]))
    assert (recorded.calls, recorded.total) == (7, 9)
    net.down[0].forward = lambda x: pytest.fail("executed again")
    net.bottom[0].forward = lambda x: pytest.fail("executed again")
    kept = dict(net.down[0].__dict__)["forward"]
    with torch.no_grad(), ablated(recorded, [0, 1, 2], 1, short=True):
        assert net(image[None].expand(3, -1, -1, -1)).shape == (3, 1, 24, 32)
    assert net.down[0].__dict__["forward"] is kept


def test_nothing_is_left_on_the_network_even_after_an_exception():
    net, image = small_unet().network, bright_square()
    recorded = record(net, "bottom.2", 0, lambda: net(image[None]))
    with pytest.raises(RuntimeError, match="on purpose"), ablated(recorded, [0], 1, short=True):
        raise RuntimeError("on purpose")
    with pytest.raises(RuntimeError, match="on purpose"):
        record(net, "bottom.2", 0, lambda: (_ for _ in ()).throw(RuntimeError("on purpose")))
    for part in net.modules():
        assert not part._forward_hooks
        assert "forward" not in part.__dict__
