"""What a method is said to cost, against what a session counts."""

import pytest
import torch

from tests.explainers.toy_segmenters import PixelNetwork, SmallUNet, ToySegmenter, bright_square
from xaiseg.checks import explanation
from xaiseg.explainers import base
from xaiseg.explainers.base import Attribution, Session, explain, explainer, get_explainer, load_explainers
from xaiseg.explainers.gradient import IntegratedGradientsParams
from xaiseg.explainers.lime import LimeParams
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explainers.owen import OwenParams
from xaiseg.explainers.rise import RidgeParams, RiseParams
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.sobol import HsicParams, SobolParams
from xaiseg.explainers.targets import Region

#: Few masks, where the defaults would take a second or more.
SMALL = {
    "rise": RiseParams(masks=300, agreement=2.0),
    "ridge": RidgeParams(masks=300, agreement=2.0),
    "kernelshap": KernelShapParams(masks=300, cut="grid", agreement=2.0),
    "lime": LimeParams(masks=64, cut="grid"),
    "owen": OwenParams(masks=40, cut="grid"),
    "sobol": SobolParams(designs=4, grid=4),
    "hsic": HsicParams(masks=80, grid=4),
    "integrated-gradients": IntegratedGradientsParams(tolerance=0.0),
    "occlusion": OcclusionParams(grid=4),
}
REGION = Region(1, (bright_square() > 0.5)[0].numpy())
#: Methods that pass once a channel cannot know how many channels the layer has.
BY_CHANNEL = {"scorecam", "ablationcam"}


def spent(method):
    torch.manual_seed(0)
    network = PixelNetwork() if method in ("deeplift", "guided-backprop") else SmallUNet()
    session = Session(ToySegmenter(network.eval()), bright_square())
    return explain(session, method, [REGION], params=SMALL.get(method)).cost.forwards


@pytest.mark.parametrize("method", sorted(load_explainers()))
def test_the_forwards_of_every_method_are_bounded_closely(method):
    said, counted = get_explainer(method).forwards(SMALL.get(method)), spent(method)
    assert counted <= said
    if method not in BY_CHANNEL and counted > 8:
        assert said <= 1.2 * counted


def test_a_third_partys_method_costs_what_it_says_and_else_one_pass(monkeypatch):
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))

    @explainer("dear", needs={"scores"}, unit="logit", forwards=lambda params: 77)
    def dear(session, targets, *, params):
        return Attribution(REGION.mask[None] * 1.0)

    @explainer("silent", needs={"scores"}, unit="logit")
    def silent(session, targets, *, params):
        return Attribution(REGION.mask[None] * 1.0)

    assert [base.REGISTRY[name].forwards() for name in ("dear", "silent")] == [77, 1]
    params = explanation.Params(methods=("dear", "silent"), randomisations=0, steps=2)
    curves = 2 * 2 * (2 + 5)
    assert explanation.Explanation().forwards(params) == 78 + curves + 6


def test_cells_that_may_be_cut_are_counted_as_if_all_were():
    params = OcclusionParams(grid=4, refine=2, left=0.0)
    session = Session(ToySegmenter(SmallUNet().eval()), bright_square())
    counted = explain(session, "occlusion", [REGION], params=params).cost.forwards
    assert get_explainer("occlusion").forwards(params) == 1 + 16 + 64 + 256 >= counted
