"""Where does a build in integers first differ? Every layer's error, and the ladder from floats to digits.

Between a float network and its hardware lie several steps: batch normalisation is folded, values are rounded, scales
become powers of two, digits are left out. Each rung of the ladder is a whole network that differs from the one above
in one of them, so a change of the masks has a cause. Within a rung, the signal-to-noise ratio of every layer shows
where the error comes in: accumulated along the network, and of the layer alone on the float network's own input.

The ratio is formed from sums over images, so that an image without signal cannot decide it. A layer below the floor
need not hurt: later layers may average its errors out, which is what the masks of the rungs show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.layers_quantities import layer_quantities
from xaiseg.errors import SubjectError, UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.ladder import Rung, climb
from xaiseg.hardware.layerwise import Form, digit_form, fake_form, golden_form, layer_errors, layer_facts
from xaiseg.variants import IntegerBuild, Variant, segmenter_of

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.data.case import Case, Dataset

ID: Final = "equivalence.layers"


@dataclass(frozen=True)
class Params:
    """When a rung or a layer counts as broken.

    Attributes:
        rung_flips: a rung breaks when more than this share of the pixels changes sides against the rung above.
        layer_db: a layer falls below the floor when its accumulated signal-to-noise ratio is less than this, in dB.
    """

    rung_flips: float = 0.005
    layer_db: float = 20.0

    def __post_init__(self) -> None:
        wrong = [
            (not 0 < self.rung_flips < 1, "rung_flips", self.rung_flips, "above 0, below 1"),
            (not 0 <= self.layer_db <= 120, "layer_db", self.layer_db, "0 to 120"),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


@check(
    ID,
    question="Where does the build in integers first differ?",
    needs=("segmenter", "model", "variants"),
    params=Params,
    columns=[
        # Once for each layer (target) of each build (subject).
        ("place", pa.int32()),  # order of computation
        ("operator", pa.string()),
        ("exponent", pa.int32()),
        ("digits_fewest", pa.int32()),  # that its channels emit
        ("digits_most", pa.int32()),
        ("digits_total", pa.int32()),  # of the exact sum
        ("digits_left_out", pa.int32()),
        ("chunks", pa.int32()),  # float32 convolutions that its sum takes; 1 = exact in one piece
        ("bound", pa.int64()),  # largest magnitude of a partial sum
        # For each case and layer.
        ("signal", pa.float64()),
        ("noise", pa.float64()),
        ("local_noise", pa.float64()),
        ("values", pa.int64()),
        ("saturated", pa.int64()),
        ("alive", pa.list_(pa.uint8())),  # channels: 1 = in the float network, 2 = in integers, 3 = in both
        # For each case and rung (factor = "rung").
        ("pixels", pa.int64()),
        ("flips", pa.int64()),  # against the rung above
        ("flips_from_float", pa.int64()),
        ("largest", pa.float64()),  # difference of the network's answer to the rung above
    ],
)
class EquivalenceLayers:
    """Rows for each build in integers (``subject``): one a layer once, one a layer and one a rung for each case."""

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """What is fixed about every layer."""
        for name, _, build in _builds(context):
            for facts in layer_facts(_form(build)):
                fewest, most = facts.digits or (None, None)
                yield {
                    "subject": name, "target": facts.layer, "place": facts.place, "operator": facts.operator,
                    "exponent": facts.exponent, "digits_fewest": fewest, "digits_most": most,
                    "digits_total": facts.total, "digits_left_out": facts.fewer, "chunks": facts.chunks,
                    "bound": facts.bound,
                }  # fmt: skip

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Errors of all layers, and the ladder down to each build's own rung."""
        climbed: dict[tuple[int, str, int], tuple[Rung, ...]] = {}
        for name, variant, build in _builds(context):
            try:
                context.prediction(name)
            except SubjectError as error:
                yield {"subject": name, "status": "failed", "reason": str(error)}
                continue
            arguments = _arguments(build, case)
            for found in layer_errors(_form(build), arguments):
                row = asdict(found)
                yield {
                    "subject": name, "target": row.pop("layer"), "local_noise": row.pop("local"),
                    "alive": list(row.pop("alive")), **row,
                }  # fmt: skip
            key = (id(build.integers), build.spec.arithmetic, build.spec.delay)
            if key not in climbed or own_rung(build) == "F":
                climbed[key] = _climbed(build, arguments)
                context.count(forwards=len(climbed[key]))
            context.count(forwards=2)
            rungs = [rung for rung in climbed[key] if rung.name <= own_rung(build)]
            yield from ({"subject": name, **row} for row in _rung_rows(rungs, variant, case))

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Ratios of every layer, flips of every rung, and how many of each are broken."""
        table, spec = tables.rows[ID], tables.facts["variants"]
        chances = dict(zip(tables.cases["case"], tables.cases[f"p:{ID}"], strict=True))
        for name in spec:
            rows = table[(table["subject"] == name) & (table["status"] == "ok")]
            yield from layer_quantities(rows, name, params, chances, has_build="source" not in spec[name])


def _builds(context: Context) -> Iterator[tuple[str, Variant, IntegerBuild]]:
    for name, variant in context.variants.items():
        if variant.build is not None:
            yield name, variant, variant.build


def own_rung(build: IntegerBuild) -> str:
    """The rung of the ladder that a build is."""
    if build.deployed is None:
        return "C" if build.spec.hardware == "fake" else "D"
    return "F" if any(build.deployed.fewer.values()) else "E"


def _form(build: IntegerBuild) -> Form:
    if build.deployed is not None:
        return digit_form(build.deployed)
    return fake_form(build.integers) if build.spec.hardware == "fake" else golden_form(build.integers)


def _arguments(build: IntegerBuild, case: Case) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return build.arguments(build.to_grid(torch.as_tensor(case.image)[None]))


def _climbed(build: IntegerBuild, arguments: tuple[Tensor, ...]) -> tuple[Rung, ...]:
    own, spec = own_rung(build), build.spec
    full = build.deployed if own == "E" else deploy(build.integers, arithmetic=spec.arithmetic, delay=spec.delay)
    fewer = build.deployed if own == "F" else None
    return climb(build.network, build.integers, arguments, full=full, fewer=fewer)


def _rung_rows(rungs: list[Rung], variant: Variant, case: Case) -> Iterator[Row]:
    """Each rung below the first, decided like the audited model, in the image's own pixels."""
    subject = segmenter_of(variant)
    labels = [subject.decide(subject.from_network_grid(rung.answer, case.shape)[0]).labels for rung in rungs]
    valid = np.ones(case.shape, dtype=bool) if case.reference is None else case.reference != masks.IGNORE
    for place in range(1, len(rungs)):
        changed, from_float = (int(((labels[place] != labels[other]) & valid).sum()) for other in (place - 1, 0))
        yield {
            "factor": "rung", "level": rungs[place].name, "pixels": int(valid.sum()), "flips": changed,
            "flips_from_float": from_float, "largest": rungs[place].largest,
        }  # fmt: skip
