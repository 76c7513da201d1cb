"""The built wheel holds everything: protocols, weights, templates, fonts, the example; and it starts fast."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CODE = """
import sys
from xaiseg import cli

def verb(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)

verb("--help")
heavy = {"torch", "pandas", "matplotlib", "scipy", "pyarrow", "numpy", "pydantic"} & set(sys.modules)
assert not heavy, f"xaiseg --help imported {heavy}"
verb("protocol", "list")
verb("protocol", "explain", "clinical")
verb("zoo", "show", "unet-compact")

from pathlib import Path
import xaiseg
package = Path(xaiseg.__file__).parent
assert "site" in str(package), package
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
subject = load_subject(read_model_file(package / "examples" / "clinical" / "model.yaml"))
print(subject.info.parameters)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory, repository) -> Path:
    """The wheel, built in process and unpacked."""
    from hatchling.build import build_wheel

    folder = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(repository)
    try:
        name = build_wheel(str(folder))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(folder / name) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_what_the_package_needs(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert {
        "xaiseg/protocols/base.yaml",
        "xaiseg/protocols/clinical.yaml",
        "xaiseg/examples/clinical/model.yaml",
        "xaiseg/examples/clinical/unet-compact.yaml",
        "xaiseg/hardware/verilog/msdf_mma.v",
        "xaiseg/hardware/verilog/msdf_mma_carry_save.v",
        "xaiseg/hardware/verilog/msdf_testbench.v",
        "xaiseg/zoo/weights/radiomicnet-compact-phantom.safetensors",
        "xaiseg/zoo/weights/unet-compact-phantom.safetensors",
        "xaiseg/py.typed",
    } <= names
    assert any(name.endswith(".woff2") for name in names)
    assert any(name.endswith(".j2") for name in names)
    assert not any(name.startswith("tests") for name in names)


def test_weights_stay_small(site):
    for path in site.rglob("*.safetensors"):
        assert path.stat().st_size <= 4_000_000, path


@pytest.mark.subprocess
def test_the_wheel_works_alone(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.strip().splitlines()[-1]) == 673_037
