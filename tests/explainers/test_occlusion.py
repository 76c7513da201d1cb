import numpy as np
import torch

from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
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
