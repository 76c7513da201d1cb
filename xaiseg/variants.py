"""Other builds of the audited model: its own network in integers, or a model with a source of its own.

An integer build needs ranges, which are fitted on calibration images; images that are audited are refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from xaiseg.adapters import Network, NetworkInput
from xaiseg.data.case import Case, CaseRef, Dataset
from xaiseg.errors import UsageError, XaisegError
from xaiseg.hardware.deployed import Deployed, deploy
from xaiseg.hardware.detector_core import DETECTOR_OUTSIDE, DetectorCore
from xaiseg.hardware.folding import Folded, fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.ladder import fake_quantised
from xaiseg.hardware.quantise import Quantised, Scheme, quantise
from xaiseg.hardware.radiomic_core import OUTSIDE, RadiomicCore
from xaiseg.loading import load_source, load_subject, subject_of
from xaiseg.modelfile import ModelFile
from xaiseg.modelfile_variants import VariantSpec
from xaiseg.seeds import generator
from xaiseg.subject import Segmenter, Subject
from xaiseg.zoo.detector_compact import DetectorCompact
from xaiseg.zoo.radiomicnet import RadiomicNet

#: Data entries that may give ranges, the first that there is.
CALIBRATION: Final = ("calibration", "validation", "train")
#: Calibration images in one pass of the float network.
BATCH: Final = 8

Load = Callable[[CaseRef, str], Case]
Call = Callable[..., Tensor]


@dataclass(frozen=True)
class IntegerBuild:
    """The audited network in integers.

    Attributes:
        spec: how it is built.
        network: the float network that was traced: the audited one, or the part of it that can move.
        arguments: a batch on the network's grid (B, C, h, w) as that network's arguments.
        to_grid: images of one size (B, C, H, W) in the declared range, on the network's grid.
        integers: its integer form.
        deployed: the digit-serial network; None for other forms.
        calibrated_on: data entry and case ids that gave the ranges.
    """

    spec: VariantSpec
    network: nn.Module
    arguments: Callable[[Tensor], tuple[Tensor, ...]]
    to_grid: Callable[[Tensor], Tensor]
    integers: Quantised
    deployed: Deployed | None
    calibrated_on: tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Variant:
    """Another build of the audited model.

    Attributes:
        name: as in model.yaml.
        subject: answers like the audited model; offers scores at most.
        sentence: what it is, for the report.
        build: the integers, or None for a model with a source of its own.
        largest_change: the largest change of a margin (logit of a class minus another's) on calibration images, or
            None where there are none.
    """

    name: str
    subject: Subject
    sentence: str
    build: IntegerBuild | None = None
    largest_change: float | None = None

    def facts(self) -> dict[str, Any]:
        """What the plan stores about it."""
        if self.build is None:
            return {"sentence": self.sentence, "remains": [], "calibration": None, "convolutions": None}
        entry, cases = self.build.calibrated_on
        return {
            "sentence": self.sentence,
            "remains": self.build.integers.folded.graph.remains(),
            "calibration": {"entry": entry, "cases": list(cases)},
            "convolutions": len(self.build.integers.convolutions),
        }


def load_variants(
    model: ModelFile, datasets: Mapping[str, Dataset], load: Load, *, device: str = "cpu", seed: int = 0
) -> dict[str, Variant]:
    """Builds every variant that model.yaml names.

    Args:
        model: the model file.
        datasets: the opened data entries, by name.
        load: reads a case of a data entry.
        device: as for :func:`xaiseg.loading.load_subject`.
        seed: of the draw of calibration images.

    Raises:
        UsageError: naming the variant's line: the network cannot move, calibration images are missing or audited, a
            file of another build is missing, or another build answers other classes.
    """
    workshop = _Workshop(model, datasets, load, device, seed)
    found = {}
    for name, spec in model.variants.items():
        try:
            found[name] = _other_build(name, spec, model, device) if spec.source else workshop.integer(name, spec)
        except XaisegError as error:
            raise UsageError(
                f"the variant {name} cannot be built", where=model.where("variants", name), got=error
            ) from error
    return found


def _other_build(name: str, spec: VariantSpec, model: ModelFile, device: str) -> Variant:
    assert spec.source is not None
    subject = load_subject(replace(model, source=spec.source), device=device)
    return Variant(name, subject, spec.sentence())


@dataclass
class _Workshop:
    """What integer variants share: the float network, its calibration images, its integers by scheme."""

    model: ModelFile
    datasets: Mapping[str, Dataset]
    load: Load
    device: str
    seed: int
    _network: Network | None = None
    _batches: dict[tuple[str, int], tuple[tuple[str, ...], list[Tensor]]] = field(default_factory=dict)
    _folded: dict[tuple[str, ...], Folded] = field(default_factory=dict)
    _integers: dict[tuple[Any, ...], Quantised] = field(default_factory=dict)

    def integer(self, name: str, spec: VariantSpec) -> Variant:
        network = self._loaded()
        way = NetworkInput(network, self.model.input, self.model.name)
        core = _core(network.module)
        if spec.outside not in self._folded:
            self._folded[spec.outside] = fold(trace(core.module, outside=(*core.outside, *spec.outside)))
        folded = self._folded[spec.outside]
        entry = spec.calibration or next((name for name in CALIBRATION if name in self.datasets), "")
        ids, batches = self._calibration(entry, spec.sample, way)
        scheme = Scheme(spec.bits, spec.weight_bits, spec.per_channel, spec.observer, spec.percentile, spec.bias)
        key = (scheme, spec.outside, entry, spec.sample)
        if key not in self._integers:
            with torch.inference_mode():
                inputs = [core.arguments(batch) for batch in batches]
            self._integers[key] = quantise(folded, inputs, split=entry, scheme=scheme)
        integers = self._integers[key]
        deployed = None
        if spec.hardware == "msdf":
            deployed = deploy(integers, arithmetic=spec.arithmetic, delay=spec.delay, fewer=spec.fewer)
        call = _CALLS[spec.hardware](integers, deployed)
        comparable = self.model.task == "segmentation" and self.model.output.kind == "logits"
        change = self._largest_change(call, core, batches) if comparable else None
        answer: Callable[[Tensor], Any] = lambda batch: core.answer(call(*core.arguments(batch)))  # noqa: E731
        built = replace(network, call=answer, module=None, offers=frozenset({"scores"}))
        subject = subject_of(replace(self.model, name=f"{self.model.name}/{name}"), built)
        build = IntegerBuild(spec, core.module, core.arguments, way.to_network_grid, integers, deployed, (entry, ids))
        return Variant(name, subject, spec.sentence(), build, change)

    def _largest_change(self, call: Call, core: _Core, batches: list[Tensor]) -> float:
        """Largest change of a margin between two classes, over all pixels of the calibration images."""
        with torch.inference_mode():
            changes = [call(*given) - core.module(*given) for given in map(core.arguments, batches)]
        one = changes[0].shape[1] == 1  # the other class has logit 0
        return max(float((d.abs() if one else d.amax(1) - d.amin(1)).max()) for d in changes)

    def _loaded(self) -> Network:
        if self._network is None:
            loaded = load_source(self.model, device=self.device)
            if not isinstance(loaded, Network) or loaded.module is None:
                what = "the network's code is not open, so it cannot be put into integers"
                then = "Give the variant a source of its own, e.g. {source: {onnx: int8.onnx}}"
                raise UsageError(what, got=f"source: {self.model.source.kind}", then=then)
            if self.model.task == "detection" and not isinstance(loaded.module, DetectorCompact):
                what, then = "no part of this detector is known to move", "Give the variant a source of its own"
                raise UsageError(what, got=type(loaded.module).__name__, allowed="detector-compact", then=then)
            self._network = loaded
        return self._network

    def _calibration(self, entry: str, sample: int, way: NetworkInput) -> tuple[tuple[str, ...], list[Tensor]]:
        """Ids and batches on the network's grid."""
        if entry not in self.datasets:
            got = entry or "none of " + ", ".join(CALIBRATION)
            then = "Add data: calibration: to model.yaml, images that are not audited"
            raise UsageError("there are no calibration images", where="data", got=got, then=then)
        if (entry, sample) not in self._batches:
            dataset = self.datasets[entry]
            refuse_audited(dataset, self.datasets["test"])
            order = generator(self.seed, "variants.calibration", entry).permutation(len(dataset.cases))
            refs = [dataset.cases[place] for place in sorted(order[:sample])]
            images = [torch.as_tensor(self.load(ref, entry).image) for ref in refs]
            batches = [batch for _, _, batch in way.batches(images, BATCH)]
            self._batches[entry, sample] = tuple(ref.id for ref in refs), batches
        return self._batches[entry, sample]


def refuse_audited(calibration: Dataset, test: Dataset) -> None:
    """Refuses calibration images that are among the audited ones.

    Raises:
        UsageError: with how many are shared.
    """
    shared = _places(calibration) & _places(test)
    if shared:
        raise UsageError(
            "calibration images are among the audited ones, on which nothing may be fitted",
            where=f"data.{calibration.name}",
            got=f"{len(shared)} of {len(calibration.cases)} images",
            allowed="images that are not in data.test",
        )


def _places(dataset: Dataset) -> set[str]:
    """What tells images apart: a file, or a place in a generated set."""
    return {
        str(path.resolve()) if (path := Path(ref.image)).is_file() else f"{dataset.source}\n{ref.image}"
        for ref in dataset.cases
    }


@dataclass(frozen=True)
class _Core:
    """The part of a network that can move.

    Attributes:
        module: it.
        arguments: a batch on the network's grid as its arguments.
        answer: its answer as the network's.
        outside: what of it stays in floating point.
    """

    module: nn.Module
    arguments: Callable[[Tensor], tuple[Tensor, ...]] = lambda batch: (batch,)
    answer: Callable[[Tensor], Any] = lambda found: found
    outside: tuple[str, ...] = ()


def _core(module: nn.Module | None) -> _Core:
    assert module is not None  # _loaded refuses others
    if isinstance(module, RadiomicNet):
        core = RadiomicCore(module).eval()
        return _Core(core, core.arguments, outside=OUTSIDE if len(module.gates) else ())
    if isinstance(module, DetectorCompact):
        detector = DetectorCore(module).eval()
        return _Core(detector, answer=detector.candidates, outside=DETECTOR_OUTSIDE)
    return _Core(module)


def _fake(integers: Quantised, deployed: Deployed | None) -> Call:
    return lambda *arguments: fake_quantised(integers, arguments)


def _golden(integers: Quantised, deployed: Deployed | None) -> Call:
    return lambda *arguments: run_integer(integers, *arguments)


def _digits(integers: Quantised, deployed: Deployed | None) -> Call:
    assert deployed is not None
    return deployed


_CALLS: Final[Mapping[str, Callable[[Quantised, Deployed | None], Call]]] = {
    "fake": _fake, "integer": _golden, "msdf": _digits
}  # fmt: skip


def segmenter_of(variant: Variant) -> Segmenter:
    """The variant's subject, for checks that compare masks.

    Raises:
        UsageError: it is a detector.
    """
    if not isinstance(variant.subject, Segmenter):
        raise UsageError("this variant is no segmentation model", where=variant.name)
    return variant.subject
