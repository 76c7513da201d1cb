import numpy as np
import pytest
import torch

from tests.checks.fake import FakeContext, frame, make_case, quantities, tables
from tests.explainers.test_intrinsic import compact
from tests.explainers.toy_gates import NAMES, IntrinsicToy, MapsOnly, ToyGates
from tests.explainers.toy_segmenters import bright_square
from xaiseg.checks.base import get_check
from xaiseg.checks.explanation_intrinsic import Params
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.targets import predicted_region
from xaiseg.faithfulness.randomisation import similarity

CHECK = "explanation.intrinsic"
WAYS = ("loss_gradient", "answer_gradient", "other_images", "training_mean")
FAST = Params(methods=("hirescam",))


def square(height=24, width=32, top=8, left=10, side=8):
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def measure(subject, image=None, *, params=FAST, name="a", reference=None, seed=0, batch=8, no_reference=False):
    image = np.asarray(bright_square() if image is None else image, dtype=np.float32)
    mask = square(*image.shape[1:]) if reference is None else reference
    case = make_case(name, mask, image=image)
    if no_reference:
        case = type(case)(case.ref, case.image, None)
    held = subject.decide(subject.predict([torch.as_tensor(image)])[0])
    context = FakeContext(held=held, params=params, subject=subject, case=name, seed=seed, facts={"batch": batch})
    rows = [{"case": name, **row} for row in get_check(CHECK).measure(context, case)]
    return rows, context


def several(network, count=6, **options):
    """Rows of images whose squares differ in size, so that brightness varies."""
    rows, cases = [], []
    for index in range(count):
        image = bright_square(side=5 + index)
        reference = square(side=5 + index)
        rows += measure(IntrinsicToy(network), image, name=f"c{index}", reference=reference, **options)[0]
        cases.append({"case": f"c{index}", "cluster": f"p{index}"})
    return tables({CHECK: rows}, cases)


def of_kind(rows, kind):
    return {row["target"]: row for row in rows if row["kind"] == kind}


def test_rows_hold_every_number_and_fit_the_schema():
    rows, context = measure(IntrinsicToy(ToyGates()))
    frame(CHECK, rows)
    case = of_kind(rows, "case")[""]
    assert case["identity_residual"] < 1e-5
    assert case["replay_residual"] < 1e-6
    assert case["change"] > 1e-3
    features = of_kind(rows, "feature")
    assert [row["position"] for row in features.values()] == [0, 1, 2, 3, 4]
    assert list(features) == list(NAMES)
    assert all(len(row["response"]) == len(row["response_dice"]) == 5 for row in features.values())
    assert set(of_kind(rows, "map")) == {"alpha_s_1", "alpha_s_2"}
    vectors = of_kind(rows, "vector")
    assert set(vectors) == {"features", "features_normalised", "alpha_c_1", "gamma_1"}
    assert vectors["gamma_1"]["low"] == vectors["gamma_1"]["high"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert np.argmax(vectors["alpha_c_1"]["slope"]) == NAMES.index("brightness")
    assert vectors["gamma_1"]["slope"] is None
    assert set(of_kind(rows, "picture")) == {"image", "prediction"}
    assert set(of_kind(rows, "posthoc")) == {"hirescam"}
    assert context.maps == {}  # the galleries' scale is signed; read-outs have a drawing of their own


def test_maps_are_compared_inside_and_outside_whatever_the_area():
    subject = IntrinsicToy(ToyGates())
    row = of_kind(measure(subject)[0], "map")["alpha_s_1"]
    with torch.no_grad():
        whole = subject.network.spatial(subject.network.encode(bright_square()[None])[0])[0, 0].numpy()
        labels = subject.decide(subject.predict([bright_square()])[0]).labels
    assert row["inside_to_outside"] == pytest.approx(whole[labels > 0].mean() / whole[labels == 0].mean(), rel=1e-5)
    assert (row["low"], row["high"]) == pytest.approx((whole.min(), whole.max()))
    drawn = np.asarray(row["picture"]).reshape(-1, row["picture_width"]) / 255
    np.testing.assert_allclose(row["low"] + drawn * (row["high"] - row["low"]), whole, atol=0.003)
    assert row["change"] > 0.01


def test_agreement_is_the_rank_correlation_with_the_post_hoc_map():
    subject = IntrinsicToy(ToyGates())
    rows, _ = measure(subject)
    found = {row["target"]: row for row in rows if row["kind"] == "agreement"}
    held = subject.decide(subject.predict([bright_square()])[0])
    region = predicted_region(held, subject.info.classes)
    session = Session(subject, bright_square(), prediction=held)
    other = explain(session, "hirescam", [region]).values[0]
    with torch.no_grad():
        own = subject.network.spatial(subject.network.encode(bright_square()[None])[0])[0, 0].numpy()
    assert found["alpha_s_1"]["rank_correlation"] == pytest.approx(similarity(own, other))
    assert found["alpha_s_1"]["level"] == "hirescam"
    assert found["alpha_s_2"]["status"] == "undefined"
    assert "constant" in found["alpha_s_2"]["reason"]


def test_all_four_ways_put_the_one_feature_that_matters_first():
    numbers = quantities(CHECK, several(ToyGates()), FAST)
    for way in WAYS:
        values = {name: numbers[f"importance_{way}", name].values for name in NAMES}
        assert (values["brightness"] > 0).all(), way
        assert all((values[name] < 1e-7).all() for name in NAMES if name != "brightness"), way
        share = numbers[f"share_{way}", "brightness"]
        assert share.function(share.values.sum(axis=0)) > 99.9, way
    assert (numbers["features_off_change",].values > 1e-3).all()
    agreement = numbers["rank_agreement", "loss_gradient and answer_gradient"]
    assert agreement.function(agreement.values.sum(axis=0)) == pytest.approx(1.0)


def test_without_gamma_nothing_hangs_on_the_features():
    rows, _ = measure(IntrinsicToy(ToyGates(mixing=-60.0)))
    case = of_kind(rows, "case")[""]
    assert (case["change"], case["dice_change"]) == (0.0, 0.0)
    assert all(max(row["response"]) == 0.0 for row in of_kind(rows, "feature").values())
    numbers = quantities(CHECK, several(ToyGates(mixing=-60.0)), FAST)
    share = numbers["share_training_mean", "brightness"]
    assert np.isnan(share.function(share.values.sum(axis=0)))


def test_rows_repeat_and_do_not_depend_on_the_batch():
    first, again = (measure(IntrinsicToy(compact()), bright_square(32, 32))[0] for _ in range(2))
    assert first == again
    other, _ = measure(IntrinsicToy(compact()), bright_square(32, 32), batch=3)
    for one, two in zip(first, other, strict=True):
        assert one["target"] == two["target"]
        if one["kind"] == "feature":
            assert one["response"] == pytest.approx(two["response"], abs=1e-6)


def test_radiomicnet_explains_itself_by_thirteen_names():
    rows, context = measure(IntrinsicToy(compact()), bright_square(32, 32))
    frame(CHECK, rows)
    assert len(of_kind(rows, "feature")) == 13
    assert len(of_kind(rows, "map")) == 4
    case = of_kind(rows, "case")[""]
    assert case["identity_residual"] < 1e-5
    assert case["replay_residual"] < 1e-5
    assert context.forwards >= 13 * 5
    assert context.backwards >= 2


def test_without_a_reference_the_loss_gradient_is_missing_and_says_why():
    rows, _ = measure(IntrinsicToy(ToyGates()), no_reference=True)
    assert all(row["gradient_loss"] is None for row in of_kind(rows, "feature").values())
    numbers = quantities(CHECK, tables({CHECK: rows}, [{"case": "a", "cluster": "p"}]), FAST)
    assert "reference" in numbers["importance_loss_gradient",].missing
    assert "reference" in numbers["dice_drop_other_images",].missing
    assert "two images" in numbers["importance_other_images",].missing
    assert numbers["importance_answer_gradient", "brightness"].values[0] > 0
    assert numbers["rank_agreement", "loss_gradient and training_mean"].missing


def test_without_predicted_foreground_the_features_are_weighed_and_the_maps_not_compared():
    rows, _ = measure(IntrinsicToy(ToyGates()), np.full((1, 24, 32), 0.05, np.float32))
    agreements = [row for row in rows if row["kind"] == "agreement"]
    assert {row["status"] for row in agreements} == {"not_applicable"}
    assert all("no foreground" in row["reason"] for row in agreements)
    assert not of_kind(rows, "posthoc")
    assert "inside_to_outside" not in of_kind(rows, "map")["alpha_s_1"]
    assert np.isfinite(of_kind(rows, "feature")["brightness"]["gradient_answer"])
    numbers = quantities(CHECK, tables({CHECK: rows}, [{"case": "a", "cluster": "p"}]), FAST)
    assert "no foreground" in numbers["rank_correlation", "alpha_s_1", "", "hirescam"].missing


def test_maps_that_cannot_be_switched_off_are_shown_without_an_importance():
    rows, _ = measure(IntrinsicToy(MapsOnly()))
    frame(CHECK, rows)
    assert {row["kind"] for row in rows} == {"map", "vector", "agreement", "posthoc", "picture"}
    assert "change" not in of_kind(rows, "map")["attention_1"]
    numbers = quantities(CHECK, tables({CHECK: rows}, [{"case": "a", "cluster": "p"}]), FAST)
    assert {key[0] for key in numbers} == {"inside_to_outside", "rank_correlation"}


def test_an_ablation_without_features_keeps_its_maps():
    rows, _ = measure(IntrinsicToy(compact("spatial_only")), bright_square(32, 32))
    assert not of_kind(rows, "feature")
    assert of_kind(rows, "case")[""].get("change") is None
    assert of_kind(rows, "map")["alpha_s_4"]["change"] >= 0
    numbers = quantities(CHECK, tables({CHECK: rows}, [{"case": "a", "cluster": "p"}]), FAST)
    assert not [key for key in numbers if key[0].startswith(("importance", "features"))]


def test_no_rows_are_a_missing_quantity():
    failed = [{"case": "a", "status": "failed", "reason": "corrupt PNG"}]
    for held in (tables({}, []), tables({CHECK: failed}, [{"case": "a", "cluster": "p"}])):
        (only,) = quantities(CHECK, held, FAST).values()
        assert only.missing


def test_parameters_are_validated_and_lists_become_tuples():
    assert Params(methods=["occlusion"], levels=[-1, 0, 2]) == Params(("occlusion",), (-1.0, 0.0, 2.0))
    for wrong in ((-1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        with pytest.raises(UsageError, match="levels must rise"):
            Params(levels=wrong)
    with pytest.raises(UsageError, match="did you mean 'occlusion'"):
        Params(methods=("oclusion",))
