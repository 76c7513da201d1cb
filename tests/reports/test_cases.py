from __future__ import annotations

import csv
import math

import pytest

from tests.reports.fake_run import FORMULA, SCRIPT
from xaiseg.reports.cases import case_rows, safe_cell, words_of


@pytest.fixture(scope="module")
def table(rendered):
    with (rendered.path / "cases.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_case_stands_there_once_with_its_facts(table, judged):
    cases = judged.cases()
    assert list(table[0]) == ["case", "cluster", "device", "density", "dice", "what"]
    assert {row["case"].removeprefix("'") for row in table} == set(cases["case"])
    assert len(table) == len(cases)


def test_failed_images_first_then_the_worst(table):
    assert [row["case"] for row in table[:2]] == ["'" + FORMULA, "lost"]
    assert all(row["what"].startswith("failed: ") for row in table[:2])
    scores = [float(row["dice"]) for row in table if row["dice"]]
    assert scores == sorted(scores)
    assert table[-1]["dice"] == "", "correct negatives stand last"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_formulas_are_defused(text):
    assert safe_cell(text) == "'" + text


def test_words_of_a_case(judged):
    words = words_of(case_rows(judged), ["device", "density"])
    facts, _ = words[SCRIPT]
    assert facts.startswith("p0")
    assert "device " in facts
    assert not any("nan" in fact for fact, _ in words.values())


def test_without_the_performance_check_the_cases_are_listed(run):
    import shutil

    shutil.rmtree(run.path / "measurements" / "performance.segmentation")
    rows = case_rows(run)
    assert len(rows) == len(run.cases())
    assert all(math.isnan(score) for score in rows["score"])
