import re

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.checks import test_equivalence_digits as world
from tests.checks.fake import frame
from tests.reports.estimated import view_of
from xaiseg.checks.base import get_check
from xaiseg.checks.digits_quantities import RECOMMENDED
from xaiseg.checks.equivalence_digits import ID
from xaiseg.modelfile_variants import VariantSpec
from xaiseg.reports.figures import story
from xaiseg.reports.figures_equivalence_digits import paste_lines

network = world.network


@pytest.fixture(scope="module")
def rows(network):
    return world.measured(network, world.variants_of(network, {"v": {}}))


def told(rows):
    spec = {"v": VariantSpec(hardware="msdf").model_dump(mode="json", exclude_none=True)}
    return story(view_of(get_check(ID), frame(ID, rows), world.AUDITED, world.FAST, spec))


def test_what_is_pasted_is_what_was_recommended(rows):
    """Lines lose their indentation when they are copied from a table; the text must be the same YAML without it."""
    lines = paste_lines(frame(ID, rows))
    text = "hardware: msdf\n" + "\n".join(line.strip() for line in lines)
    spec = VariantSpec(**YAML(typ="safe").load(text))
    assert spec.fewer == world.recommended(rows) != {}
    (pasted,) = (table for table in told(rows).tables if "paste" in table.caption)
    assert [row[0] for row in pasted.rows] == lines


def test_the_answer_and_the_table_give_the_measured_figures(rows):
    found = told(rows)
    own = [row for row in rows if row["case"] and row["level"] == RECOMMENDED]
    assert (
        f"layers of 2 can do with fewer: {np.mean([row['digits'] for row in own]):.1f} digits a value" in found.answer
    )
    steps = {row[0]: row for row in found.tables[0].rows}
    assert list(steps) == ["none", *(f"{n} everywhere" for n in range(1, 7)), "as recommended"]
    assert float(steps["as recommended"][2]) == pytest.approx(np.mean([row["agreement"] for row in own]), abs=6e-4)
    last = [row for row in rows if row["case"] and row["level"] == "6"]
    change = np.mean([row["dice_variant"] - row["dice"] for row in last])
    assert float(steps["6 everywhere"][4].replace("−", "-")) == pytest.approx(change, abs=6e-5)
    seen = found.tables[1]
    assert "what the search saw: 4 calibration images" in seen.caption
    assert [row[0] for row in seen.rows] == ["all digits", "as recommended"]


def test_every_state_is_a_mark_in_every_panel(rows):
    picture = told(rows).plots[0].picture
    assert picture.count("<circle") == 4 * 8
    assert "Dice with the audited model" in picture


def with_changes(rows, dice, ece):
    """The rows with other changes of Dice and calibration error at 3 digits fewer, and none elsewhere."""
    made = []
    for row in rows:
        row = dict(row)
        if row["case"]:
            row |= {"dice_variant": row["dice"], "ece_variant": row["ece"]}
            if row["level"] == "3":
                row |= {"dice_variant": row["dice"] + dice, "ece_variant": row["ece"] + ece}
        made.append(row)
    return made


@pytest.mark.parametrize(("dice", "ece", "said"), [(-0.1, -0.01, True), (-0.1, 0.01, False), (0.1, -0.01, False)])
def test_a_calibration_error_that_falls_with_dice_is_pointed_out(rows, dice, ece, said):
    words = "With 3 fewer everywhere the calibration error falls by 0.0100 while Dice falls too, by 0.100"
    assert (words in told(with_changes(rows, dice, ece)).answer) == said


def test_every_build_begins_a_sentence_and_no_axis_of_agreement_passes_1(rows):
    twins = [{**row, "subject": name} for name in ("v", "w") for row in rows]
    spec = VariantSpec(hardware="msdf").model_dump(mode="json", exclude_none=True)
    found = story(view_of(get_check(ID), frame(ID, twins), world.AUDITED, world.FAST, {"v": spec, "w": spec}))
    assert found.answer.startswith("In v ")
    assert ". In w " in found.answer
    ticks = [text.replace("−", "-") for text in re.findall(r'text-anchor="end">([^<]+)</text>', found.plots[0].picture)]
    agreement = [float(text) for text in ticks[: ticks.index("0")]]
    assert max(agreement) == 1.0
    assert len(set(agreement)) == len(agreement) > 1


def test_a_budget_that_nothing_meets_is_said(network):
    tight = world.replace(world.FAST, agreement=1.0, flips=0.0)
    rows = world.measured(network, world.variants_of(network, {"v": {}}), tight)
    found = told(rows)
    assert "Build v needs all its digits: the budget does not hold even with all of them." in found.answer
    assert not any("paste" in table.caption for table in found.tables)


def test_without_units_the_section_says_why(network):
    assert "no variant runs on digit-serial units" in told([]).answer
