from __future__ import annotations

import numpy as np
import pandas as pd

from xaiseg.checks import quantities as q


def table(**columns):
    return pd.DataFrame(columns)


def test_a_fact_is_one_value_of_no_case():
    found = q.fact("duplicates", 3, better="lower", note="a = b")
    assert (found.kind, list(found.cases), found.values.tolist(), found.missing) == ("fact", [""], [3.0], "")


def test_a_missing_quantity_says_why_and_has_no_values():
    found = q.missing("nsd_mm", "no spacing", target="lesion")
    assert (found.missing, found.target, len(found.values)) == ("no spacing", "lesion", 0)


def test_rows_of_variants_and_failures_are_not_the_reference():
    rows = table(case=["a", "b", "c"], status=["ok", "failed", "ok"], subject=["reference", "reference", "int8"])
    assert q.reference_rows(rows)["case"].tolist() == ["a"]


def test_failed_and_crashed_cases_have_no_answer_and_run_level_rows_are_no_cases():
    rows = table(case=["b", "a", "", "c"], status=["failed", "crashed", "crashed", "ok"])
    assert q.failed_cases(rows) == ["a", "b"]


def test_case_means_leave_out_what_is_undefined():
    rows = table(case=["b", "a", "a", "c"], dice=[0.5, 0.2, 0.4, np.nan])
    cases, values = q.case_means(rows, "dice")
    assert cases.tolist() == ["a", "b"]
    np.testing.assert_allclose(values, [0.3, 0.5])
