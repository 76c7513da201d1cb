from __future__ import annotations

import io

import pytest

from xaiseg.reports import pdf as module
from xaiseg.reports.html import report_html
from xaiseg.reports.pdf import PANGO, report_pdf, tagged_pdf, untagged_pdf

pikepdf = pytest.importorskip("pikepdf")


def weasyprint():
    """WeasyPrint, where the system has Pango."""
    try:
        import weasyprint as found
    except OSError as error:
        pytest.skip(f"no Pango: {error}")
    return found


@pytest.fixture(scope="module")
def tagged(context):
    weasyprint()
    data, said = tagged_pdf(context)
    assert said == [], "WeasyPrint complained; its complaints about alternative texts and language are errors"
    return data


def elements(node):
    """All structure elements below a node."""
    kids = node.get("/K", [])
    for kid in kids if isinstance(kids, pikepdf.Array) else [kids]:
        if isinstance(kid, pikepdf.Dictionary) and "/S" in kid:
            yield kid
            yield from elements(kid)


def test_tagged_file_can_be_read_by_everybody(tagged, context):
    with pikepdf.open(io.BytesIO(tagged)) as document:
        root = document.Root
        assert str(root.Lang) == "en"
        assert bool(root.MarkInfo.Marked)
        assert context["model"]["name"] in str(document.docinfo.Title)
        found = list(elements(root.StructTreeRoot))
        figures = [item for item in found if item.S == "/Figure"]
        assert len(figures) > 20
        assert all(str(item.get("/Alt", "")) for item in figures)
        assert {"/H1", "/H2", "/Table", "/TH", "/Caption"} <= {str(item.S) for item in found}
        with document.open_metadata() as metadata:
            assert metadata["pdfuaid:part"] == "1"
        assert len(document.pages) <= 30
        assert str(document.docinfo.CreationDate).startswith("D:20261124093000")


def test_tagged_file_is_the_same_each_time(tagged, context):
    assert tagged_pdf(context)[0] == tagged


@pytest.mark.parametrize("more", [0, 2])
def test_page_1_holds_the_whole_label(context, more):
    gates = context["gates"]
    longest = sorted(gates, key=lambda row: -len(row.sentence + row.brief))[:more]
    short = {"sections": [], "galleries": (), "redone": None, "others": [], "threshold": None}
    page = report_html({**context, **short, "gates": gates + longest}, paper="tagged")
    pages = weasyprint().HTML(string=page).render().pages
    where = [number for number, sheet in enumerate(pages) if "errors" in sheet.anchors]
    assert len(gates) + more in (8, 10)
    assert where == [1], "the second page begins with what follows the label"


def test_files_of_the_machine_are_refused(context, monkeypatch, tmp_path):
    weasyprint()
    secret = tmp_path / "secret.svg"
    secret.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    hostile = f'<html lang="en"><title>t</title><p>x</p><img alt="a" src="{secret.as_uri()}"></html>'
    monkeypatch.setattr(module, "report_html", lambda *_, **__: hostile)
    _, said = tagged_pdf(context)
    assert any("disallowed protocol" in line for line in said)


def test_untagged_file_says_so(context):
    pytest.importorskip("plutoprint")
    data, said = untagged_pdf(context)
    assert said == []
    with pikepdf.open(io.BytesIO(data)) as document:
        assert 5 < len(document.pages) <= 30
    assert untagged_pdf(context)[0] == data


def test_without_pango_the_other_engine_steps_in(context, monkeypatch):
    def no_pango(_):
        raise OSError("cannot load library 'libpango-1.0-0'")

    monkeypatch.setattr(module, "tagged_pdf", no_pango)
    monkeypatch.setattr(module, "untagged_pdf", lambda _: (b"%PDF", []))
    assert report_pdf(context) == (b"%PDF", (PANGO,))


def test_no_engine_loses_no_audit(context, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("a bug")

    def absent(_):
        raise ImportError("No module named 'plutoprint'")

    broken.__name__ = "tagged_pdf"
    monkeypatch.setattr(module, "tagged_pdf", broken)
    monkeypatch.setattr(module, "untagged_pdf", absent)
    data, said = report_pdf(context)
    assert data is None
    assert said == ("tagged pdf failed: ZeroDivisionError: a bug", "no PDF was written: No module named 'plutoprint'")
