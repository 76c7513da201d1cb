import pytest

from tests.explainers.toy_segmenters import BoxFilter, ToySegmenter, bright_square
from xaiseg import explain
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session, get_explainer, load_explainers
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.targets import predicted_region
from xaiseg.explaining_params import method_lines, parse_params, settled
from xaiseg.faithfulness.layers import rank_layers


def test_a_setting_reaches_every_method_that_has_it():
    held = parse_params(["grid=4", "rise.masks=512", "layer=encoder.3"], ["rise", "occlusion", "hirescam", "saliency"])
    assert sorted(held) == ["hirescam", "occlusion", "rise"]
    assert (held["rise"].grid, held["rise"].masks, held["occlusion"].grid) == (4, 512, 4)
    assert held["hirescam"].layer == "encoder.3"
    assert held["hirescam"] == CamParams(layer="encoder.3")


def test_values_are_of_the_kind_that_the_parameter_has():
    assert parse_params(["token_grid=[2, 3]"], ["hirescam"])["hirescam"].token_grid == (2, 3)
    assert parse_params(["layer=null"], ["hirescam"])["hirescam"].layer is None
    assert parse_params([], ["hirescam"]) == {}


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("grid", "this is no setting. Got: grid"),
        ("=3", "this is no setting"),
        ("gird=4", "none of .* has such a parameter. Got: gird. did you mean 'grid'"),
        ("lime.grid=4", "the method does not run. Got: lime"),
        ("occlusion.masks=4", "occlusion has no such parameter. Got: masks"),
        ("grid=four", "--param rise.grid: the value does not suit"),
        ("grid=4.5", "the value does not suit"),
        ("baseline=black", "the value does not suit"),
        ("grid=0", "--param occlusion: occlusion.grid: a grid needs cells. Got: 0"),
        ("kernelshap.segments=1", "only be given from Python"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(setting, match):
    with pytest.raises(UsageError, match=match):
        parse_params([setting], ["rise", "occlusion", "kernelshap"])


def test_the_best_layer_is_the_first_of_the_ranking_and_is_told():
    subject, image = ToySegmenter(BoxFilter(2, shift=0.5).eval()), bright_square()
    session = Session(subject, image)
    region = predicted_region(session.prediction, subject.info.classes)
    first = rank_layers(session, region)[0].layer
    chosen, note = settled(session, get_explainer("hirescam"), [region], CamParams(layer="best"))
    assert chosen.layer == first
    assert note.startswith("layer chosen on this image")
    assert settled(session, get_explainer("hirescam"), [region], None) == (None, "")
    found = explain(subject, image, method="hirescam", params=CamParams(layer="best"))
    assert found.attribution.params.layer == first
    session = Session(subject, image)
    rank_layers(session, predicted_region(session.prediction, subject.info.classes))
    spent = session.forwards - 1  # the prediction was made before
    assert found.notes[-1] == f"{note}; this took {spent} forwards, which are in the cost"
    assert found.cost.forwards == spent  # the map itself is read off the activations of the ranking
    assert spent > 10


def test_layers_are_ranked_for_regions_alone():
    subject = ToySegmenter(BoxFilter(2, shift=0.5).eval())
    best = CamParams(layer="best")
    with pytest.raises(UsageError, match="ranked by the region"):
        explain(subject, bright_square(), method="hirescam", target="{margin: lesion}", params=best)


def test_a_parameter_that_a_method_lacks_is_said_of_that_method():
    methods = ["saliency", "occlusion", "guided-backprop"]
    with pytest.raises(UsageError, match=r"--param: saliency has no such parameter. Got: grid. Known: absolute"):
        parse_params(["saliency.grid=4"], methods)
    with pytest.raises(UsageError, match=r"guided-backprop has no such parameter. Got: grid. It has none"):
        parse_params(["guided-backprop.grid=4"], methods)
    with pytest.raises(
        UsageError, match=r"none of saliency, occlusion, .* has such a parameter. Got: gird. did you mean"
    ):
        parse_params(["gird=4"], methods)
    assert parse_params(["grid=4"], methods)["occlusion"].grid == 4


def test_every_method_has_a_line_with_its_parameters():
    lines = method_lines()
    assert len(lines) == len(load_explainers())
    assert all(line.split()[0] == name for line, name in zip(lines, sorted(load_explainers()), strict=True))
    (rise,) = [line for line in lines if line.startswith("rise ")]
    assert "needs scores; at most 2,048 forwards; masks=2048 average=centred" in rise
