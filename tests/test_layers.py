"""Imports go downwards only; modules and functions keep the size of the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xaiseg

PACKAGE = Path(xaiseg.__file__).parent
LAYERS = [
    {"errors", "seeds", "statistics", "yamlfile", "parameters"},
    {"data", "subject"},
    {"explainers", "calibration", "detection", "detection_file", "editing"},
    {"zoo", "hardware", "faithfulness"},
    {
        "modelfile",
        "geometry",
        "outputs",
        "weights",
        "imports",
        "adapters",
        "blackboxes",
        "detectors",
        "detector_layouts",
        "detector_sources",
        "loading",
        "variants",
        "fitting",
        "training",
    },
    {"checks"},
    {"protocol", "protocol_file"},
    {"sentences"},
    {"plan", "plan_document", "context", "evidence", "measure", "engines", "estimate", "judge", "run", "deciding"},
    {"comparing", "schema"},
    {"reports"},
    {"pipeline", "explaining", "evaluating", "screening", "drafts", "initialise", "progress"},
    {"cli"},
    {"__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(name: str) -> int:
    if name not in RANK:
        matches = [known for known in RANK if name.startswith(known + "_")]
        assert matches, f"{name} has no layer: put it into tests/test_layers.py and docs/architecture.md"
        name = max(matches, key=len)
    return RANK[name]


def imports_of(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, top-level name below xaiseg) of every import that runs; imports for type checkers do not."""
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module + "." + alias.name for alias in node.names] if node.module == "xaiseg" else [node.module]
            )
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("xaiseg.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rank = layer_of(own)
    for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
        if name.startswith("__"):
            continue
        assert name == own or layer_of(name) <= rank, f"{path.name}:{line} imports {name}, which lies above {own}"


def test_an_upward_import_would_be_seen():
    tree = ast.parse("def f():\n    from xaiseg.cli import main\n")
    assert imports_of(tree) == [(2, "cli")]
    assert layer_of("cli") > layer_of("statistics")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path.name} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documented = ast.get_docstring(node, clean=False) or ""
            length = node.end_lineno - node.lineno + 1 - (documented.count("\n") + 1 if documented else 0)
            assert length <= 40 or node.name in SIGNATURES, f"{path.name}:{node.lineno} {node.name}: {length} lines"


#: Verbs whose options alone take more than half of the lines.
SIGNATURES = {"audit"}
