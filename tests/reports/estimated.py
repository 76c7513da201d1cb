"""A view of a check's rows without engine and run directory: values as they are, no intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from tests.checks.fake import FACTS
from xaiseg.checks.base import Check, Quantity, Tables
from xaiseg.data.case import Case
from xaiseg.estimate import Estimate
from xaiseg.reports.figures import View


def estimate_of(check: str, quantity: Quantity) -> Estimate:
    """The plain value of a quantity."""
    value = None
    if len(quantity.values):
        value = float(quantity.values.sum(axis=0)) if quantity.kind == "fact" else None
        if quantity.kind == "statistic":
            value = quantity.function(quantity.values.sum(axis=0))
        elif quantity.kind == "mean":
            value = float(quantity.values.mean())
    key = (quantity.metric, quantity.target, quantity.factor, quantity.level, quantity.subject)
    return Estimate(
        "/".join((check, *key)), check, quantity.metric, quantity.kind, value, None, target=quantity.target,
        factor=quantity.factor, level=quantity.level, subject=quantity.subject, unit=quantity.unit, note=quantity.note,
        of=quantity.of, n=len(quantity.values), reason=quantity.missing, missing=bool(quantity.missing),
    )  # fmt: skip


def view_of(check: Check, rows: pd.DataFrame, cases: Sequence[Case], params: Any, variants: Mapping[str, Any]) -> View:
    """A view of rows that the check measured on cases that were all drawn."""
    facts = {**FACTS, "variants": variants}
    listed = pd.DataFrame({"case": [case.id for case in cases], f"p:{check.id}": 1.0})
    found = [estimate_of(check.id, one) for one in check.quantities(Tables({check.id: rows}, listed, facts), params)]
    run = SimpleNamespace(table=lambda name: rows, has_table=lambda name: True)
    named = {item.id: item for item in found}
    plain = {name: getattr(params, name) for name in params.__dataclass_fields__}
    return View(check.id, plain, named, (), {"facts": facts}, run)
