"""The shipped detector on digit-serial units: the same candidates as the golden model, bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import xaiseg.zoo
from xaiseg.data.scenes import SceneSpec, scene_case
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.detector_core import DETECTOR_OUTSIDE, DetectorCore
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.ladder import climb
from xaiseg.hardware.quantise import quantise
from xaiseg.hardware.sampled import sampled_windows
from xaiseg.zoo.detector_compact import DetectorCompact


@pytest.fixture(scope="module")
def core():
    state = load_file(Path(xaiseg.zoo.__file__).parent / "weights" / "detector-compact-scenes.safetensors")
    network = DetectorCompact(3, len(state["score.bias"])).eval()
    network.load_state_dict(state)
    return DetectorCore(network).eval()


def tiles(split, count):
    spec = SceneSpec(split=split)
    return torch.stack(
        [torch.as_tensor(scene_case(spec, i).image).movedim(-1, 0).float()[..., :128, :128] / 255 for i in range(count)]
    )


def test_the_core_says_what_the_detector_says(core):
    x = tiles("test", 2)
    with torch.inference_mode():
        expected, found = core.network(x), core.candidates(core(x))
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.xyxy, expected.xyxy)
    assert torch.equal(found.level, expected.level)


def test_the_shipped_detector_is_the_golden_model_bit_for_bit(core):
    graph = trace(core, outside=DETECTOR_OUTSIDE)
    assert {node.operator for node in graph.outside} == {"cat", "interpolate"}
    integers = quantise(fold(graph), [(tiles("validation", 4),)], split="validation")
    x = tiles("test", 2)
    rungs = climb(core, integers, (x,))  # raises where any integer of any node differs
    assert torch.equal(rungs[-1].answer, rungs[-2].answer)
    assert sum(each.different for each in sampled_windows(deploy(integers), (x,), count=32)) == 0
    golden = core.candidates(run_integer(integers, x))
    with torch.inference_mode():
        floats = core.network(x)
    assert float((golden.scores - floats.scores).abs().mean()) < 0.02
    assert not torch.equal(golden.scores, floats.scores)
