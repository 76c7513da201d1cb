from __future__ import annotations

from xaiseg.reports.summary import escaped, summary_markdown


def test_tables_have_as_many_cells_as_their_head(rendered, material):
    text = (rendered.path / "summary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == len(material.findings) + 2 * 2
    assert {len(row.replace("\\|", "").split("|")) for row in rows} == {6}
    assert material.overall.headline in text.splitlines()[0]


def test_hostile_names_stay_text(material):
    errors = [{"case": "<img src=x>|a", "check": "", "reason": "[l](http://x)\n# h"}] * 12
    text = summary_markdown(
        material.plan, material.protocol, material.findings, material.overall, material.estimates, errors
    )
    assert "<img" not in text
    assert "and 2 more" in text
    assert escaped("[l](http://x)\n# h") == r"\[l\](http://x) \# h"
