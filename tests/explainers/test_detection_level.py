import pytest
import torch
from torch import nn

from tests.explainers.toy_pyramid import Pyramid, compact, subject
from tests.toy_detectors import fcos, retinanet
from xaiseg.detector_sources import OneStage
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.detection_level import fired_layer
from xaiseg.explainers.detection_targets import Candidate, CandidateTarget, DetectedObject
from xaiseg.explainers.detections import DetectionSession
from xaiseg.subject import RawBoxes


def target_at(session, index, question="box", class_index=0):
    level = int(session.candidates.level[index])
    xyxy = session.candidates.xyxy[0, index].detach()
    thing = DetectedObject(xyxy, torch.eye(2)[class_index], class_index, f"thing {index}", (64, 64), "toy",
                           candidate=Candidate(index, level, 0.5, 1.0))  # fmt: skip
    return CandidateTarget(thing, question)


def grey(channels=1):
    return torch.rand(channels, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_levels_of_the_compact_detector_are_its_pyramids_outputs():
    session = DetectionSession(compact(), grey(3))
    fine, coarse = target_at(session, 20), target_at(session, 64 + 5)
    assert session.fired(fine).layer == "join.2"
    assert session.fired(coarse).layer == "side.1.2"
    # Class and box have branches of their own, on the same pyramid.
    assert session.fired(target_at(session, 20, "left")).layer == "join.2"
    assert session.tap([fine]).activation.shape == (64, 8, 8)
    assert session.tap([coarse]).activation.shape == (64, 4, 4)
    assert session.tap([coarse]).note == "layer side.1.2 (4 x 4): it feeds level 1, the one that fired"


@pytest.mark.parametrize("shared", [True, False])
def test_the_layer_before_the_head_is_found_with_one_head_or_several(shared):
    session = DetectionSession(subject(Pyramid(shared=shared)), grey())
    assert session.fired(target_at(session, 9)).layer == "fine.1"
    assert session.fired(target_at(session, 64 + 9)).layer == "coarse.1"


def test_one_level_costs_one_pass_however_many_targets():
    session = DetectionSession(subject(Pyramid()), grey())
    targets = [target_at(session, index) for index in (1, 2, 3)]
    before = session.forwards
    for target in targets:
        session.fired(target)
    assert (session.forwards - before, session.backwards) == (1, 1)


def test_targets_of_different_levels_have_no_common_layer_unless_one_is_named():
    session = DetectionSession(subject(Pyramid()), grey())
    both = [target_at(session, 9), target_at(session, 64 + 9)]
    with pytest.raises(UsageError, match=r"different levels.*coarse\.1, fine\.1.*explain_objects"):
        session.tap(both)
    assert session.tap(both, "fine.1").gradients.shape == (2, 6, 8, 8)


class Queries(nn.Module):
    """Three candidates from the mean of the image: no grid to lie on."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 4, 8, stride=8)
        self.head = nn.Linear(4, 3 * 2)

    def forward(self, x):
        scores = self.head(self.features(x).mean(dim=(2, 3))).reshape(-1, 3, 2).sigmoid()
        boxes = torch.tensor([0.0, 0.0, 8.0, 8.0]).expand(len(x), 3, 4)
        return RawBoxes(boxes, scores, torch.zeros(3, dtype=torch.int64))


def test_a_detector_of_queries_falls_back_on_the_automatic_layer_and_says_so():
    session = DetectionSession(subject(Queries()), grey())
    tap = session.tap([target_at(session, 1)])
    assert tap.layer == "features"
    assert "none on the grid of level 0, which has 3 candidates" in tap.note


def test_a_score_that_no_layer_moves_is_refused_and_hooks_are_removed():
    network = Pyramid()
    session = DetectionSession(subject(network), grey())
    with torch.no_grad():
        network.heads[0].weight.zero_()
    image = grey()[None].requires_grad_(True)
    # The head's own output still carries a gradient; before it nothing does.
    found = fired_layer(network, lambda: session.differentiable(image), target_at(session, 3).score, 64, 0)
    assert found.layer is None
    assert "shared with other levels" in found.note
    with pytest.raises(SubjectError, match=r"no layer of the network carries a gradient.*such as rise"):
        fired_layer(network, lambda: session.differentiable(image), lambda raw: raw[:, 0, 0] * 0, 64, 0)
    assert all(not part._forward_hooks for part in network.modules())


@pytest.mark.parametrize("build", [retinanet, fcos])
def test_the_levels_of_torchvisions_detectors_are_their_pyramids_outputs(build):
    network = OneStage(build() if build is fcos else build(2), 2)
    session = DetectionSession(subject(network, channels=3), grey(3))
    per_level = session.candidates.level.bincount().tolist()
    for level, first in enumerate((5, per_level[0] + 2)):
        target = target_at(session, first)
        assert target.candidate.level == level
        for question in ("box", "top"):
            found = session.fired(target_at(session, first, question))
            assert found.layer == f"network.backbone.pyramid.layer_blocks.{level}.0"
