"""The section on what the architecture itself says, from rows of toy networks to the words on the page."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import xaiseg
from tests.checks.fake import tables
from tests.checks.test_explanation_intrinsic import CHECK, FAST, several
from tests.explainers.toy_gates import MapsOnly, ToyGates
from tests.worlds import blob_world
from xaiseg.checks.base import get_check
from xaiseg.data.case import Case, CaseRef
from xaiseg.estimate import Estimate
from xaiseg.evidence import gallery_arrays
from xaiseg.reports.figures import View, story
from xaiseg.reports.figures_intrinsic import FEATURES, NOT_LINEAR, matters, plain_name
from xaiseg.run import EvidenceItem, RunDirectory
from xaiseg.statistics.interval import Interval
from xaiseg.subject import Prediction
from xaiseg.zoo import build
from xaiseg.zoo.radiomics import FEATURES as NAMED


class HeldRun:
    """What a story asks a run for."""

    def __init__(self, table, items=()):
        self._table, self._items = table, items

    def has_table(self, check):
        return check == CHECK

    def table(self, check):
        return self._table

    def evidence(self):
        return list(self._items)


def estimates_of(held):
    """Plain means and values of statistics, with an interval of ten per cent."""
    found = {}
    for number, quantity in enumerate(get_check(CHECK).quantities(held, FAST)):
        value = None
        if len(quantity.values):
            values = np.asarray(quantity.values, dtype=np.float64)
            value = float(quantity.function(values.sum(axis=0)) if quantity.function else np.nanmean(values))
            value = value if np.isfinite(value) else None
        spread = None
        if value is not None and quantity.kind != "fact":
            spread = Interval(value, 0.9 * value, 1.1 * value, 0.05, "m", 6, 6)
        found[str(number)] = Estimate(
            str(number), CHECK, quantity.metric, quantity.kind, value, spread, target=quantity.target,
            level=quantity.level, unit=quantity.unit, reason=quantity.missing, missing=bool(quantity.missing), n=6,
        )  # fmt: skip
    return found


def view_of(network, items=(), **options):
    held = several(network, **options)
    params = {"methods": list(FAST.methods), "levels": list(FAST.levels)}
    return View(CHECK, params, estimates_of(held), (), {}, HeldRun(held.rows[CHECK], items))


def kept(case):
    image = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(1, 24, 32)
    labels = np.zeros((24, 32), np.uint8)
    labels[8:16, 10:18] = 1
    arrays = gallery_arrays(Case(CaseRef(case, ""), image, labels), Prediction(labels), {}, (0.0, 1.0))
    return EvidenceItem(case, ("random",), {}, 1, arrays)


@pytest.fixture(scope="module")
def told():
    return story(view_of(ToyGates(), items=[kept("c4")]))


def said(told) -> str:
    """Everything that a reader of the section can read."""
    plots = [f"{plot.claim} {plot.how} {' '.join(re.findall('>([^<>]+)<', str(plot.picture)))}" for plot in told.plots]
    cells = [cell for table in told.tables for row in (table.head, *table.rows) for cell in row]
    return " ".join([told.answer, *plots, *(table.caption for table in told.tables), *cells])


def test_the_section_says_first_how_much_the_features_matter(told):
    assert told.answer.startswith("5 named features of the whole image steer how much passes the network's gates (6 ")
    assert "Switching all of them off changes the foreground probability by 0." in told.answer
    assert "brightness (loss gradient 100" in told.answer
    assert told.answer.endswith("most.")


def test_bars_stand_in_the_order_of_their_shares_and_in_colour(told):
    picture = str(told.plots[0].picture)
    first = re.search(r'font-size="13"[^>]*>(brightness|first|second|third|fifth)<', picture)
    assert first[1] == "brightness"
    assert 'class="f-accent"' in picture
    assert 'class="f-idle"' not in picture
    for head in ("loss gradient", "answer gradient", "other images", "training mean"):
        assert f">{head}</text>" in picture


def test_only_the_denial_speaks_of_linear_weights(told):
    text = said(told)
    assert NOT_LINEAR in text
    assert "linear" not in text.replace(NOT_LINEAR, "").lower()
    assert "direct linear functions" in NOT_LINEAR
    assert "say otherwise" in NOT_LINEAR
    assert "points at no place" in text
    assert "no gradient passes from it to the pixels" in text


def test_maps_stand_beside_the_post_hoc_map_and_the_one_without_effect_is_pale(told):
    picture = str(told.plots[1].picture)
    assert ">hirescam</text>" in picture
    assert ">gate 1</text>" in picture
    assert ">gate 2: no effect</text>" in picture or ">gate 2: no eff" in picture
    assert picture.count('opacity="0.3"') == 3  # one a case
    assert ">c4</text>" in picture
    assert picture.index(">c4<") < min(picture.index(f">{case}<") for case in ("c0", "c1") if f">{case}<" in picture)
    assert "no picture kept" not in picture  # the others show the check's own coarse picture
    gates = next(table for table in told.tables if "gamma" in table.caption)
    assert gates.head[-1] == "hirescam"
    assert [row[0] for row in gates.rows] == ["gate 1", "gate 2"]
    assert "no effect" not in gates.rows[0][4]
    assert "no effect" in gates.rows[1][4]
    assert "within 0.00001" in gates.caption


def test_read_outs_that_the_network_does_not_use_are_called_out():
    told = story(view_of(ToyGates(lie=0.1)))
    gates = next(table for table in told.tables if "gamma" in table.caption)
    assert "do not give the network's own gated tensors" in gates.caption
    assert "off by 0.091" in gates.caption


def test_without_gamma_the_importances_are_grey_and_the_text_says_so():
    view = view_of(ToyGates(mixing=-60.0))
    assert matters(view, "features_off_change", "features_off_dice_drop") is False
    told = story(view)
    assert "Switching all of them off changes next to nothing" in told.answer
    assert "drawn in grey" in told.answer
    assert "weigh" not in told.answer
    picture = str(told.plots[0].picture)
    assert 'class="f-accent"' not in picture
    assert 'class="f-idle"' in picture


def test_ways_agree_in_a_half_matrix(told):
    table = next(table for table in told.tables if "Kendall" in table.caption)
    assert table.head == ("", "loss gradient", "answer gradient", "other images")
    assert [row[0] for row in table.rows] == ["answer gradient", "other images", "training mean"]
    assert [sum(bool(cell) for cell in row[1:]) for row in table.rows] == [1, 2, 3]


def test_features_have_names_units_and_both_scales(told):
    table = next(table for table in told.tables if "standard deviations" in table.caption)
    assert [row[0] for row in table.rows] == ["first", "second", "third", "brightness", "fifth"]
    assert table.head == ("feature", "as measured", "standardised", "slope, gate 1")
    slopes = {row[0]: row[3] for row in table.rows}
    assert slopes["first"] == "0"
    assert float(slopes["brightness"]) > 0.05
    assert set(FEATURES) == set(NAMED)
    assert plain_name("glcm_contrast") == "neighbour contrast"
    assert len({plain_name(name) for name in NAMED}) == 13


def test_a_network_with_maps_alone_gets_them_shown_and_no_importance():
    told = story(view_of(MapsOnly()))
    assert "shows 1 map and 1 vector of its own" in told.answer
    assert "do not count on them" in told.answer
    assert len(told.plots) == 1
    (table,) = told.tables
    assert {row[0] for row in table.rows} == {"attention 1", "bend 1"}
    assert "linear" not in said(told)


def test_no_rows_are_told_in_one_sentence():
    failed = [{"case": "a", "status": "failed", "reason": "corrupt PNG"}]
    held = tables({CHECK: failed}, [{"case": "a", "cluster": "p"}])
    view = View(CHECK, {}, estimates_of(held), (), {}, HeldRun(held.rows[CHECK]))
    assert story(view).answer == "There is nothing to show: no case gave a read-out."


PROTOCOL = """protocol: intrinsic
version: 1.0.0
as_of: 2026-11-24
purpose: a test
checks:
  explanation.intrinsic: {methods: [hirescam]}
"""


def test_an_audit_of_radiomicnet_has_the_section_and_repeats(tmp_path):
    model = blob_world(tmp_path, n=4, size=64, empty=1, per_patient=1)
    torch.manual_seed(0)
    network = build("radiomicnet-compact", 1, 1)
    torch.nn.init.constant_(network.head.bias, 0.02)  # random weights that predict some foreground
    save_file({name: values.contiguous() for name, values in network.state_dict().items()}, tmp_path / "w.safetensors")
    source = ('{torch: "builder.py:build"}', "{zoo: radiomicnet-compact, weights: w.safetensors}")
    text = model.read_text(encoding="utf-8").replace(*source).replace("trust: true\n", "")
    model.write_text(text, encoding="utf-8")
    (tmp_path / "p.yaml").write_text(PROTOCOL, encoding="utf-8")
    held = []
    for name in ("a", "b"):
        xaiseg.audit(model, str(tmp_path / "p.yaml"), out=tmp_path / name, pdf=False)
        run = RunDirectory(tmp_path / name)
        assert run.errors() == []
        held.append(run.table(CHECK).to_json(orient="records", double_precision=15))
    assert held[0] == held[1]
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="check-explanation-intrinsic"') :]
    section = re.sub(r'href="data:[^"]*"', "", section[: section.index("</section>")])
    assert "What the architecture itself says" in section
    assert "13 named features of the whole image" in section
    assert len(re.findall("linear", section)) == 1
