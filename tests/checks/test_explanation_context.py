import numpy as np
import pytest
import torch
from torch import nn

from tests.checks.fake import FakeContext, disc, frame, make_case, quantities, tables
from tests.explainers.toy_segmenters import ToySegmenter
from xaiseg.checks.base import get_check
from xaiseg.checks.explanation_context import CHECK, Params
from xaiseg.errors import UsageError


class Local(nn.Module):
    """Each pixel for itself: no surroundings are needed."""

    def forward(self, x):
        return 20 * (x - 0.5)


class Gated(nn.Module):
    """A bright pixel is foreground only while the patch at the right edge is bright too."""

    def forward(self, x):
        return 20 * (x - 0.5) + 40 * (x[:, :, 8:16, 28:].mean(dim=(2, 3), keepdim=True) - 0.9)


def scene(name="a"):
    mask = disc((24, 32), (12, 8), 4)
    image = 0.1 + 0.8 * mask[None].astype(np.float32)
    image[:, 8:16, 28:] = 0.95
    return make_case(name, mask, image=image)


def measure(network, params=None, case=None):
    case = case or scene()
    model = ToySegmenter(network, offers=frozenset({"scores"}))
    held = model.decide(model.predict([torch.as_tensor(case.image)])[0])
    context = FakeContext(held=held, params=params or Params(), subject=model, case=case.id)
    return [{"case": case.id, **row} for row in get_check(CHECK).measure(context, case)], context


def radius(rows):
    return next(row for row in rows if row["kind"] == "radius")


def test_a_model_of_single_pixels_needs_no_surroundings_and_black_boxes_are_measured():
    rows, context = measure(Local())
    frame(CHECK, rows)
    # The bright patch is predicted as well, so both places together are the region.
    assert radius(rows)["radius_px"] == 0
    assert radius(rows)["dices"][0] == pytest.approx(1.0)
    falls = {(row["target"], row["level"]): row["fall"] for row in rows if row["kind"] == "fall"}
    assert set(falls) == {(a, b) for a in ("background", "lesion") for b in ("background", "lesion")}
    assert falls["lesion", "background"] == pytest.approx(0.0, abs=1e-5)
    assert falls["lesion", "lesion"] > 1
    assert 0 < context.forwards <= get_check(CHECK).forwards(Params())


def test_a_model_that_looks_far_needs_its_patch():
    case = scene()
    near = case.image.copy()
    near[:, 8:16, 28:] = 0.3
    network = Gated()
    rows, _ = measure(network, Params(enough=0.9))
    assert radius(rows)["radius_px"] == 0 or radius(rows)["dices"][0] < 0.9
    model = ToySegmenter(network, offers=frozenset({"scores"}))
    seen, blind = (model.decide(model.predict([torch.as_tensor(x)])[0]).labels for x in (case.image, near))
    assert seen[12, 8] == 1
    assert blind[12, 8] == 0


def test_quantities_are_means_of_the_rows():
    found = [measure(Local(), case=scene(name))[0] for name in "ab"]
    held = tables({CHECK: [row for rows in found for row in rows]}, [scene("a"), scene("b")])
    numbers = quantities(CHECK, held, Params())
    fall = numbers["context_fall", "lesion", "without", "lesion"]
    expected = [row["fall"] for rows in found for row in rows if row.get("target") == row.get("level") == "lesion"]
    assert fall.values.tolist() == pytest.approx(expected)
    assert numbers["context_radius_px",].values.tolist() == [0.0, 0.0]
    assert numbers["context_radius",].values.tolist() == [0.0, 0.0]
    assert numbers["dice_of_region_alone",].values == pytest.approx([1.0, 1.0])


def test_without_foreground_it_is_not_applicable():
    case = make_case("dark", np.zeros((24, 32)))
    rows, context = measure(Local(), case=case)
    assert [row["status"] for row in rows] == ["not_applicable"]
    assert context.forwards == 0
    numbers = quantities(CHECK, tables({CHECK: rows}, [case]), Params())
    assert "no foreground" in numbers["context_radius",].missing


def test_parameters_are_validated():
    for wrong in ({"baseline": "dataset-mean"}, {"baseline": "black"}, {"enough": 0.0}, {"enough": 1.5}):
        with pytest.raises(UsageError, match=f"explanation.context.{next(iter(wrong))}"):
            Params(**wrong)
