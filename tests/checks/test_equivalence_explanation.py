"""Builds whose maps are known: the model itself, one that looks elsewhere, one that is noise."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.checks.fake import FakeContext, frame, make_case, quantities, tables
from tests.explainers.toy_segmenters import ToySegmenter, bright_square
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_explanation import ID, MEASURES, Params
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.targets import predicted_region
from xaiseg.faithfulness.deletion import deletions

SHAPE = (24, 32)
HERE, THERE = (slice(6, 12), slice(8, 16)), (slice(12, 18), slice(24, 32))  # two cells of the grid of 4 x 4
OFFERS = frozenset({"scores"})


class Looks(nn.Module):
    """Foreground where the pixel is bright, the more the brighter one cell of the image is.

    ``curved`` bends the answer in the mean of the image, which no sum of cells gives, so that masks matter; ``noise``
    adds what hangs on the image but follows no rule.
    """

    def __init__(self, place=HERE, *, local=20.0, gain=8.0, scale=1.0, noise=0.0, curved=400.0):
        super().__init__()
        self.place, self.local, self.gain, self.scale, self.noise = place, local, gain, scale, noise
        self.curved = curved

    def forward(self, x):
        far = x[:, :, self.place[0], self.place[1]].mean(dim=(2, 3), keepdim=True)
        chance = torch.sin(1e5 * x.double().sum(dim=(1, 2, 3), keepdim=True)).float()
        bent = self.curved * (x - 0.1).mean(dim=(2, 3), keepdim=True) ** 3
        return self.scale * (self.local * (x - 0.5) + self.gain * (far - 0.2) + bent + self.noise * chance)


def build(*args, kind=ToySegmenter, **options):
    return kind(Looks(*args, **options).eval(), offers=OFFERS)


def cells():
    """An image of 0.2 whose two cells are bright; a network of nothing but one cell calls all of it foreground."""
    image = np.full((1, *SHAPE), 0.2, dtype=np.float32)
    for place in (HERE, THERE):
        image[0][place] = 0.9
    return image


def measure(audited, variants, *, image=None, params=None, name="a", seed=0):
    image = bright_square() if image is None else torch.as_tensor(image)
    case = make_case(name, np.zeros(SHAPE), image=image)
    others, held = {}, audited.decide(audited.predict([image])[0])
    for key, subject in variants.items():
        others[key] = subject.decide(subject.predict([image])[0]) if subject is not None else SubjectError("no answer")
    context = FakeContext(
        held=held, params=params or Params(), case=name, subject=audited, seed=seed, others=others,
        variants={key: SimpleNamespace(name=key, subject=subject or audited) for key, subject in variants.items()},
    )  # fmt: skip
    rows = [{"case": name, **row} for row in get_check(ID).measure(context, case)]
    frame(ID, rows)
    return rows, context


def of(rows, subject, method):
    """The row of a build and method; "reference" is the audited one."""
    (row,) = [r for r in rows if r.get("subject", "reference") == subject and r.get("target", "") == method]
    return row


def numbers(rows, *names, params=None):
    listed = [{"case": case, "cluster": case} for case in sorted({row["case"] for row in rows})]
    held = tables({ID: rows}, listed, variants={name: {} for name in names})
    return quantities(ID, held, params)


@pytest.mark.parametrize("method", ["ridge", "occlusion", "rise"])
def test_the_model_itself_is_alike_in_everything(method):
    rows, _ = measure(build(), {"v": build()}, params=Params(methods=(method,)))
    row, ceiling = of(rows, "v", method), of(rows, "reference", method)
    for name in MEASURES:
        assert row[name] == pytest.approx(0.0 if name == "peak_distance" else 1.0)
        assert row[f"{name}_to_ceiling"] == pytest.approx(row[name] - ceiling[name])
    assert row["deletion_change"] == row["deletion_context_change"] == 0.0
    assert row["deletion"] == ceiling["deletion"]
    if method == "occlusion":
        assert ceiling["spearman"] == pytest.approx(1.0)
        assert row["spearman_to_ceiling"] == pytest.approx(0.0)
    else:
        assert ceiling["spearman"] < 0.999
        assert row["spearman_to_ceiling"] > 0


def test_a_build_that_looks_elsewhere_by_hand():
    audited, other = (build(place, local=0.0, curved=0.0) for place in (HERE, THERE))
    rows, _ = measure(audited, {"v": other}, image=cells(), params=Params(methods=("occlusion",)))
    row = of(rows, "v", "occlusion")
    # Each map is one value in its cell of 48 pixels and 0 elsewhere; the cells do not meet.
    size, cell = 24 * 32, 48
    assert row["spearman"] == pytest.approx(-cell / (size - cell))
    assert row["spearman_to_ceiling"] == pytest.approx(-cell / (size - cell) - 1)
    assert row["top5_iou"] == 0.0  # 38 places, all in the cell
    rest = (77 - cell) / (size - cell)  # 77 places: what the cell leaves is shared by all other pixels
    assert row["top10_iou"] == pytest.approx(size * rest / (2 * cell + (size - 2 * cell) * rest))
    assert row["peak_distance"] == pytest.approx(math.hypot(6, 16) / math.hypot(*SHAPE))
    assert row["pointing_agreement"] == 1.0  # the region is the whole image
    assert row["deletion_change"] == pytest.approx(0.0, abs=0.02)  # its map is as true of it
    assert "deletion_context" not in row


def test_own_deletion_is_measured_on_the_build_itself():
    audited, other = build(), build(THERE, gain=64.0)
    rows, context = measure(audited, {"v": other}, params=Params(methods=("occlusion",), steps=3))
    image = bright_square()
    region = predicted_region(context.prediction(), ("background", "lesion"))
    found = {}
    for name, subject in (("reference", audited), ("v", other)):
        maps = {"m": context.maps[f"occlusion: {'audited' if name == 'reference' else name}"]}
        ties = context.generator("ties").random(SHAPE)
        curves = deletions(Session(subject, image), region, maps, ties=ties, steps=3)
        found[name] = {key: each["m"].area_over for key, each in curves.items()}
        row = of(rows, name, "occlusion")
        assert row["deletion"] == pytest.approx(found[name]["object"])
        assert row["deletion_context"] == pytest.approx(found[name]["context"])
    row = of(rows, "v", "occlusion")
    assert row["deletion_change"] == pytest.approx(found["v"]["object"] - found["reference"]["object"])
    assert row["deletion_context_change"] == pytest.approx(found["v"]["context"] - found["reference"]["context"])
    assert abs(row["deletion_context_change"]) > 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_lies_below_the_ceiling_and_a_harmless_build_above(seed):
    variants = {"noise": build(noise=12.0), "rounded": build(scale=1.01)}
    rows, _ = measure(build(), variants, params=Params(methods=("ridge",)), seed=seed)
    assert of(rows, "noise", "ridge")["spearman_to_ceiling"] < 0
    assert of(rows, "noise", "ridge")["ssim_to_ceiling"] < 0
    assert of(rows, "rounded", "ridge")["spearman_to_ceiling"] > 0


def test_another_scale_of_the_logits_is_no_other_explanation():
    row = of(measure(build(), {"v": build(scale=3.0)})[0], "v", "ridge")
    assert row["spearman"] == pytest.approx(1.0, abs=1e-4)
    assert row["ssim"] == pytest.approx(1.0, abs=1e-4)


class Recording(ToySegmenter):
    """Keeps the images that it was asked about."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = []

    def forward(self, batch):
        self.seen += list(batch.clone())
        return super().forward(batch)


def test_all_builds_see_the_same_masks_and_only_the_repeat_sees_others():
    audited, other = build(kind=Recording), build(scale=1.01, kind=Recording)
    params = Params(methods=("ridge",), masks=16)
    _, context = measure(audited, {"v": other}, params=params)
    made_here = 1  # the prediction that the engine makes
    assert context.forwards == len(audited.seen) + len(other.seen) - 2 * made_here
    masked = [torch.stack(subject.seen[made_here : made_here + 16]) for subject in (audited, other)]
    assert torch.equal(*masked)
    assert not torch.equal(torch.stack(audited.seen[-16:]), masked[0])  # the repeat comes last


def test_another_seed_draws_other_masks_and_the_same_seed_the_same():
    found = [of(measure(build(), {"v": build(noise=1.0)}, seed=seed)[0], "v", "ridge") for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0]["spearman"] != found[2]["spearman"]


def test_maps_of_every_build_are_offered_as_evidence():
    _, context = measure(build(), {"v": build(), "w": build(THERE)})
    methods = ("ridge", "occlusion")
    assert set(context.maps) == {f"{method}: {name}" for method in methods for name in ("audited", "v", "w")}


def test_a_build_that_fails_is_a_failed_image_of_its_own():
    class Breaks(ToySegmenter):
        def forward(self, batch):
            whole = torch.equal(batch[0], bright_square())
            return super().forward(batch) * (1.0 if whole else math.nan)

    rows, _ = measure(build(), {"none": None, "breaks": build(kind=Breaks), "v": build()})
    assert (of(rows, "none", "")["status"], of(rows, "none", "")["reason"]) == ("failed", "no answer.")
    assert of(rows, "breaks", "")["status"] == "failed"
    assert "not finite" in of(rows, "breaks", "")["reason"]
    assert of(rows, "v", "ridge")["spearman"] == pytest.approx(1.0)
    found = numbers(rows, "none", "breaks", "v")
    assert found["none", "spearman", "ridge"].missing == ""  # the estimate counts the failed image as the worst
    assert (found["none", "spearman", "ridge"].worst, found["none", "spearman", "ridge"].values.size) == (-1.0, 0)
    assert found["none", "peak_distance", "ridge"].worst == 1.0
    assert found["none", "spearman_to_ceiling", "ridge"].worst == -2.0
    assert found["v", "spearman", "ridge"].values.size == 1


def test_a_flat_map_of_the_build_is_undefined_and_one_of_the_model_has_nothing_to_compare():
    rows, _ = measure(build(), {"v": build(scale=0.0)})
    row = of(rows, "v", "occlusion")
    assert (row["spearman"], row["spearman_to_ceiling"]) == (None, None)
    assert np.isnan(numbers(rows, "v")["v", "spearman", "occlusion"].values).all()

    constant = ToySegmenter(nn.Identity(), offers=OFFERS)
    constant.forward = lambda batch: torch.stack([torch.zeros_like(batch[:, 0]), torch.ones_like(batch[:, 0])], 1)
    rows, _ = measure(constant, {"v": build()})
    assert {(row["status"], row.get("subject", "reference")) for row in rows} == {("not_applicable", "reference")}
    found = numbers(rows, "v")["v", "spearman_to_ceiling", "ridge"]
    assert "flat" in found.missing


def test_no_foreground_is_not_applicable():
    rows, context = measure(build(), {"v": build()}, image=np.zeros((1, *SHAPE), np.float32))
    assert [(row["target"], row["status"]) for row in rows] == [
        ("ridge", "not_applicable"), ("occlusion", "not_applicable"),
    ]  # fmt: skip
    assert context.forwards == 0
    assert "no foreground" in numbers(rows, "v")["v", "spearman", "ridge"].missing


def test_a_build_without_scores_is_told_so():
    labels = ToySegmenter(Looks().eval(), offers=frozenset())
    rows, _ = measure(build(), {"v": labels})
    assert of(rows, "v", "ridge")["status"] == "not_applicable"
    assert "does not offer" in numbers(rows, "v")["v", "spearman", "ridge"].missing


def test_quantities_are_those_of_the_rows():
    rows = [row for name in ("a", "b") for row in measure(build(), {"v": build(THERE)}, name=name)[0]]
    found = numbers(rows, "v")
    for method in ("ridge", "occlusion"):
        for name, measure_of in MEASURES.items():
            values = [row[name] for row in rows if row.get("subject") == "v" and row["target"] == method]
            quantity = found["v", name, method]
            assert quantity.values.tolist() == pytest.approx(values)
            assert (quantity.bounds, quantity.kind) == (measure_of.bounds, measure_of.kind)
            ceilings = [row[name] for row in rows if row.get("subject") is None and row["target"] == method]
            assert found[f"{name}_ceiling", method].values.tolist() == pytest.approx(ceilings)
            distance = np.array(values) - np.array(ceilings)
            assert found["v", f"{name}_to_ceiling", method].values.tolist() == pytest.approx(distance)
    assert found["spearman_ceiling", "ridge"].worst is None
    assert found["v", "spearman_to_ceiling", "ridge"].bounds == (-2.0, 2.0)


def test_a_change_of_deletion_beyond_one_counts_as_one():
    rows, _ = measure(build(), {"v": build()})
    of(rows, "v", "ridge")["deletion_change"] = -7.0
    assert numbers(rows, "v")["v", "deletion_change", "ridge"].values.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ()}, "1 or more"),
        ({"methods": ("ridge", "ridge")}, "each once"),
        ({"masks": 7}, "8 or more"),
        ({"grid": 1}, "2 or more"),
        ({"offsets": 3}, "1, 2, 4"),
        ({"steps": 1}, "2 or more"),
        ({"baseline": "dataset-mean"}, "mean"),
        ({"methods": ("rigde",)}, "ridge"),
    ],
)
def test_bad_parameters_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        Params(**options)


@pytest.mark.parametrize("method", ["hirescam", "integrated-gradients", "scorecam"])
def test_methods_that_look_inside_are_refused_with_the_reason(method):
    with pytest.raises(UsageError, match=r"integers do not have.*gradient is zero"):
        Params(methods=(method,))


def test_no_build_stops_early_so_that_every_map_rests_on_the_same_masks():
    """From 256 masks on a sampled map ends where it has settled, each build's at another number."""
    _, context = measure(build(curved=0.0), {"v": build(curved=0.0)}, params=Params(methods=("ridge",), masks=300))
    unperturbed, curve = 1, 2 + 2 * 3  # all pixels and the context, ends and inner points of four steps
    assert context.forwards == 3 * 300 + 2 * (unperturbed + curve)
