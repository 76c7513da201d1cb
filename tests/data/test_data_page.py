"""docs/data.md shows real output."""

from __future__ import annotations

import doctest


def test_the_examples_of_the_page_run(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(repository / "docs" / "data.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 10
    assert found.failed == 0
