"""Memory does not grow with the number of cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds import BUILDER, forward_only

MODEL = """name: tiny
task: segmentation
classes: [background, lesion]
source: {{torch: "builder.py:build"}}
trust: true
input: {{channels: 1, range: [0, 1]}}
data:
  test: {{reader: phantom, phantom: {{patients: {patients}, size: [64, 64]}}, strata: [device]}}
"""

CODE = """
import json, sys
import psutil
from xaiseg import audit
audit(sys.argv[1], sys.argv[2], out=sys.argv[3], limit=int(sys.argv[4]), pdf=False)
info = psutil.Process().memory_info()
peak = getattr(info, "peak_wset", 0)
if not peak:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(peak))
"""


def peak_bytes(folder: Path, cases: int) -> int:
    """Peak resident memory of a whole audit in a process of its own."""
    (folder / "builder.py").write_text(BUILDER, encoding="utf-8")
    model = folder / f"model-{cases}.yaml"
    model.write_text(MODEL.format(patients=cases), encoding="utf-8")
    arguments = [
        sys.executable,
        "-c",
        CODE,
        str(model),
        str(forward_only(folder)),
        str(folder / f"run-{cases}"),
        str(cases),
    ]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.subprocess
def test_peak_memory_of_2000_cases_is_that_of_200(tmp_path):
    few, many = peak_bytes(tmp_path, 200), peak_bytes(tmp_path, 2000)
    print(f"peak memory: 200 cases {few / 1e6:.0f} MB, 2000 cases {many / 1e6:.0f} MB, ratio {many / few:.3f}")
    assert many <= 1.15 * few
