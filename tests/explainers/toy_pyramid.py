"""Detectors of known truth that show their candidates."""

import torch
from torch import Tensor, nn

from xaiseg.adapters import module_network
from xaiseg.detectors import NetworkDetector
from xaiseg.modelfile import InputSpec, OutputSpec
from xaiseg.subject import RawBoxes
from xaiseg.zoo.detector_compact import DetectorCompact


class Pyramid(nn.Module):
    """Two levels, 8 and 16 px, one candidate a cell; ``shared`` = one head for both, else one each.

    A cell's logit of class k is a 3 x 3 convolution of what its level holds, so it depends on its neighbours' pixels.
    """

    def __init__(self, classes: int = 2, *, shared: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.fine = nn.Sequential(nn.Conv2d(1, 6, 8, stride=8), nn.Tanh())
        self.coarse = nn.Sequential(nn.Conv2d(6, 6, 2, stride=2), nn.Tanh())
        heads = [nn.Conv2d(6, classes, 3, padding=1) for _ in range(2)]
        self.heads = nn.ModuleList([heads[0]] if shared else heads)

    def forward(self, x: Tensor) -> RawBoxes:
        fine = self.fine(x)
        levels = [fine, self.coarse(fine)]
        scores, boxes, numbers = [], [], []
        for number, (level, side) in enumerate(zip(levels, (8, 16), strict=True)):
            head = self.heads[number % len(self.heads)]
            scores.append(head(level).flatten(2).transpose(1, 2).sigmoid())
            rows, columns = level.shape[-2:]
            y, x0 = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            corner = torch.stack((x0, y), dim=-1).reshape(-1, 2).to(level) * side
            boxes.append(torch.cat((corner, corner + side), dim=1).expand(len(x), -1, -1))
            numbers.append(torch.full((rows * columns,), number, device=level.device))
        return RawBoxes(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(numbers))


def subject(network: nn.Module, classes=("seal", "bird"), *, channels=1, size=(64, 64), threshold=0.5):
    """The network as an audited model."""
    output = OutputSpec.model_validate({"threshold": {"value": threshold}, "score_floor": 0.01})
    spec = InputSpec(channels=channels, size=size)
    held = module_network(network.eval(), multiple_of=16)
    return NetworkDetector(held, name="toy", classes=classes, spec=spec, output=output)


def pyramid(**settings):
    return subject(Pyramid(**settings))


def compact(classes=("seal", "bird"), seed=0):
    """The zoo's compact detector with weights whose scores lie all over 0 to 1."""
    torch.manual_seed(seed)
    network = DetectorCompact(3, len(classes))
    nn.init.normal_(network.score.weight, std=0.5)
    nn.init.zeros_(network.score.bias)
    return subject(network, classes, channels=3)
