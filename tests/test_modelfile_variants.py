from pathlib import Path
from typing import get_args

import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.observers import Observer
from xaiseg.hardware.quantise import Scheme
from xaiseg.modelfile import parse_model
from xaiseg.modelfile_variants import VariantSpec

MODEL = """name: m
classes: [background, lesion]
source: {onnx: m.onnx}
variants:
  one: %s
"""


def parsed(text):
    return parse_model(MODEL % text, path=Path("model.yaml")).variants["one"]


def test_the_keys_of_the_issue_are_read():
    assert parsed("{hardware: msdf, bits: 8, digits: full}").fewer == 0
    assert parsed("{digits: -2}").fewer == 2
    assert parsed("{digits: {encoder.0: -3, head: -1}}").fewer == {"encoder.0": 3, "head": 1}
    assert parsed("{source: {onnx: int8.onnx}}").source.target == "int8.onnx"
    facts = parse_model(MODEL % "{digits: -2}", path=Path("model.yaml")).facts()
    assert facts["variants"]["one"]["digits"] == -2


def test_defaults_are_those_of_the_scheme():
    spec, scheme = VariantSpec(bits=8), Scheme()
    for name in ("bits", "weight_bits", "per_channel", "observer", "percentile", "bias"):
        assert getattr(spec, name) == getattr(scheme, name)
    assert set(get_args(VariantSpec.model_fields["observer"].annotation)) == set(get_args(Observer))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "^model.yaml:5: variants.one: a variant says what it is"),
        ("8", "^model.yaml:5: .*a variant is a mapping"),
        ("{digits: 0}", "digits are full, or so many fewer .*no unit emits more.*Got: 0.$"),
        ("{digits: 3}", "digits are full, or so many fewer.*Got: 3.$"),
        ("{digits: {head: 0}}", "digits are full, or so many fewer.*Got: head: 0.$"),
        ("{bits: 1}", "^model.yaml:5: .*bits.*greater than or equal to 2"),
        ("{bits: 40}", "bits.*less than or equal to 16"),
        ("{hardware: fpga}", "hardware.*'msdf', 'integer' or 'fake'"),
        ("{hardware: integer, digits: -2}", "`digits:` is for hardware: msdf, not for hardware: integer"),
        ("{source: {onnx: a.onnx}, bits: 4}", "a variant with a source of its own has no `bits:`"),
        ("{arithmetic: merged, delay: 1}", "merged has delay 2"),
        ("{digit: -2}", "^model.yaml:5: 'digit' is not a key of variants.one. did you mean 'digits'"),
        ("{source: {onx: a.onnx}}", "^model.yaml:5: 'onx' is not a key of variants.one.source. did you mean 'onnx'"),
        ("{calibration: test}", "calibration.*'calibration', 'validation', 'train'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message):
    with pytest.raises(UsageError, match=message):
        parsed(text)


@pytest.mark.parametrize("name", ["reference", "each", "a b", '"<b>"', '"a/b"'])
def test_names_that_mean_something_else_are_refused(name):
    with pytest.raises(UsageError, match="is no name of a variant"):
        parse_model(MODEL.replace("one", name) % "{bits: 8}", path=Path("model.yaml"))


def test_sentences_say_what_a_build_is():
    assert VariantSpec(hardware="fake", bits=6).sentence().endswith("6-bit activations, 8-bit weights.")
    assert "all digits that the outputs hold" in VariantSpec(bits=8).sentence()
    assert "1 digit fewer" in VariantSpec(digits=-1).sentence()
    assert "fewer digits in a.b (-2)" in VariantSpec(digits={"a.b": -2}).sentence()
    assert VariantSpec(source={"zoo": "u", "weights": "w.pth"}).sentence() == "Another build: zoo u with weights w.pth."
