import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.checks.fake import FakeContext, frame, make_case, quantities, tables
from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.checks.base import get_check
from xaiseg.checks.explanation import BASELINE, Params
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import base
from xaiseg.explainers.base import Attribution, explainer, load_explainers

METHODS = ("hirescam", "integrated-gradients", "occlusion")
RIVALS = ("random", "centre-prior", "edge-prior", "predicted-mask", "distance-to-mask")


class Blobs(nn.Module):
    """Foreground where the neighbourhood is bright; the threshold needs no training."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 2, 3, padding=1, stride=2)
        self.relu = nn.ReLU()
        self.mix = nn.Conv2d(2, 1, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        for layer in (self.features, self.mix):
            nn.init.constant_(layer.weight, 1 / 9)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return 20 * self.up(self.mix(self.relu(self.features(x)))) - 12


def blobs(**options):
    return ToySegmenter(Blobs().eval(), **options)


def measure(subject, image, params, seed=0, name="a"):
    image = np.asarray(image)
    case = make_case(name, np.zeros(image.shape[1:]), image=image)
    held = subject.decide(subject.predict([torch.as_tensor(image)])[0])
    context = FakeContext(held=held, params=params, subject=subject, case=name, seed=seed)
    return list(get_check("explanation").measure(context, case)), context


def by_target(rows):
    return {row["target"]: row for row in rows}


@pytest.fixture
def fake_mask(monkeypatch):
    """An explainer that knows nothing of the model's reasons and paints the predicted mask."""
    load_explainers()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))

    @explainer("fake-mask", needs={"scores"}, unit="none")
    def paint(session, targets, *, params):
        return Attribution(np.stack([target.mask for target in targets]).astype(np.float32))

    return "fake-mask"


def test_a_row_for_each_method_and_each_baseline_with_all_numbers():
    rows, context = measure(blobs(), bright_square(), Params())
    frame("explanation", [{"case": "a", **row} for row in rows])
    found = by_target(rows)
    assert set(found) == {*METHODS, *(BASELINE + name for name in RIVALS)}
    for method in METHODS:
        row = found[method]
        for variant in ("object", "context"):
            best = max(RIVALS, key=lambda name: found[BASELINE + name][f"deletion_{variant}"])
            assert row[f"best_{variant}"] == best
            expected = row[f"deletion_{variant}"] - found[BASELINE + best][f"deletion_{variant}"]
            assert row[f"excess_{variant}"] == pytest.approx(expected)
        assert row["energy_in_region"] + row["energy_outside"] == pytest.approx(1.0)
        assert row["context_share"] <= row["energy_outside"]
        assert -1 <= row["randomisation_similarity"] <= 1
        assert row["class_name"] == "lesion"
        assert 0.5 < row["probability"] < 1
    assert found["integrated-gradients"]["completeness_error"] < 0.05
    assert found["hirescam"]["completeness_error"] is None
    assert "layer relu" in found["hirescam"]["notes"]
    assert set(context.maps) == set(METHODS)
    assert context.maps["occlusion"].shape == (24, 32)


def test_everything_the_check_spends_is_counted():
    calls = {"images": 0}

    class Counting(ToySegmenter):
        def forward(self, batch):
            calls["images"] += len(batch)
            return super().forward(batch)

    subject = Counting(Blobs().eval())
    _, context = measure(subject, bright_square(), Params())
    made_by_the_engine = 1
    assert context.forwards + made_by_the_engine == calls["images"]
    # one for the CAM and at least sixteen for integrated gradients, on the model and on its random copy
    assert context.backwards >= 2 * (1 + 16)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_explainer_that_paints_the_predicted_mask_is_caught(fake_mask, seed):
    rows, _ = measure(blobs(), bright_square(), Params(methods=(fake_mask,)), seed=seed)
    row = by_target(rows)[fake_mask]
    assert row["excess_object"] <= 0.0
    assert row["excess_context"] <= 0.0
    assert row["randomisation_similarity"] == 1.0
    assert row["energy_in_region"] == 1.0
    held = tables({"explanation": [{"case": "a", **row}]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held, Params(methods=(fake_mask,)))
    assert numbers["excess_context_deletion", fake_mask].values[0] <= 0.0
    assert numbers["randomisation_similarity", fake_mask].values[0] == 1.0


def test_a_map_of_the_true_context_beats_every_baseline(monkeypatch):
    """The class depends on a far patch alone; a map that knows it must stand out in the context."""
    load_explainers()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))
    patch = (slice(2, 6), slice(24, 29))

    class Gated(nn.Module):
        def forward(self, x):
            return 8 * (x - 0.5) + 2 - 40 * x[:, :, patch[0], patch[1]].mean(dim=(2, 3), keepdim=True)

    @explainer("truth", needs={"scores"}, unit="none")
    def truth(session, targets, *, params):
        values = np.zeros((len(targets), *session.image.shape[1:]), np.float32)
        values[:, patch[0], patch[1]] = 1.0
        return Attribution(values)

    image = np.asarray(bright_square())
    image[:, patch[0], patch[1]] = 0.0  # dark, so it is no foreground itself
    subject = ToySegmenter(Gated().eval(), offers=frozenset({"scores", "forward", "gradients"}))
    names = ("truth", "integrated-gradients", "occlusion")
    rows = by_target(measure(subject, image, Params(methods=names))[0])
    assert rows["truth"]["excess_context"] > 0.1
    assert rows["occlusion"]["excess_context"] > 0.0
    assert rows["truth"]["context_share"] > 0.9


def test_no_foreground_is_not_applicable():
    rows, context = measure(blobs(), np.zeros((1, 24, 32), np.float32), Params())
    assert [(row["target"], row["status"]) for row in rows] == [(name, "not_applicable") for name in METHODS]
    assert all("no foreground" in row["reason"] for row in rows)
    assert context.forwards == 0


def test_a_black_box_gets_occlusion_and_a_clear_word_on_the_rest():
    black = blobs(offers=frozenset({"scores"}))
    rows, _ = measure(black, bright_square(), Params())
    found = by_target(rows)
    assert found["hirescam"]["status"] == "not_applicable"
    assert "needs activations and forward and gradients" in found["hirescam"]["reason"]
    assert "excess_context" in found["occlusion"]
    assert found["occlusion"]["randomisation_similarity"] is None
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held)
    assert "hirescam needs" in numbers["excess_context_deletion", "hirescam"].missing
    assert len(numbers["excess_context_deletion", "hirescam"].values) == 0
    assert "shows its weights" in numbers["randomisation_similarity", "occlusion"].missing
    assert numbers["excess_context_deletion", "occlusion"].missing == ""


def test_a_method_that_fails_is_an_undefined_row_and_the_others_go_on(monkeypatch):
    load_explainers()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))

    @explainer("broken", needs={"scores"}, unit="none")
    def broken(session, targets, *, params):
        raise SubjectError("the gradient is not finite")

    rows = by_target(measure(blobs(), bright_square(), Params(methods=("broken", "occlusion")))[0])
    assert (rows["broken"]["status"], rows["broken"]["reason"]) == ("undefined", "the gradient is not finite.")
    assert rows["occlusion"].get("status", "ok") == "ok"
    good = {"case": "b", "target": "broken", "excess_context": 0.1}
    held = tables(
        {"explanation": [{"case": "a", **row} for row in rows.values()] + [good]},
        [{"case": "a", "cluster": "p"}, {"case": "b", "cluster": "q"}],
    )
    found = quantities("explanation", held, Params(methods=("broken",)))["excess_context_deletion", "broken"]
    assert np.isnan(found.values).tolist() == [True, False]  # an undefined map counts as the worst


def test_the_largest_class_is_explained_and_named():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 3, 3, padding=1)

        def forward(self, x):
            z = self.layer(x) * 0 + x
            return torch.cat((0.5 - z[:, :1], z[:, :1] * 0, z[:, :1] - 0.5), dim=1) * 9

    subject = ToySegmenter(Three().eval(), classes=("background", "cyst", "tumour"))
    rows = by_target(measure(subject, bright_square(), Params(methods=("occlusion",)))[0])
    assert rows["occlusion"]["class_name"] == "tumour"


def test_rows_repeat_bit_for_bit_and_depend_on_the_case_only_through_its_name():
    first, _ = measure(small_unet(), bright_square(), Params(methods=("hirescam", "occlusion")))
    again, _ = measure(small_unet(), bright_square(), Params(methods=("hirescam", "occlusion")))
    other, _ = measure(small_unet(), bright_square(), Params(methods=("hirescam", "occlusion")), name="b")
    assert first == again
    random = BASELINE + "random"
    assert by_target(first)[random]["deletion_object"] != by_target(other)[random]["deletion_object"]
    assert by_target(first)["hirescam"]["energy_in_region"] == by_target(other)["hirescam"]["energy_in_region"]


def test_a_region_that_fills_the_image_has_undefined_context_which_counts_as_the_worst():
    image = np.ones((1, 24, 32), np.float32)
    subject = ToySegmenter(nn.Conv2d(1, 1, 1).eval())
    with torch.no_grad():
        subject.network.weight.fill_(1.0)
        subject.network.bias.fill_(1.0)
    params = Params(methods=("occlusion",))
    rows, _ = measure(subject, image, params)
    assert "excess_context" not in by_target(rows)["occlusion"]
    full, _ = measure(blobs(), bright_square(), params, name="b")
    held = tables(
        {"explanation": [{"case": "a", **row} for row in rows] + [{"case": "b", **row} for row in full]},
        [{"case": "a", "cluster": "p"}, {"case": "b", "cluster": "q"}],
    )
    found = quantities("explanation", held, params)["excess_context_deletion", "occlusion"]
    assert list(found.cases) == ["a", "b"]
    assert np.isnan(found.values[0])
    assert np.isfinite(found.values[1])
    assert found.worst == -1.0


def test_the_metrics_that_protocols_name_exist_for_every_method():
    rows, _ = measure(blobs(), bright_square(), Params())
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held)
    for method in METHODS:
        for metric in ("excess_context_deletion", "excess_object_deletion", "randomisation_similarity",
                       "randomisation_similarity_outside", "energy_in_region"):  # fmt: skip
            assert len(numbers[metric, method].values) == 1
    assert ("completeness_error", "integrated-gradients") in numbers
    assert ("completeness_error", "hirescam") not in numbers
    assert ("deletion_context", BASELINE + "distance-to-mask") in numbers


EVERYTHING = {"insertion_steps": 4, "road": (30, 70), "bank": 64, "sensitivity_samples": 2}


def test_tests_on_request_fill_their_columns_and_are_compared_with_the_best_baseline():
    methods = ("hirescam", "occlusion")
    rows, _ = measure(blobs(), bright_square(), Params(methods=methods, **EVERYTHING))
    frame("explanation", [{"case": "a", **row} for row in rows])
    found = by_target(rows)
    columns = {f"{test}_{variant}": 1 for test in ("insertion", "road") for variant in ("object", "context")}
    columns |= {"unexplained": -1, "sensitivity_n": 1}
    for method in methods:
        row = found[method]
        for column, sign in columns.items():
            known = [found[BASELINE + name][column] for name in RIVALS]
            best = max(sign * value for value in known if not np.isnan(value))
            assert row[f"excess_{column}"] == pytest.approx(sign * row[column] - best)
        assert row["infidelity"] > 0
        assert row["max_sensitivity"] > 0
        assert 0 <= row["unexplained"] <= 1
    assert "infidelity" not in found[BASELINE + "random"]
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held, Params(methods=methods, **EVERYTHING))
    for metric in ("insertion_context", "excess_context_insertion", "excess_object_insertion", "road_object",
                   "excess_context_road", "unexplained", "excess_unexplained", "sensitivity_n",
                   "excess_sensitivity_n", "infidelity", "max_sensitivity"):  # fmt: skip
        assert len(numbers[metric, "occlusion"].values) == 1, metric
    assert ("road_context", BASELINE + "predicted-mask") in numbers
    assert ("unexplained", BASELINE + "random") in numbers


def test_without_a_request_the_same_forwards_are_spent_as_for_deletion_alone():
    rows, context = measure(blobs(), bright_square(), Params(methods=("hirescam",)))
    # the map and its copy; the score; both ends; seven inner steps of six maps in two variants
    assert context.forwards == 2 + 1 + 2 + 2 * 7 * 6
    row = by_target(rows)["hirescam"]
    assert not {"insertion_object", "road_object", "unexplained"} & set(row)
    assert row["max_sensitivity"] is None
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held, Params(methods=("hirescam",)))
    assert not [key for key in numbers if key[0].startswith(("insertion", "road", "unexplained", "max_"))]


def test_everything_on_request_is_counted_too():
    calls = {"images": 0}

    class Counting(ToySegmenter):
        def forward(self, batch):
            calls["images"] += len(batch)
            return super().forward(batch)

    _, context = measure(Counting(Blobs().eval()), bright_square(), Params(methods=("hirescam",), **EVERYTHING))
    assert context.forwards + 1 == calls["images"]


def test_masks_that_a_method_has_drawn_are_used_without_a_request():
    rows, context = measure(blobs(), bright_square(), Params(methods=("ridge",), randomisations=0))
    row = by_target(rows)["ridge"]
    assert row["sensitivity_n"] > 0.5
    assert row["unexplained"] < by_target(rows)[BASELINE + "random"]["unexplained"]
    # The number of masks that it drew is a power of two times 256; nothing but the score and its baseline comes on top.
    deletion = 2 + 2 * 7 * 6
    assert context.forwards - deletion - 2 in (256, 512, 1024, 2048)


def test_location_spread_and_agreement_are_described_for_every_method():
    rows, _ = measure(blobs(), bright_square(), Params())
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held)
    for method in METHODS:
        for metric in ("pointing_game", "relevance_mass", "relevance_rank", "complexity", "sparseness"):
            assert 0 <= numbers[metric, method].values[0] <= 1
        assert np.isfinite(numbers["entropy_rise", method].values[0])
    assert numbers["pointing_game", "hirescam"].kind == "proportion"
    pair = numbers["agreement", "hirescam", "with", "occlusion"]
    assert -1 <= pair.values[0] <= 1
    assert by_target(rows)["hirescam"]["agreements"][0] == pytest.approx(1.0)
    assert by_target(rows)["hirescam"]["agreements"][2] == by_target(rows)["occlusion"]["agreements"][0]


def test_a_method_without_a_map_agrees_with_none(monkeypatch):
    load_explainers()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))

    @explainer("broken", needs={"scores"}, unit="none")
    def broken(session, targets, *, params):
        raise SubjectError("the gradient is not finite")

    params = Params(methods=("broken", "hirescam", "occlusion"))
    rows, _ = measure(blobs(), bright_square(), params)
    assert np.isnan(by_target(rows)["hirescam"]["agreements"][0])
    held = tables({"explanation": [{"case": "a", **row} for row in rows]}, [{"case": "a", "cluster": "p"}])
    numbers = quantities("explanation", held, params)
    assert "no case has a map" in numbers["agreement", "broken", "with", "occlusion"].missing
    assert "no case has a map" not in numbers["agreement", "hirescam", "with", "occlusion"].missing


def test_no_randomisation_when_the_protocol_asks_for_none():
    rows, context = measure(blobs(), bright_square(), Params(methods=("hirescam",), randomisations=0))
    assert by_target(rows)["hirescam"]["randomisation_similarity"] is None
    assert context.backwards == 1


def test_parameters_are_validated_and_lists_become_tuples():
    assert Params(methods=["occlusion"]).methods == ("occlusion",)
    with pytest.raises(UsageError, match="did you mean 'occlusion'"):
        Params(methods=("oclusion",))
    assert Params(road=[20, 80]).road == (20, 80)
    for wrong, message in (
        ({"road": (0,)}, "no percentiles"),
        ({"road_mode": "quick"}, "no such way of filling"),
        ({"bank": 8}, "too few masks"),
        ({"sensitivity_radius": 0.0}, "no radius"),
    ):
        with pytest.raises(UsageError, match=message):
            Params(**wrong)
    for wrong in ({"steps": 1}, {"grid": 0}, {"randomisations": -1}, {"insertion_steps": -1}, {"bank": -1}):
        with pytest.raises(UsageError, match="too small"):
            Params(**wrong)
    with pytest.raises(UsageError, match="no baseline that the check can make"):
        Params(baseline="dataset-mean")  # a case alone has no data set to average
    with pytest.raises(UsageError, match="no baseline that the check can make"):
        Params(baseline="black")
    assert dataclasses.is_dataclass(Params)


@pytest.mark.parametrize(
    "params",
    [
        Params(),
        Params(methods=("gradcam", "ridge", "hsic"), steps=3, randomisations=0),
        Params(methods=("occlusion",), grid=3, insertion_steps=3, road=(20, 80), bank=64, sensitivity_samples=2),
    ],
)
def test_the_plan_never_says_less_than_a_case_takes(params):
    _, context = measure(blobs(), bright_square(), params)
    said = get_check("explanation").forwards(params)
    assert context.forwards <= said
