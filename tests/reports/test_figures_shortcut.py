"""The sections on shortcuts, from rows of models of known habits to the words on the page."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.checks.fake import tables
from tests.checks.shortcut_worlds import FloeOnly, MarkReader, floe_lover, honest, measured, tile
from xaiseg.checks.base import get_check
from xaiseg.checks.shortcut_artefacts import Params as Marks
from xaiseg.checks.shortcut_background import Params as Backgrounds
from xaiseg.checks.shortcut_lookalikes import Params as Lookalikes
from xaiseg.checks.shortcut_object import Params as Removals
from xaiseg.checks.shortcut_position import Params as Places
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.figures import View, story
from xaiseg.run import plain
from xaiseg.statistics.interval import Interval

EMPTY = tuple(tile(f"empty {index}", (), empty=True, cluster="other") for index in range(2))
PARAMS = {
    "shortcut.background": Backgrounds(backgrounds=1),
    "shortcut.object": Removals(fills=("telea",)),
    "shortcut.artefacts": Marks(marks=("text",)),
    "shortcut.position": Places(hidden=(0.5,)),
}


def view_of(check, subject, *, requirement=None, verdict=Verdict.FAIL):
    params = PARAMS[check]
    cases = [tile(f"c{index}", ((14, 12 + index), (40, 50))) for index in range(3)]
    rows = [row for case in cases for row in measured(check, subject, case, params=params, others=EMPTY)]
    held = tables({check: rows}, cases)
    found = {}
    for number, one in enumerate(get_check(check).quantities(held, params)):
        values = np.asarray(one.values, dtype=np.float64)
        value = None
        if len(values):
            value = float(one.function(values.sum(axis=0)) if one.function else values.mean())
        spread = Interval(value, value - 0.1, value + 0.1, 0.05, "m", 6, 3) if value is not None else None
        found[str(number)] = Estimate(
            str(number), check, one.metric, one.kind, value, None if one.kind == "fact" else spread, factor=one.factor,
            level=one.level, target=one.target, of=one.of, n=len(values), missing=bool(one.missing), reason=one.missing,
        )  # fmt: skip
    findings = (Finding(requirement, verdict, "sentence", "reason", "0"),) if requirement else ()
    table = held.rows[check]
    run = SimpleNamespace(has_table=lambda name: True, table=lambda name: table)
    return View(check, plain(params), found, findings, {"seed": 0}, run)


def said(told) -> str:
    plots = [f"{plot.claim} {plot.how} {' '.join(re.findall('>([^<>]+)<', str(plot.picture)))}" for plot in told.plots]
    cells = [cell for table in told.tables for row in (table.head, *table.rows) for cell in row]
    return " ".join([told.answer, *plots, *(table.caption for table in told.tables), *cells])


def test_a_planted_shortcut_is_told_with_its_bound_and_pictures():
    bound = Requirement("shortcut.background", "suppression", 0.5, "at_most", where={"background": "swap"})
    told = story(view_of("shortcut.background", floe_lover(), requirement=bound))
    assert told.answer.startswith("No: beyond the sham, of the objects that the model finds 1.00 (")
    assert "vanish before other backgrounds and " in told.answer
    assert "before other backgrounds the confidence falls by 0.89 (" in told.answer
    assert told.plots[0].claim.endswith("beyond the bound of 0.5.")
    assert len(told.plots) == 2
    picture = str(told.plots[1].picture)
    for words in ("as it is", "edit", "sham", "confidence 0.1", "confidence 0.9"):
        assert words in picture
    assert "3 images of 3 with found objects that vanished" in told.plots[1].how


def test_a_clean_model_has_no_telling_objects():
    told = story(view_of("shortcut.background", honest()))
    assert len(told.plots) == 1
    assert told.plots[0].claim == ""
    assert "takes away 0" in told.answer
    table = told.tables[0]
    assert table.head[1:4] == ("lost after the edit", "lost after the sham", "beyond the sham")
    assert [row[0] for row in table.rows] == ["background swap", "background blur"]


def test_answers_that_stay_are_shown():
    view = view_of("shortcut.object", FloeOnly())
    told = story(view)
    assert "are no longer found once they are removed (filled from around it)" in told.answer
    assert "answers that stayed although the object was gone" in said(told)
    assert len(story(view_of("shortcut.object", honest())).plots) == 1


def test_marks_and_places_have_their_own_words():
    marks = said(story(view_of("shortcut.artefacts", MarkReader())))
    assert "answers an image that appear where a mark is: 1.00 (90 % interval 0.90 to 1.10) for text." in marks
    told = story(view_of("shortcut.position", honest()))
    assert "vanish at the edge" in told.answer
    assert "vanish with 50 % hidden" in told.answer


def test_look_alikes_are_shown_group_by_group():
    from tests.checks.test_shortcut_lookalikes import FACTS, Colours, subject
    from tests.checks.test_shortcut_lookalikes import tile as colourful

    detector = subject(Colours(), ("seal",), channels=3)
    cases = [colourful(f"c{index}", [(0, index, 1), (5, index, 1), (7, 7 - index, 2)]) for index in range(4)]
    rows = [row for case in cases for row in measured("shortcut.lookalikes", detector, case, facts=FACTS)]
    table = tables({"shortcut.lookalikes": rows}, cases).rows["shortcut.lookalikes"]
    run = SimpleNamespace(has_table=lambda name: True, table=lambda name: table)
    share = Estimate("1", "shortcut.lookalikes", "group_share", "proportion", 2 / 3, None, level="group 1", n=12)
    view = View("shortcut.lookalikes", plain(Lookalikes()), {"1": share}, (), {"seed": 0}, run)
    told = story(view)
    assert told.answer.startswith("12 look-alikes in 2 groups: ")
    picture = str(told.plots[0].picture)
    assert "group 1: 8 of 12" in picture
    assert "group 2: 4 of 12" in picture
    assert picture.count("<image") == 6 + 4
    assert "for a person to say" in told.plots[0].how
    bare = SimpleNamespace(has_table=lambda name: False)
    assert story(View("shortcut.lookalikes", view.params, {}, (), {}, bare)).plots == ()


@pytest.mark.parametrize("check", list(PARAMS))
def test_nothing_measured_is_one_sentence(check):
    view = view_of(check, honest())
    bare = View(check, view.params, {}, (), {}, view.run)
    assert story(bare).answer == "It gave no numbers."
    assert story(bare).plots == ()


@pytest.mark.parametrize("check", list(PARAMS))
def test_pictures_have_alternative_texts(check):
    for plot in story(view_of(check, floe_lover())).plots:
        title = re.search("<title>([^<]+)</title>", str(plot.picture))[1]
        assert len(title) > 20
        assert plot.how
