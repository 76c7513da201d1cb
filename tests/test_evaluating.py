import numpy as np
import pytest
import torch
from PIL import Image

from tests.explainers.toy_segmenters import bright_square, small_unet
from tests.worlds import blob_world
from xaiseg.adapters import wrap_module
from xaiseg.errors import DataError, UsageError
from xaiseg.evaluating import evaluate
from xaiseg.explainers.targets import Border, Region
from xaiseg.explaining import explain
from xaiseg.faithfulness.evaluation import Settings

QUICK = Settings(steps=3, insertion_steps=3, percentiles=(50,), masks=32, samples=1)
MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True


@pytest.fixture
def world(tmp_path):
    """A model.yaml, an image with a lesion and its mask."""
    model = blob_world(tmp_path / "world", n=8, empty=2)
    data = model.parent / "data"
    return model, data / "images" / "case0005.png", data / "masks" / "case0005.png"


def test_files_and_arrays_give_the_same_numbers_as_the_maps_of_explain(world):
    model, image, _ = world
    by_file = evaluate(model, image, settings=QUICK)
    with Image.open(image) as picture:
        by_array = evaluate(str(model), np.asarray(picture), settings=QUICK)
    given = {"hirescam": explain(model, image).values[0]}
    by_map = evaluate(model, image, method=given, metrics=["deletion"], settings=QUICK)
    for score in by_map.scores:
        assert by_file.score(score.metric).value == score.value == by_array.score(score.metric).value
    assert by_file.target == "lesion"


def test_targets_are_those_of_explain(world):
    model, image, mask = world
    found = evaluate(model, image, target={"object": {"x": 24, "y": 24}} if _inside(mask) else "lesion",
                     metrics=["localisation"], settings=QUICK)  # fmt: skip
    assert found.score("energy_in_region").value > 0.5
    whole = evaluate(model, image, target={"region": {"class": "lesion", "mask": "reference"}}, reference=mask,
                     metrics=["localisation"], settings=QUICK)  # fmt: skip
    with Image.open(mask) as picture:
        asked = Region(1, np.asarray(picture) > 0)
    same = evaluate(model, image, target=asked, metrics=["localisation"], settings=QUICK)
    assert whole.score("relevance_mass").value == pytest.approx(same.score("relevance_mass").value)


def _inside(mask):
    with Image.open(mask) as picture:
        return bool(np.asarray(picture)[24, 24])


def test_a_wrapped_module_and_a_seed():
    subject = wrap_module(small_unet().network)
    region = Region(1, MASK)
    first, again = (
        evaluate(subject, bright_square(), method="rise", metrics=["bank"], target=region, seed=3) for _ in range(2)
    )
    assert first.scores == again.scores


def test_what_cannot_be_evaluated_is_one_clear_error(world, tmp_path):
    model, image, _ = world
    with pytest.raises(UsageError, match="tested on one region"):
        evaluate(model, image, target=["lesion", "2,3"])
    with pytest.raises(UsageError, match=r"one region.*Border"):
        evaluate(small_unet(), bright_square(), target=Border(1, MASK))
    with pytest.raises(UsageError, match="did you mean 'lesion'"):
        evaluate(model, image, target="leison")
    with pytest.raises(UsageError, match=r"settings: these are no settings. Got: \{\}. Allowed: xaiseg.*Settings"):
        evaluate(model, image, settings={})
    with pytest.raises(DataError, match=r"none\.png"):
        evaluate(model, tmp_path / "none.png")
    with pytest.raises(UsageError, match="masks need masks"):
        evaluate(small_unet(), bright_square(), target=Region(1, MASK), metrics=["bank"], settings=Settings(masks=0))


def test_a_caller_in_inference_mode_and_a_mean_of_the_data_set():
    region, painted = Region(1, MASK), {"ramp": np.linspace(0, 1, MASK.size).reshape(MASK.shape)}
    options = {"metrics": ["randomisation"], "target": region, "settings": QUICK}
    subject = small_unet()
    plain = evaluate(subject, bright_square(), method="hirescam", **options)
    with torch.inference_mode():
        assert evaluate(subject, bright_square(), method="hirescam", **options).scores == plain.scores
    dark = Settings(steps=4, baseline="dataset-mean")
    with pytest.raises(UsageError, match="the dataset mean was not given"):
        evaluate(small_unet(), bright_square(), method=painted, metrics=["deletion"], target=region, settings=dark)
    found = [
        evaluate(small_unet(), bright_square(), method=painted, metrics=["deletion"], target=region, settings=dark,
                 dataset_mean=np.full((1, 1, 1), value)).score("deletion_object").value
        for value in (0.0, 1.0)
    ]  # fmt: skip
    assert found[0] != found[1]
