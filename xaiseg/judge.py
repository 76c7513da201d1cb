"""Stage 4: requirement × estimate → finding. Knows neither the model nor the layout."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from xaiseg.protocol import Requirement


class Verdict(Enum):
    """What a finding says; the value is the word printed."""

    PASS = "PASS"
    FAIL = "FAIL"
    ERROR = "ERROR"
    INSUFFICIENT = "INSUFFICIENT EVIDENCE"
    NOT_RUN = "NOT RUN"
    NOT_APPLICABLE = "NOT APPLICABLE"
    MEASURED = "MEASURED"


@dataclass(frozen=True)
class Finding:
    """The verdict on one requirement.

    Attributes:
        requirement: what was required.
        verdict: the verdict.
        sentence: the requirement as one English sentence.
        reason: why this verdict, as one sentence.
        estimate_id: the estimate that decided (the worst stratum for a stratum requirement), or None.
        members: estimate ids of all strata, variants or factors that the requirement covers.
        failing: the members that failed by Holm's procedure.
        leans: "pass", "fail" or "" for INSUFFICIENT.
        more: "about 40 more patients would settle it", "sits on the bound", or "".
        capped: why a PASS or FAIL was capped at INSUFFICIENT, or "".
    """

    requirement: Requirement
    verdict: Verdict
    sentence: str
    reason: str
    estimate_id: str | None = None
    members: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    leans: str = ""
    more: str = ""
    capped: str = ""


@dataclass(frozen=True)
class Overall:
    """The verdict of the audit: the worst gate, FAIL > ERROR > INSUFFICIENT = NOT RUN > PASS.

    Attributes:
        verdict: FAIL, ERROR, INSUFFICIENT, PASS, or MEASURED when no gate is declared.
        headline: e.g. "INSUFFICIENT EVIDENCE".
        sentence: "6 of 9 gates are met, none is failed, 3 cannot be decided ...".
        exit_code: 0 all gates pass or none declared, 1 a gate fails, 3 insufficient or not run, 4 a gate check
            crashed.
        caveats: e.g. "against default floors, not agreed by a clinician", "demonstration on generated images",
            "POST HOC: ...". Printed on page 1.
    """

    verdict: Verdict
    headline: str
    sentence: str
    exit_code: int
    caveats: tuple[str, ...] = ()
