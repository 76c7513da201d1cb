from __future__ import annotations

import dataclasses

import pytest

from xaiseg.estimate import Estimate
from xaiseg.reports.figures import View, story
from xaiseg.statistics.interval import Interval

INTERVAL = Interval(0.4, 0.3, 0.5, 0.05, "m", 40, 20)


def estimate(metric, target, value=0.4, **more):
    parts = [metric, target, *more.values()]
    return Estimate(
        "/".join(["explanation", *parts]), "explanation", metric, "mean", value, INTERVAL, n=40, n_clusters=20,
        target=target, **more,
    )  # fmt: skip


@pytest.fixture
def view(material):
    plain = next(item for item in material.plan["checks"] if item["id"] == "explanation")
    return View("explanation", plain["params"], material.estimates, material.findings, material.plan, material.run)


def with_methods(view, methods, extra):
    held = [estimate("excess_context_deletion", name) for name in methods] + extra
    return dataclasses.replace(
        view, params={"methods": methods}, estimates={each.id: each for each in held}, findings=()
    )


def overview(view):
    return [table for table in story(view).tables if table.head[0] == "metric"]


def test_the_overview_has_a_row_for_each_measured_metric_and_a_column_for_each_method(view):
    extra = [estimate("pointing_game", "a"), estimate("pointing_game", "b"), estimate("road_context", "a"),
             estimate("excess_context_road", "b"), estimate("agreement", "a", factor="with", level="b")]  # fmt: skip
    (table,) = overview(with_methods(view, ["a", "b"], extra))
    assert table.head == ("metric", "a", "b")
    assert table.rows == (
        ("ROAD, context, excess ↑", "none", "0.40"),
        ("pointing game", "0.40", "0.40"),
        ("agreement with a", "-", "0.40"),
        ("agreement with b", "0.40", "-"),
    )


def test_more_methods_than_fit_on_a_telephone_are_divided(view):
    names = list("abcde")
    tables = overview(with_methods(view, names, [estimate("complexity", name) for name in names]))
    assert [table.head for table in tables] == [("metric", "a", "b", "c"), ("metric", "d", "e")]
    assert all(len(table.rows) == 1 for table in tables)


def test_without_further_figures_there_is_no_overview(view):
    assert overview(with_methods(view, ["a"], [])) == []


def test_the_run_of_the_tests_shows_what_it_measured(view):
    (table,) = overview(view)
    assert {"energy in region", "off-target leakage"} <= {row[0] for row in table.rows}
    assert all(len(row) == len(table.head) <= 4 for row in table.rows)
