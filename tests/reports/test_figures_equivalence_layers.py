import numpy as np
import pytest

from tests.checks import test_equivalence_layers as world
from tests.checks.fake import frame
from tests.reports.estimated import view_of
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_layers import ID, Params
from xaiseg.modelfile_variants import VariantSpec
from xaiseg.reports.figures import story

SPECS = {
    "wide": {"hardware": "msdf", "observer": "max"},
    "sane": {"hardware": "msdf", "observer": "percentile", "percentile": 99.0},
    "short": {"hardware": "msdf", "observer": "percentile", "percentile": 99.0, "digits": -8},
    "free": {"hardware": "fake", "observer": "percentile", "percentile": 99.0},
}


@pytest.fixture(scope="module")
def audited():
    network = world.Spiked().eval()
    rows, cases = world.measured(network, world.variants_of(network, **SPECS), count=3)
    return rows, cases


def told(audited, names):
    rows, cases = audited
    specs = {name: VariantSpec(**SPECS[name]).model_dump(mode="json", exclude_none=True) for name in names}
    kept = frame(ID, [row for row in rows if row["subject"] in names])
    return story(view_of(get_check(ID), kept, cases, Params(), specs))


def test_the_answer_names_the_rung_and_the_layer(audited):
    found = told(audited, ["wide", "sane", "short"])
    assert "Build wide breaks first at rung C, fake quantisation, free scales" in found.answer
    assert "build short breaks first at rung F, digit-serial units, fewer digits" in found.answer
    assert "no rung of sane changes the side of more than 0.5 % of the pixels" in found.answer
    assert "in 2 layers of wide, first in first (" in found.answer
    assert "in no layer of sane" in found.answer
    assert "every integer of every layer was that of the golden model" in found.answer


def test_rungs_are_drawn_once_for_builds_that_share_their_integers(audited):
    ladder = told(audited, ["wide", "sane", "short"]).plots[0].picture
    assert ladder.count("batch normalisation folded") == 2 + 2  # and as often in the alternative text
    assert ladder.count("F short: fewer digits") >= 1
    assert "sane and short" in ladder
    alone = told(audited, ["free"]).plots[0].picture
    assert "D powers of two" not in alone


def test_every_layer_is_a_dot_of_its_build(audited):
    picture = told(audited, ["sane", "short"]).plots[1].picture
    assert picture.count("<circle") == 2 * 2 * 3  # accumulated and alone, of three layers
    assert "sane: 3 layers, lowest:" in picture
    assert picture.count(">sane<") == 1


def test_tables_say_what_breaks_and_what_each_format_is(audited):
    builds, weakest = told(audited, ["wide", "free"]).tables
    assert builds.rows[0][:2] == ("wide", "C, fake quantisation, free scales")
    assert builds.rows[0][2].startswith("2, first in first (")
    assert builds.rows[1][:3] == ("free", "none", "none")
    cells = {(row[0], row[1]): row for row in weakest.rows}
    assert len(cells) == len(weakest.rows) == 6
    rows, _ = audited
    (facts,) = (row for row in rows if row["subject"] == "wide" and not row["case"] and row["target"] == "first")
    first = cells["first", "wide"]
    assert first[6] == str(facts["exponent"])
    assert first[7].endswith(f"of {facts['digits_total']}")
    assert first[8] == "exact"
    assert cells["first", "free"][6:] == ("free", "", "")
    own = [row for row in rows if row["subject"] == "wide" and row["case"] and row.get("target") == "first"]
    expected = 10 * np.log10(sum(row["signal"] for row in own) / sum(row["local_noise"] for row in own))
    assert float(first[2]) == pytest.approx(expected, abs=0.06)
    assert first[5] == "1 of 2"  # the channel of the image is lost beside the huge one


def test_without_a_build_in_integers_the_section_says_why(audited):
    _, cases = audited
    view = view_of(get_check(ID), frame(ID, []), cases, Params(), {"onnx": {"source": {"onnx": "int8.onnx"}}})
    assert "a source of its own" in story(view).answer
