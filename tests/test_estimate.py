"""Rows become estimates: failed cases count as the worst, strata and weights are honoured, crashes are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from xaiseg.checks import base
from xaiseg.checks.base import Quantity, check
from xaiseg.estimate import estimate_run
from xaiseg.protocol import CheckPlan, Decision, Protocol
from xaiseg.statistics.means import mean_interval

N = 60


class FakeRun:
    """What estimate_run reads of a run directory."""

    def __init__(self, rows: pd.DataFrame, cases: pd.DataFrame, check_id: str) -> None:
        self._rows, self._cases, self._check = rows, cases, check_id

    def plan(self):
        return {
            "checks": [{"id": self._check, "runs": True, "params": {}, "sample": None}],
            "data": {"test": {"strata": ["device"]}},
            "facts": {},
            "seed": 3,
        }

    def cases(self):
        return self._cases

    def has_table(self, name):
        return name == self._check

    def table(self, name):
        return self._rows


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(base, "REGISTRY", dict(base.load_checks()))
    return base.REGISTRY


def protocol(name: str) -> Protocol:
    return Protocol("p", "1", "2026-11-24", "", Decision(), {name: CheckPlan(name, base.NoParams())}, ())


def world(
    values: np.ndarray, *, failed: int = 0, chance: np.ndarray | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    names = [f"c{i:03d}" for i in range(len(values))]
    rows = pd.DataFrame({"case": names, "subject": "reference", "status": "ok", "reason": "", "value": values})
    rows.loc[: failed - 1, "status"] = "failed"
    cases = pd.DataFrame({"case": names, "cluster": [f"p{i // 2}" for i in range(len(values))]})
    cases["device"] = ["AB"[(i // 2) % 2] for i in range(len(values))]
    cases["p:toy.value"] = 1.0 if chance is None else chance
    return rows, cases


def register(kind: str = "mean", worst: float | None = 0.0, **options):
    @check("toy.value", question="?", columns=[("value", pa.float64())])
    class Toy:
        def quantities(self, tables, params):
            rows = tables.ok("toy.value")
            yield Quantity(
                "value", kind, rows["case"].to_numpy(), rows["value"].to_numpy(), worst=worst, strata=True, **options
            )


def estimates(rows, cases):
    found, crashed = estimate_run(FakeRun(rows, cases, "toy.value"), protocol("toy.value"))
    assert crashed == {}
    return {estimate.stratum: estimate for estimate in found}


def test_an_estimate_is_the_interval_of_its_values(registry):
    register(bounds=(0.0, 1.0))
    values = np.random.default_rng(0).uniform(0.5, 1.0, N)
    rows, cases = world(values)
    overall = estimates(rows, cases)[""]
    expected = mean_interval(values, cases["cluster"].to_numpy(), alpha=0.05, seed=overall.seed, bounds=(0.0, 1.0))
    assert overall.interval == expected
    assert (overall.n, overall.n_clusters, overall.n_failed, overall.n_undefined) == (N, N // 2, 0, 0)
    assert overall.id == "toy.value/value"


def test_strata_hold_their_own_cases(registry):
    register(bounds=(0.0, 1.0))
    values = np.where(np.arange(N) // 2 % 2 == 0, 0.9, 0.6) + np.random.default_rng(1).normal(0, 0.01, N)
    rows, cases = world(values)
    held = estimates(rows, cases)
    assert held["device=A"].value == pytest.approx(0.9, abs=0.01)
    assert held["device=B"].value == pytest.approx(0.6, abs=0.01)
    assert [k for k, _, _ in held["device=A"].holm] == [1, 2]
    assert held["device=A"].holm[0][1:] == (held["device=A"].interval.lower, held["device=A"].interval.upper)


def test_what_is_not_known_is_no_group(registry):
    register(bounds=(0.0, 1.0))
    rows, cases = world(np.full(N, 0.8))
    cases["device"] = np.where(np.arange(N) < 20, "", cases["device"])
    held = estimates(rows, cases)
    assert set(held) == {"", "device=A", "device=B"}
    assert held[""].n == N


def test_a_failed_case_counts_as_the_worst_value(registry):
    register(bounds=(0.0, 1.0))
    rows, cases = world(np.full(N, 1.0), failed=6)
    overall = estimates(rows, cases)[""]
    assert overall.value == pytest.approx(54 / 60)
    assert overall.n_failed == 6
    assert overall.dropped is None


@pytest.mark.parametrize(("whose", "hurt"), [("reference", {"a", "b"}), ("a", {"a"})])
def test_a_build_that_fails_hurts_itself_and_the_audited_one_hurts_all(registry, whose, hurt):
    rows, cases = world(np.full(N, 0.8), failed=6)
    rows.loc[:5, "subject"] = whose

    @check("toy.value", question="?", columns=[("value", pa.float64())])
    class Toy:
        def quantities(self, tables, params):
            held = tables.ok("toy.value")
            for name in ("a", "b"):
                values = held["value"].to_numpy()
                yield Quantity("value", "mean", held["case"].to_numpy(), values, worst=0.0, subject=name)

    found, _ = estimate_run(FakeRun(rows, cases, "toy.value"), protocol("toy.value"))
    assert {item.subject for item in found if item.n_failed == 6} == hurt
    assert [item.value for item in found if item.subject in hurt] == pytest.approx([0.8 * 54 / 60] * len(hurt))


def test_undefined_values_are_bracketed(registry):
    register(bounds=(0.0, 1.0))
    values = np.full(N, 0.8)
    values[:6] = np.nan
    overall = estimates(*world(values))[""]
    assert overall.value == pytest.approx(0.8 * 0.9)
    assert overall.dropped.value == pytest.approx(0.8)
    assert overall.n_undefined == 6


def test_undefined_values_without_a_worst_are_dropped_and_counted(registry):
    register(worst=None, bounds=(0.0, 1.0))
    values = np.full(N, 0.8)
    values[:6] = np.nan
    overall = estimates(*world(values))[""]
    assert overall.value == pytest.approx(0.8)
    assert (overall.n, overall.n_undefined) == (N - 6, 6)


def test_inclusion_probabilities_become_weights(registry):
    register(weigh="case", bounds=(0.0, 1.0))
    values = np.concatenate([np.full(N // 2, 1.0), np.full(N // 2, 0.0)])
    chance = np.concatenate([np.full(N // 2, 0.25), np.full(N // 2, 1.0)])
    overall = estimates(*world(values, chance=chance))[""]
    assert overall.value == pytest.approx(4 / 5)


def test_a_crash_is_kept_with_its_place(registry):
    @check("toy.value", question="?", columns=[("value", pa.float64())])
    class Broken:
        def quantities(self, tables, params):
            raise ZeroDivisionError("planted")

    found, crashed = estimate_run(FakeRun(*world(np.ones(4)), "toy.value"), protocol("toy.value"))
    assert found == []
    assert crashed["toy.value"].startswith("ZeroDivisionError: planted (test_estimate.py:")


def test_a_crashed_row_makes_the_check_an_error_though_others_measured(registry):
    register(bounds=(0.0, 1.0))
    rows, cases = world(np.ones(N))
    rows.loc[7, ["status", "reason"]] = ["crashed", "planted"]
    found, crashed = estimate_run(FakeRun(rows, cases, "toy.value"), protocol("toy.value"))
    assert "planted (in 1 of 60 cases)" in crashed["toy.value"]
    assert found[0].n_failed == 1


def test_a_fact_has_no_interval(registry):
    register(kind="fact", worst=None)
    overall = estimates(*world(np.ones(5)))[""]
    assert overall.value == 5
    assert overall.interval is None


def test_a_missing_quantity_says_why(registry):
    @check("toy.value", question="?", columns=[("value", pa.float64())])
    class Toy:
        def quantities(self, tables, params):
            yield Quantity("value", "mean", [], np.array([]), missing="no second reader")

    found, _ = estimate_run(FakeRun(*world(np.ones(4)), "toy.value"), protocol("toy.value"))
    assert found[0].missing
    assert found[0].reason == "no second reader"
