import numpy as np
import pytest
from torch import nn

from tests.explainers.toy_segmenters import BoxFilter, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.targets import predicted_region
from xaiseg.faithfulness.deletion import curves
from xaiseg.faithfulness.layers import RankedLayer, rank_layers
from xaiseg.seeds import generator


class Misled(nn.Module):
    """The answer comes from the fine layer; a coarse one reaches the score only through a constant."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = nn.AvgPool2d(4)
        self.coarse = nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 1, 3, padding=1)
        for part in (self.fine, self.last):
            nn.init.constant_(part.weight, 1 / 9)
            nn.init.zeros_(part.bias)
        nn.init.constant_(self.coarse.weight, 0.0)
        nn.init.constant_(self.coarse.bias, 0.01)

    def forward(self, x):
        fine = self.fine(x)
        coarse = self.coarse(self.pool(fine))
        return 8 * (self.last(fine) + coarse.mean() - 0.35)


def opened(subject, image):
    session = Session(subject, image, seed=3)
    region = predicted_region(session.prediction, subject.info.classes)
    assert region is not None
    return session, region


def test_the_layer_that_the_answer_comes_from_is_ranked_first():
    session, region = opened(ToySegmenter(Misled().eval()), bright_square())
    ranked = rank_layers(session, region)
    assert [(each.layer, each.rows, each.columns) for each in ranked] == [("fine", 24, 32), ("coarse", 6, 8)]
    assert ranked[0].score > ranked[1].score + 0.05


def test_scores_are_those_of_the_deletion_curves():
    session, region = opened(ToySegmenter(Misled().eval()), bright_square())
    ranked = rank_layers(session, region, steps=4)
    assert len(ranked) == 2
    ties = generator(3, "rank layers").random(region.mask.shape)
    for each in ranked:
        values = explain(session, "hirescam", [region], params=CamParams(layer=each.layer)).values[0]
        found = curves(session, region, {"map": values}, ties=ties, steps=4).deletion
        assert each.every == pytest.approx(found["object"]["map"].area_over)
        assert each.context == pytest.approx(found["context"]["map"].area_over)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)


def test_a_region_without_context_is_ranked_by_all_pixels():
    assert RankedLayer("a", 2, 2, 0.75, 0.25).score == 0.5
    session, region = opened(small_unet(), bright_square())
    assert region.mask.all()
    for each in rank_layers(session, region, steps=2):
        assert np.isnan(each.context)
        assert each.score == each.every


def test_methods_without_a_layer_and_models_without_one_are_refused():
    session, region = opened(small_unet(), bright_square())
    with pytest.raises(UsageError, match="reads no layer"):
        rank_layers(session, region, method="occlusion")
    black_box = ToySegmenter(Misled().eval(), offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="shows no network"):
        rank_layers(Session(black_box, bright_square()), region)


def test_a_network_that_never_mixes_pixels_still_has_an_answer():
    session, region = opened(ToySegmenter(BoxFilter(2, shift=0.5).eval()), bright_square())
    assert [each.layer for each in rank_layers(session, region)] == ["filter"]
