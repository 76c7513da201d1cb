"""Builds in integers of small networks, for checks that compare them with the float network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tests.checks.fake import FakeContext
from xaiseg.adapters import NetworkSegmenter, module_network, wrap_module
from xaiseg.data.case import Case
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.ladder import fake_quantised
from xaiseg.hardware.quantise import Quantised, Scheme, quantise
from xaiseg.modelfile import InputSpec, OutputSpec
from xaiseg.modelfile_variants import VariantSpec
from xaiseg.variants import IntegerBuild, Variant

CLASSES = ("background", "lesion")


def output(threshold: float) -> OutputSpec:
    return OutputSpec.model_validate({"threshold": {"value": threshold, "chosen_on": "val"}})


def integers(network: nn.Module, calibration: Sequence[Tensor], spec: VariantSpec) -> Quantised:
    scheme = Scheme(spec.bits, spec.weight_bits, spec.per_channel, spec.observer, spec.percentile, spec.bias)
    return quantise(fold(trace(network)), [(torch.stack(list(calibration)),)], split="validation", scheme=scheme)


def build(
    network: nn.Module,
    held: Quantised,
    spec: VariantSpec,
    *,
    name: str = "v",
    threshold: float = 0.5,
    calibrated_on: tuple[str, tuple[str, ...]] = ("validation", ()),
) -> Variant:
    """A variant as model.yaml makes it."""
    deployed = None
    if spec.hardware == "msdf":
        deployed = deploy(held, arithmetic=spec.arithmetic, delay=spec.delay, fewer=spec.fewer)
    calls = {"fake": lambda x: fake_quantised(held, (x,)), "integer": lambda x: run_integer(held, x), "msdf": deployed}
    made = dataclasses.replace(
        module_network(network), call=calls[spec.hardware], module=None, offers=frozenset({"scores"})
    )
    subject = NetworkSegmenter(made, name=name, classes=CLASSES, spec=InputSpec(), output=output(threshold))
    own = IntegerBuild(spec, network, lambda x: (x,), lambda x: x, held, deployed, calibrated_on)
    return Variant(name, subject, spec.sentence(), own)


def context(
    network: nn.Module, case: Case | None, variants: Mapping[str, Variant], params: object, *, threshold: float = 0.5
) -> FakeContext:
    """A context whose builds have answered the case."""
    reference = wrap_module(network, output=output(threshold), classes=CLASSES)

    def asked(subject):
        return None if case is None else subject.decide(subject.predict([torch.as_tensor(case.image)])[0])

    found = FakeContext(
        held=asked(reference), params=params, subject=reference, case="" if case is None else case.id,
        variants=variants, others={name: asked(variant.subject) for name, variant in variants.items()},
    )  # fmt: skip
    found.facts = {**found.facts, "threshold": threshold}
    return found
