from __future__ import annotations

import pytest

from xaiseg.judge import Verdict
from xaiseg.reports.palette import DARK, LIGHT, LOOKS, TEXT_COLOURS, contrast


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "soft"])
@pytest.mark.parametrize("name", TEXT_COLOURS)
def test_texts_keep_their_contrast(theme, ground, name):
    assert contrast(theme[name], theme[ground]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_and_bounds_are_seen_on_the_bad_side_too(theme):
    assert all(contrast(theme[name], theme["shade"]) >= 3 for name in ("ink", "pass", "fail", "open", "accent"))


def test_contrast_of_known_colours():
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#ffffff", "#ffffff") == 1


def test_every_verdict_has_its_own_word_and_those_that_count_their_own_shape():
    assert set(LOOKS) == set(Verdict)
    assert len({look.word for look in LOOKS.values()}) == len(Verdict)
    counted = [LOOKS[v] for v in (Verdict.PASS, Verdict.FAIL, Verdict.INSUFFICIENT, Verdict.NOT_RUN, Verdict.ERROR)]
    assert len({look.shape for look in counted}) == 5
    assert [look.colour for look in counted].count("pass") == 1, "only PASS is green"
