import numpy as np
import pytest
import torch

import xaiseg
from tests.explainers.toy_segmenters import Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.evaluating import evaluate
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.deletion import deletions
from xaiseg.faithfulness.evaluation import METRICS, Settings
from xaiseg.seeds import generator

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)
QUICK = Settings(steps=3, insertion_steps=3, percentiles=(50,), masks=32, samples=1)


def test_every_number_of_every_metric_for_every_method():
    found = evaluate(small_unet(), bright_square(), method=["hirescam", "occlusion"], metrics=list(METRICS),
                     target=REGION, settings=QUICK)  # fmt: skip
    expected = {
        (metric, method) for each in METRICS.values() for metric in each for method in ("hirescam", "occlusion")
    }
    assert {(score.metric, score.method) for score in found.scores} == expected
    assert all(score.value is not None for score in found.scores)
    compared = {score.metric for score in found.scores if score.excess is not None}
    assert compared == {"deletion_object", "deletion_context", "insertion_object", "insertion_context", "road_object",
                        "road_context", "unexplained", "sensitivity_n"}  # fmt: skip
    for score in found.scores:
        assert score.better == {name: way for each in METRICS.values() for name, way in each.items()}[score.metric]
    assert found.maps["occlusion"].shape == (24, 32)


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"method": []}, "method: there is nothing to test"),
        ({"method": {}}, "method: there is nothing to test"),
        ({"method": "occlusion", "metrics": []}, "metrics: there is nothing to test"),
        ({"method": {"m": "abc"}}, "this is no map of the image. Got: str"),
        ({"method": {"m": np.full((24, 32), np.nan)}}, "finite: False"),
    ],
)
def test_nothing_to_test_and_what_is_no_map_is_an_error(asked, match):
    with pytest.raises(UsageError, match=match):
        evaluate(small_unet(), bright_square(), target=REGION, settings=QUICK, **asked)


def test_the_numbers_are_those_of_the_metrics_and_forwards_are_counted():
    calls = {"images": 0}

    class Counting(ToySegmenter):
        def forward(self, batch):
            calls["images"] += len(batch)
            return super().forward(batch)

    subject = Counting(small_unet().network)
    found = evaluate(subject, bright_square(), metrics=list(METRICS), target=REGION, settings=QUICK, seed=3)
    assert found.forwards == calls["images"]
    session = Session(small_unet(), bright_square(), seed=3)
    values = explain(session, "hirescam", [REGION]).values[0]
    ties = generator(3, "ties").random(MASK.shape)
    expected = deletions(session, REGION, {"map": values}, ties=ties, steps=3)
    for variant in ("object", "context"):
        score = found.score(f"deletion_{variant}")
        assert score.value == pytest.approx(expected[variant]["map"].area_over, abs=1e-6)


def test_the_contributions_of_an_additive_score_are_true_and_their_negative_is_not():
    weights = torch.rand(1, 24, 32, generator=torch.Generator().manual_seed(1)) - 0.4
    image = bright_square()
    truth = (weights * (image - image.mean()))[0].numpy()
    found = evaluate(ToySegmenter(Linear(weights / 30)), image, method={"truth": truth / 30, "lie": -truth / 30},
                     metrics=["deletion", "insertion", "bank"], target=REGION,
                     settings=Settings(masks=64))  # fmt: skip
    assert found.score("sensitivity_n", "truth").value == pytest.approx(1.0, abs=1e-4)
    assert found.score("sensitivity_n", "lie").value == pytest.approx(-1.0, abs=1e-4)
    assert found.score("unexplained", "truth").value == pytest.approx(0.0, abs=1e-6)
    assert found.score("infidelity", "truth").value < 1e-6 * found.score("infidelity", "lie").value
    for metric in ("deletion_object", "deletion_context", "sensitivity_n"):
        assert found.score(metric, "truth").excess > 0 > found.score(metric, "lie").excess


def test_painting_the_mask_is_never_better_than_its_rivals():
    found = evaluate(small_unet(), bright_square(), method={"mask": MASK * 1.0}, target=REGION,
                     metrics=["deletion", "road", "insertion"], settings=QUICK)  # fmt: skip
    assert all(score.excess <= 0 for score in found.scores)


def test_tests_that_need_a_method_say_so_for_finished_maps():
    found = evaluate(small_unet(), bright_square(), method={"mine": MASK * 1.0}, target=REGION,
                     metrics=["randomisation", "max-sensitivity", "agreement"], settings=QUICK)  # fmt: skip
    assert [score.value for score in found.scores] == [None] * 4
    assert all(score.note for score in found.scores)


def test_a_black_box_is_evaluated_as_far_as_it_goes():
    black = ToySegmenter(small_unet().network, offers=frozenset({"scores"}))
    found = evaluate(black, bright_square(), method="occlusion", target=REGION, settings=QUICK)
    assert found.score("deletion_context").value is not None
    assert "no weights" in found.score("entropy_rise").note
    with pytest.raises(SubjectError, match="hirescam needs"):
        evaluate(black, bright_square(), target=REGION)


def test_one_call_gives_a_table():
    found = xaiseg.evaluate(
        small_unet(), bright_square(), target=REGION, metrics=["deletion", "complexity"], settings=QUICK
    )
    lines = found.table().splitlines()
    assert lines[0].split() == ["metric", "hirescam"]
    assert [line.split()[0] for line in lines[1:]] == [
        "deletion_object",
        "deletion_context",
        "complexity",
        "sparseness",
    ]
    assert "(" in lines[1]
    assert "(" not in lines[3]


def test_what_cannot_be_evaluated_is_refused_with_a_hint():
    subject, image = small_unet(), bright_square()
    with pytest.raises(UsageError, match="did you mean 'deletion'"):
        evaluate(subject, image, metrics=["deletoin"])
    with pytest.raises(UsageError, match="no explainer"):
        evaluate(subject, image, method="hirescan", target=REGION)
    with pytest.raises(UsageError, match="no map of the image"):
        evaluate(subject, image, method={"small": np.zeros((3, 3))}, target=REGION)
    with pytest.raises(UsageError, match="no map of the image"):
        evaluate(subject, image, method={"nan": np.full((24, 32), np.nan)}, target=REGION)
    found = evaluate(subject, image, target=REGION, metrics=["complexity"])
    with pytest.raises(UsageError, match="not one number"):
        found.score("deletion_object")
