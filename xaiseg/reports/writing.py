"""Renders a run: documents from the run directory alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaiseg.errors import UsageError
from xaiseg.reports.cases import case_rows, cases_csv, detections_document
from xaiseg.reports.document import audit_document
from xaiseg.reports.html import MOST_BYTES, report_html
from xaiseg.reports.junit import junit_xml
from xaiseg.reports.page import Material, page_context
from xaiseg.reports.pdf import report_pdf
from xaiseg.reports.summary import summary_markdown
from xaiseg.run import RunDirectory, whole


@dataclass(frozen=True)
class Rendered:
    """What was written.

    Attributes:
        files: name -> path, e.g. "report.html".
        warnings: what went less well; a lost PDF is a warning.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def render(run: Path, *, pdf: bool = True, against: Path | None = None) -> Rendered:
    """Writes report.html, report.pdf, audit.json, junit.xml, summary.md and cases.csv into a judged run; for a detector
    detections.json too.

    Args:
        run: the run directory.
        pdf: also write report.pdf.
        against: a former run to compare with.

    Raises:
        UsageError: a file of the run is missing or damaged.
    """
    return render_run(RunDirectory.existing(run), pdf=pdf, against=against)


def render_run(run: RunDirectory, *, pdf: bool = True, against: Path | None = None) -> Rendered:
    """:func:`render` for a run that is already open."""
    material = read_material(run)
    document = audit_document(
        material.plan, material.protocol, list(material.estimates.values()), material.findings, material.overall,
        material.errors,
    )  # fmt: skip
    context = page_context(material, _comparison(document, against))
    files = {
        "audit.json": run.write_json("audit.json", document),
        "report.html": run.write_text("report.html", report_html(context)),
        "junit.xml": run.write_text("junit.xml", _junit(material)),
        "summary.md": run.write_text("summary.md", _summary(material)),
        "cases.csv": run.write_text("cases.csv", cases_csv(material.cases)),
    }
    detections = detections_document(run)
    if detections is not None:
        files["detections.json"] = run.write_json("detections.json", detections)
    size = files["report.html"].stat().st_size
    warnings = list(context["warnings"])
    warnings += [f"report.html is {size / 1e6:.1f} MB, larger than 8 MB"] if size > MOST_BYTES else []
    target = run.path / "report.pdf"
    try:
        # A PDF of an earlier verdict beside a newer report would be a lie.
        target.unlink(missing_ok=True)
        if pdf:
            data, said = report_pdf(context)
            warnings += said
            if data is not None:
                with whole(target) as temporary:
                    temporary.write_bytes(data)
                files["report.pdf"] = target
    except (OSError, UsageError) as error:  # open in a viewer, or no room: the audit is worth more than its PDF
        warnings.append(f"report.pdf could not be written and may be an old one: {error}")
    return Rendered(files, tuple(warnings))


def read_material(run: RunDirectory) -> Material:
    """Everything that the documents are made of, read once."""
    plan = run.plan()
    findings, overall = run.findings()
    judged = run.read_json("judged.json") if (run.path / "judged.json").is_file() else plan["protocol"]
    return Material(
        run=run,
        # What a later protocol asks for and this run did not measure so: its sections say why they are empty.
        plan=plan | {"unmeasured": judged.get("unmeasured", {})},
        protocol=judged,
        estimates={item.id: item for item in run.estimates()},
        findings=tuple(findings),
        overall=overall,
        errors=tuple(run.errors()),
        cases=case_rows(run),
    )


def _junit(material: Material) -> str:
    name = f"{material.plan['model']['name']} under {material.protocol['name']} {material.protocol['version']}"
    return junit_xml(material.findings, name=name, created=material.plan["created"])


def _summary(material: Material) -> str:
    return summary_markdown(
        material.plan, material.protocol, material.findings, material.overall, material.estimates, material.errors
    )


def _comparison(document: Mapping[str, Any], against: Path | None) -> dict[str, Any] | None:
    """The former audit compared with this one, as tables."""
    if against is None:
        return None
    from xaiseg.comparing import compare
    from xaiseg.reports.figures import Table

    former = RunDirectory(against)
    if not (former.path / "audit.json").is_file():
        raise UsageError(
            "this run holds no audit.json to compare with", where=against, then="Run `xaiseg render` there"
        )
    found = compare(former.read_json("audit.json"), document)
    verdicts = tuple((c.sentence, c.before or "absent", c.after or "absent", c.direction) for c in found.findings)
    moved = tuple(
        (move.id, _plain(move.before), _plain(move.after), _plain(move.difference), move.direction)
        for move in found.estimates
        if move.moved
    )
    tables = [
        Table("Verdicts that changed", ("requirement", "before", "now", "direction"), verdicts),
        Table("Numbers that moved beyond their intervals", ("number", "before", "now", "change", "direction"), moved),
    ]
    return {"sentence": found.sentence, "notes": found.notes, "tables": [table for table in tables if table.rows]}


def _plain(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
