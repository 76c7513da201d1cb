from __future__ import annotations

import json
import shutil

import pytest

from tests.reports.fake_run import conclude, fake_run
from xaiseg.errors import UsageError
from xaiseg.protocol import load_protocol
from xaiseg.reports import page, render, writing
from xaiseg.reports.figures import FIGURES, load_figures
from xaiseg.reports.writing import render_run
from xaiseg.run import RunDirectory

FILES = ("audit.json", "report.html", "junit.xml", "summary.md", "cases.csv")


def test_reads_the_run_alone_and_writes_the_same_again(run, rendered):
    drawn = render(run.path, pdf=False)
    assert tuple(drawn.files) == FILES
    assert drawn.warnings == ()
    for name in FILES:
        assert drawn.files[name].read_bytes() == (rendered.path / name).read_bytes(), name


def test_a_pdf_of_an_earlier_verdict_is_removed(run):
    (run.path / "report.pdf").write_bytes(b"old")
    render(run.path, pdf=False)
    assert not (run.path / "report.pdf").exists()


def test_a_lost_pdf_is_a_warning(run, monkeypatch):
    monkeypatch.setattr(writing, "report_pdf", lambda _: (None, ("no engine",)))
    drawn = render(run.path)
    assert drawn.warnings == ("no engine",)
    assert "report.pdf" not in drawn.files


def test_a_pdf_is_written_beside_the_page(run, monkeypatch):
    monkeypatch.setattr(writing, "report_pdf", lambda _: (b"%PDF", ()))
    assert render(run.path).files["report.pdf"].read_bytes() == b"%PDF"


def test_a_run_that_was_not_judged_is_refused(run):
    (run.path / "findings.json").unlink()
    with pytest.raises(UsageError, match=r"findings.json: this file of the run is missing"):
        render(run.path, pdf=False)


def test_a_figure_that_fails_costs_its_picture_alone(run, monkeypatch):
    load_figures()

    def broken(view):
        raise KeyError("column")

    monkeypatch.setitem(FIGURES, "calibration.pixels", broken)
    drawn = render(run.path, pdf=False)
    assert drawn.warnings == ("the figure of calibration.pixels failed: KeyError: 'column'",)
    assert "Are its confidences honest?" in drawn.files["report.html"].read_text(encoding="utf-8")


def test_works_without_evidence(run):
    shutil.rmtree(run.path / "evidence")
    text = render(run.path, pdf=False).files["report.html"].read_text(encoding="utf-8")
    assert "What do the cases look like?" not in text


def test_a_crashed_check_is_named_and_never_green(tmp_path):
    run = fake_run(tmp_path / "run", patients=24, crashed={"performance.segmentation": "ZeroDivisionError: x (a.py:3)"})
    text = render(run.path, pdf=False).files["report.html"].read_text(encoding="utf-8")
    assert "Checks that crashed" in text
    assert "ZeroDivisionError: x (a.py:3)" in text
    audit = run.read_json("audit.json")
    assert audit["overall"]["verdict"] == "ERROR"
    assert '<error message="ERROR' in (run.path / "junit.xml").read_text(encoding="utf-8")


def test_a_protocol_without_gates_shows_what_was_measured(tmp_path):
    run = fake_run(tmp_path / "run", protocol="base", patients=24)
    text = render(run.path, pdf=False).files["report.html"].read_text(encoding="utf-8")
    assert "MEASURED" in text
    assert "What was measured; the protocol decides nothing" in text
    assert "How far is each requirement from its bound?" not in text


def test_post_hoc_prints_both_digests(run, tmp_path):
    changed = tmp_path / "mine.yaml"
    changed.write_text("protocol: mine\nversion: 1.0.0\nas_of: 2026-11-24\nextends: clinical\npurpose: p\n")
    protocol = load_protocol(changed)
    conclude(run, protocol, {})
    text = render(run.path, pdf=False).files["report.html"].read_text(encoding="utf-8")
    assert "POST HOC" in text
    assert protocol.sha256 in text
    assert run.plan()["protocol"]["sha256"] in text


def test_against_a_former_audit(run, rendered, tmp_path):
    former = RunDirectory(tmp_path / "former")
    audit = json.loads((rendered.path / "audit.json").read_text(encoding="utf-8"))
    audit["findings"][3]["verdict"] = "FAIL"
    former.write_json("audit.json", audit)
    text = render_run(run, pdf=False, against=former.path).files["report.html"].read_text(encoding="utf-8")
    assert "What changed since the former audit?" in text
    assert "Verdicts that changed" in text
    with pytest.raises(UsageError, match="holds no audit.json"):
        render_run(run, pdf=False, against=tmp_path)


def test_a_page_that_grew_too_large_is_said(run, monkeypatch):
    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    assert "larger than 8 MB" in render(run.path, pdf=False).warnings[0]


def test_sections_answer_for_every_requirement_once(context, material):
    told = [row.sentence for section in context["sections"] for row in section.lines]
    assert sorted(told) == sorted(finding.sentence for finding in material.findings)
    assert {section.check for section in context["sections"]} | {"provenance"} == set(
        material.protocol["resolved"]["checks"]
    )
    assert page.ROLES
