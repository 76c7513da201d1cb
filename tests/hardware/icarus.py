"""What tests of the Verilog units share: their marker, and copies of the files with an error in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xaiseg.hardware.rtl import VERILOG

needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")

#: One END later than it should be: through a register more.
LATE = (
    ("reg busy, decided;", "reg busy, decided, late;"),
    (
        "negative <= (negative && !start) || (is_minus && !(decided && !start));",
        "late <= is_minus && !(decided && !start); negative <= !start && (negative || late);",
    ),
)


def mutated(folder: Path, *changes: tuple[str, str], file: str = "msdf_mma.v") -> Path:
    """A copy of the Verilog files in which each text, which must be there, is replaced by another."""
    shutil.copytree(VERILOG, folder, dirs_exist_ok=True)
    text = (folder / file).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / file).write_text(text, encoding="utf-8")
    return folder
