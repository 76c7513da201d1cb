"""README and docs: their links lead somewhere, their Python runs, and they speak of the project alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_no_place_outside_the_project(page):
    text = page.read_text(encoding="utf-8")
    assert "../shared" not in text
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/", text)


def test_every_check_has_its_page():
    from xaiseg.checks.base import load_checks

    for name in load_checks():
        assert (ROOT / "docs" / "checks" / f"{name}.md").is_file(), name


def test_the_architecture_page_knows_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.stem for path in (ROOT / "xaiseg").glob("*.py")} - {"__init__", "__main__"}
    unknown = {name for name in modules if not re.search(rf"\b{name}\b", text)}
    assert not unknown, f"docs/architecture.md does not mention {sorted(unknown)}"
