import sys

import pytest

from xaiseg.errors import UsageError
from xaiseg.imports import import_callable


def test_a_file_beside_the_model(tmp_path):
    (tmp_path / "neighbour_of_net.py").write_text("VALUE = 7\n", encoding="utf-8")
    text = "from neighbour_of_net import VALUE\ndef build():\n    return VALUE\n"
    (tmp_path / "net.py").write_text(text, encoding="utf-8")
    before = list(sys.path)
    assert import_callable("net.py:build", tmp_path)() == 7
    assert sys.path == before


def test_two_files_of_the_same_name_stay_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(f"def build():\n    return '{name}'\n", encoding="utf-8")
    assert [import_callable("net.py:build", tmp_path / name)() for name in ("a", "b")] == ["a", "b"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("net", "names no function"),
        ("net.py:", "names no function"),
        ("none.py:build", "no such file"),
        ("no_such_package_anywhere:build", "cannot be imported"),
        ("broken.py:build", "ZeroDivisionError"),
        ("net.py:biuld", "did you mean 'build'"),
        ("net.py:NUMBER", "no function"),
    ],
)
def test_what_cannot_be_found_is_named(tmp_path, target, words):
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "net.py").write_text("NUMBER = 1\ndef build():\n    return 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        import_callable(target, tmp_path, where="model.yaml:3")
