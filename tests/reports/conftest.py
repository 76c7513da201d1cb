"""One fake run, rendered once for the whole folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.reports.fake_run import fake_run
from xaiseg.reports.page import page_context
from xaiseg.reports.writing import read_material, render_run
from xaiseg.run import RunDirectory


@pytest.fixture(scope="session")
def judged(tmp_path_factory) -> RunDirectory:
    """A judged run; tests must not write into it."""
    return fake_run(tmp_path_factory.mktemp("judged") / "run", patients=60)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory, judged) -> RunDirectory:
    """The same run with all documents but the PDF."""
    folder = tmp_path_factory.mktemp("rendered") / "run"
    shutil.copytree(judged.path, folder)
    render_run(RunDirectory(folder), pdf=False)
    return RunDirectory(folder)


@pytest.fixture
def run(tmp_path, judged) -> RunDirectory:
    """A copy of the judged run to write into."""
    shutil.copytree(judged.path, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


@pytest.fixture(scope="session")
def material(judged):
    return read_material(judged)


@pytest.fixture(scope="session")
def context(material):
    return page_context(material)


@pytest.fixture(scope="session")
def html(rendered) -> str:
    return Path(rendered.path / "report.html").read_text(encoding="utf-8")
