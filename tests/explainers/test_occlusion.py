import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


def test_a_linear_model_loses_exactly_the_cells_contribution():
    weights = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1)) / 100
    image = bright_square()
    found = explain(Session(ToySegmenter(Linear(weights)), image), "occlusion", [REGION]).values[0]
    contribution = (weights * (image - image.mean()))[0].numpy()
    for i in range(8):
        for j in range(8):
            cell = (slice(3 * i, 3 * i + 3), slice(4 * j, 4 * j + 4))
            np.testing.assert_allclose(found[cell], contribution[cell].sum(), atol=2e-6)


def test_cells_beyond_the_receptive_field_are_exactly_zero():
    found = explain(Session(ToySegmenter(BoxFilter(1)), bright_square()), "occlusion", [REGION]).values[0]
    touched = np.zeros_like(MASK)
    touched[6:18, 8:20] = True  # cells of 3 x 4 px that meet the region widened by 1 px
    assert (found[~touched] == 0).all()
    assert (found[touched] != 0).all()


def test_parity_with_captum_at_a_window_of_one_cell():
    from captum.attr import Occlusion

    subject, image = small_unet(), bright_square()
    ours = explain(Session(subject, image, budget=Budget(5)), "occlusion", [REGION]).values[0]
    reference = Occlusion(lambda batch: REGION.score(subject.forward(batch))).attribute(
        image[None], sliding_window_shapes=(1, 3, 4), strides=(1, 3, 4), baselines=image.mean().item()
    )
    np.testing.assert_allclose(ours, reference[0, 0].numpy(), atol=1e-5)


def test_sides_that_do_not_divide_and_tiny_images_are_covered():
    image = torch.rand(1, 5, 11, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(1, 5, 11)
    region = Region(1, np.ones((5, 11), dtype=bool))
    session = Session(ToySegmenter(Linear(weights)), image)
    found = explain(session, "occlusion", [region], params=OcclusionParams(grid=8))
    assert found.cost.forwards == 5 * 8 + 1
    assert found.notes[0].startswith("5 x 8 cells")
    assert (found.values != 0).all()


def test_a_black_box_is_explained_for_several_targets_at_one_forward_a_cell():
    subject = small_unet()
    black = ToySegmenter(subject.network, offers=frozenset({"scores"}))
    other = Region(1, ~MASK)
    found = explain(Session(black, bright_square()), "occlusion", [REGION, other], params=OcclusionParams(grid=4))
    assert found.cost.forwards == 16 + 1
    single = explain(Session(subject, bright_square()), "occlusion", [other], params=OcclusionParams(grid=4))
    np.testing.assert_allclose(found.values[1], single.values[0], atol=1e-7)


def test_a_map_from_coarse_to_fine_equals_the_fine_grid_where_cells_were_cut():
    subject, image = small_unet(), bright_square(23, 33)
    region = Region(1, np.pad(MASK, ((0, 0), (0, 1)))[:23])
    fine = explain(Session(subject, image), "occlusion", [region], params=OcclusionParams(8)).values[0]
    session = Session(subject, image, budget=Budget(5))
    found = explain(session, "occlusion", [region], params=OcclusionParams(2, refine=2, left=0.1))
    coarse = explain(Session(subject, image), "occlusion", [region], params=OcclusionParams(2)).values[0]
    same = np.isclose(found.values[0], fine, atol=1e-7)
    shared = np.isclose(found.values[0], coarse / 16, atol=1e-7)
    assert same.mean() > 0.2
    assert same[region.mask].mean() > 0.5
    middle = explain(Session(subject, image), "occlusion", [region], params=OcclusionParams(4)).values[0]
    assert (same | shared | np.isclose(found.values[0], middle / 4, atol=1e-7)).all()
    assert found.cost.forwards < 8 * 8 + 1
    assert "cut in four 2 times" in found.notes[1]


def test_everything_is_cut_where_nothing_may_be_left_and_the_map_is_the_fine_one():
    subject, image = small_unet(), bright_square()
    fine = explain(Session(subject, image), "occlusion", [REGION], params=OcclusionParams(8)).values
    found = explain(Session(subject, image), "occlusion", [REGION], params=OcclusionParams(4, refine=1, left=0.0))
    np.testing.assert_allclose(found.values, fine, atol=1e-7)
    assert 1 + 16 < found.cost.forwards <= 1 + 16 + 64  # cells without any effect are not cut


def test_cells_of_a_pixel_are_not_cut():
    image = torch.rand(1, 3, 5, generator=torch.Generator().manual_seed(0))
    region = Region(1, np.ones((3, 5), dtype=bool))
    sessions = [Session(ToySegmenter(Linear(torch.ones(1, 3, 5))), image) for _ in range(2)]
    fine = explain(sessions[0], "occlusion", [region]).values
    found = explain(sessions[1], "occlusion", [region], params=OcclusionParams(8, refine=2, left=0.0)).values
    np.testing.assert_allclose(found, fine, atol=1e-6)


def test_parity_with_captum_feature_ablation_on_the_same_cells():
    from captum.attr import FeatureAblation

    subject, image = small_unet(channels=3), bright_square(channels=3)
    session = Session(subject, image)
    ours = explain(session, "occlusion", [REGION], params=OcclusionParams(4, "blur")).values[0]
    labels = torch.from_numpy((np.arange(24) // 6)[:, None] * 4 + np.arange(32) // 8)
    reference = FeatureAblation(lambda batch: REGION.score(subject.forward(batch))).attribute(
        image[None], baselines=session.baseline("blur")[None], feature_mask=labels[None, None].expand(1, 3, -1, -1)
    )
    np.testing.assert_allclose(ours, reference[0, 0].numpy(), atol=1e-5)


def test_parameters_that_make_no_sense_are_refused():
    for options, match in (({"grid": 0}, "grid"), ({"refine": 9}, "refine"), ({"left": 1.0}, "left")):
        with pytest.raises(UsageError, match=f"occlusion.{match}"):
            OcclusionParams(**options)
