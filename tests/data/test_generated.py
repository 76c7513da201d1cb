from __future__ import annotations

import numpy as np
import pytest
from pictures import GREY

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.phantoms import PhantomSpec, phantom_case, phantom_list
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.errors import NothingToAudit, UsageError


def entry(**more):
    return DataEntry(reader="phantom", **more)


def opened(held, spec=GREY):
    return open_dataset("test", held, root=".", spec=spec)


def test_the_reader_serves_exactly_the_phantoms():
    held = entry(phantom={"patients": 6, "seed": 3}, strata=("device", "lesion_kind"))
    spec = PhantomSpec(patients=6, seed=3)
    dataset = opened(held)
    assert dataset.generated
    assert (dataset.cluster_column, dataset.n_clusters) == ("patient", 6)
    assert dataset.source == "generated phantoms, split test, seed 3"
    assert {ref.id for ref in dataset.cases} == {phantom.id for phantom in phantom_list(spec)}
    for ref in dataset.cases[:3]:
        index = [phantom.id for phantom in phantom_list(spec)].index(ref.id)
        pixels, mask, meta = phantom_case(spec, index)
        case = load_case(held, ref, GREY)
        np.testing.assert_allclose(case.image[0], pixels / 255, atol=1e-7)
        assert (case.reference == mask).all()
        assert ref.cluster == meta["patient"]
        assert ref.strata == {"device": meta["device"], "lesion_kind": meta["lesion_kind"]}


def test_the_subject_decides_range_and_channels():
    held = entry(phantom={"patients": 1})
    case = load_case(held, opened(held).cases[0], ImageSpec(channels=3, value_range=(-1, 1)))
    assert case.image.shape == (3, 144, 176)
    assert -1 <= case.image.min() < -0.5
    assert 0.5 < case.image.max() <= 1


def test_filters_and_wrong_columns():
    only = opened(entry(phantom={"patients": 30}, where={"device": "D"}, strata=("device",)))
    assert {ref.strata["device"] for ref in only.cases} == {"D"}
    with pytest.raises(UsageError, match="no column 'scanner'"):
        opened(entry(strata=("scanner",)))
    with pytest.raises(NothingToAudit, match="no image is left"):
        opened(entry(where={"device": "E"}))
    with pytest.raises(NothingToAudit, match="no image is left"):
        opened(entry(phantom={"split": "train", "patients": 20}, where={"device": "D"}))
