"""How many digits are enough? Quality against digits left out, and the digits of each layer that a budget allows.

A digit-serial unit can stop early: every digit that it leaves out saves a step of every sum. The curve measures the
same network with 0, 1, 2, ... digits fewer in every convolution that rounds. Layers bear that differently, so a search
leaves out digits where they hurt least, on the images that gave the build its ranges and on no other. What it
recommends is then measured on the audited images, which it never saw.

Dice, flips and the calibration error are read together: coarse digits make a network less sure of itself, which can
lower the calibration error of one that was too sure, while its masks get worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.calibration import reliability as rel
from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.digits_quantities import RECOMMENDED, digit_quantities
from xaiseg.checks.digits_search import Level, Planned, agreement, calibration_refs, planned
from xaiseg.errors import SubjectError, UsageError
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.fewer_digits import evenly_shortened, mean_digits, output_values, room, shortened
from xaiseg.variants import Variant, segmenter_of

if TYPE_CHECKING:
    from xaiseg.data.case import Case, CaseRef, Dataset
    from xaiseg.subject import Prediction

ID: Final = "equivalence.digits"
#: Searches that are kept; a worker asks for the same ones case after case.
_KEPT: Final = 8


@dataclass(frozen=True)
class Params:
    """How digits are left out, and the budget of the search.

    Attributes:
        most: digits that are left out at most.
        agreement: the search keeps at least this mean Dice between its network's predictions and the float network's.
        flips: and at most this mean share of pixels that change sides.
        explanation_loss: of the mean rank correlation with the float network's occlusion maps it loses at most this
            much, beside all digits.
        images: calibration images on which it judges.
        explained: of them those whose maps it compares; 0 = maps are not asked for.
        cells: of an occlusion map along each side.
        blocks: into which it divides the layers.
        trials: networks that it judges at most.
        bins: of the calibration error.
    """

    most: int = 6
    agreement: float = 0.98
    flips: float = 0.002
    explanation_loss: float = 0.1
    images: int = 8
    explained: int = 3
    cells: int = 4
    blocks: int = 3
    trials: int = 160
    bins: int = 15

    def __post_init__(self) -> None:
        least = {"most": 1, "images": 1, "explained": 0, "cells": 2, "blocks": 1, "trials": 1, "bins": 2}
        wrong = [(getattr(self, name) < low, name, f"{low} or more") for name, low in least.items()]
        shares = ("agreement", "flips", "explanation_loss")
        wrong += [(not 0 <= getattr(self, name) <= 1, name, "0 to 1") for name in shares]
        for is_wrong, name, allowed in wrong:
            if is_wrong:
                got = getattr(self, name)
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


@check(
    ID,
    question="How many digits are enough?",
    needs=("segmenter", "model", "variants"),
    params=Params,
    columns=[
        # Once for each convolution (target) of each build on units that differs from the others (subject).
        ("place", pa.int32()),
        ("left_out", pa.int32()),  # digits that the search recommends to leave out
        ("room", pa.int32()),  # that could be left out
        ("emitted", pa.float64()),  # digits with nothing left out, mean over channels
        ("damage", pa.float64()),  # mean squared change of the answer when this layer alone leaves out two
        # Once for each build and state (factor = "search", level = "full" or "recommended").
        ("images", pa.list_(pa.string())),  # calibration images that the search judged on
        ("trials", pa.int32()),
        ("within", pa.bool_()),  # the budget holds with all digits
        ("exhausted", pa.bool_()),  # the search ended because no trial was left
        ("stepped_back", pa.int32()),  # accepted states that the budget of the explanation took back
        ("explanation", pa.float64()),
        ("flip_share", pa.float64()),
        # For each case and state (factor = "fewer", level = "0", "1", ... or "recommended"); agreement also above.
        ("agreement", pa.float64()),
        ("pixels", pa.int64()),
        ("flips", pa.int64()),
        ("digits", pa.float64()),  # emitted for one value, mean over the values of all convolutions
        ("dice", pa.float64()),
        ("dice_variant", pa.float64()),
        ("ece", pa.float64()),
        ("ece_variant", pa.float64()),
    ],
)
class EquivalenceDigits:
    """Rows for each distinct build on digit-serial units, under the name of the first variant that has it."""

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """What the search found."""
        for name, variant in _schemes(context.variants).items():
            assert variant.build is not None
            entry = variant.build.calibrated_on[0]
            plan = _plan(context, variant, datasets[entry].cases if entry in datasets else ())
            full = _levels(variant, plan, context.params)["0"]
            for place, (path, most) in enumerate(room(full).items()):
                yield {
                    "subject": name, "target": path, "place": place, "room": most,
                    "left_out": plan.fewer.get(path, 0), "damage": plan.found.damage.get(path),
                    "emitted": _emitted(full, path),
                }  # fmt: skip
            yield {"subject": name, **_search_row("full", plan.full, plan)}
            yield {"subject": name, **_search_row(RECOMMENDED, plan.recommended, plan)}

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """The network with fewer and fewer digits, and with the recommended ones."""
        for name, variant in _schemes(context.variants).items():
            try:
                context.prediction(name)
            except SubjectError as error:
                yield {"subject": name, "status": "failed", "reason": str(error)}
                continue
            assert variant.build is not None
            plan = _plan(context, variant, context.listed(variant.build.calibrated_on[0]))
            networks = _levels(variant, plan, context.params)
            context.count(forwards=len(networks))
            for row in _case_rows(variant, networks, context, case):
                yield {"subject": name, **row}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """The curve, and what the search recommends."""
        table = tables.rows[ID]
        ok = table[(table["status"] == "ok") & (table["subject"] != "reference")]
        names = [name for name in tables.facts["variants"] if (table["subject"] == name).any()]
        yield from digit_quantities(ok, names)


def _schemes(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """The first variant of every set of integers and units; what differs in the digits alone is the same."""
    found: dict[tuple[int, str, int], tuple[str, Variant]] = {}
    for name, variant in variants.items():
        build = variant.build
        if build is not None and build.deployed is not None:
            found.setdefault((id(build.integers), build.spec.arithmetic, build.spec.delay), (name, variant))
    return dict(found.values())


_PLANS: list[tuple[Deployed, Any, Planned]] = []
_NETWORKS: list[tuple[Planned, dict[str, Deployed]]] = []


def _plan(context: Context, variant: Variant, refs: Sequence[CaseRef]) -> Planned:
    """The search of a build. A worker makes it once: the same images and weights give the same plan everywhere."""
    build, params = variant.build, context.params
    assert build is not None
    assert build.deployed is not None
    for deployed, held, plan in _PLANS:
        if deployed is build.deployed and held == params:
            return plan
    entry = build.calibrated_on[0]
    cases = [context.load(ref, entry) for ref in calibration_refs(build, refs, params.images)]
    plan = planned(build, segmenter_of(variant), cases, params)
    _PLANS.append((build.deployed, params, plan))
    del _PLANS[:-_KEPT]
    return plan


def _levels(variant: Variant, plan: Planned, params: Params) -> dict[str, Deployed]:
    """The network at every step of the curve, and as recommended."""
    for held, networks in _NETWORKS:
        if held is plan:
            return networks
    assert variant.build is not None
    assert variant.build.deployed is not None
    full = variant.build.deployed
    made = {str(count): evenly_shortened(full, count) for count in range(params.most + 1)}
    made[RECOMMENDED] = shortened(full, plan.fewer)
    _NETWORKS.append((plan, made))
    del _NETWORKS[:-_KEPT]
    return made


def _emitted(full: Deployed, path: str) -> float:
    nodes = full.network.folded.graph.nodes
    name = next(node.name for node in nodes if node.path == path and node.name in full.ready)
    return float(full.ready[name].digits.double().mean())


def _search_row(level: str, found: Level, plan: Planned) -> Row:
    return {
        "factor": "search", "level": level, "images": list(plan.images), "trials": plan.found.trials,
        "within": plan.found.within, "exhausted": plan.found.exhausted, "stepped_back": plan.stepped_back,
        "agreement": found.agreement, "flip_share": found.flips, "explanation": found.explanation,
    }  # fmt: skip


def _case_rows(variant: Variant, networks: Mapping[str, Deployed], context: Context, case: Case) -> Iterator[Row]:
    build, subject, first = variant.build, segmenter_of(variant), context.prediction()
    assert build is not None
    with torch.inference_mode():
        arguments = build.arguments(build.to_grid(torch.as_tensor(case.image)[None]))
    values = output_values(networks["0"], arguments)
    for level, network in networks.items():
        second = subject.decide(subject.from_network_grid(network(*arguments), case.shape)[0])
        row = _compared(case, first, second, context.params.bins)
        yield {"factor": "fewer", "level": level, "digits": mean_digits(network, values), **row}


def _compared(case: Case, first: Prediction, second: Prediction, bins: int) -> Row:
    valid = np.ones(case.shape, dtype=bool) if case.reference is None else case.reference != masks.IGNORE
    before, after = first.labels * valid, second.labels * valid
    row: Row = {
        "pixels": int(valid.sum()), "flips": int((before != after).sum()), "agreement": agreement(before, after)
    }  # fmt: skip
    if case.reference is None:
        return row
    truth = case.reference * valid
    dices = [agreement(truth, each) for each in (before, after)]
    if dices != [None, None]:
        # One of them is empty as the reference is: that is right.
        row |= dict(zip(("dice", "dice_variant"), (1.0 if dice is None else dice for dice in dices), strict=True))
    if first.probabilities is not None and second.probabilities is not None:
        row |= {"ece": _ece(first, truth, valid, bins), "ece_variant": _ece(second, truth, valid, bins)}
    return row


def _ece(prediction: Prediction, truth: np.ndarray, valid: np.ndarray, bins: int) -> float:
    """Calibration error of the foreground; of the most likely class where there are several."""
    assert prediction.probabilities is not None
    p, right = prediction.probabilities[:, valid].astype(np.float64), truth[valid]
    if len(p) == 2:
        return rel.expected_calibration_error(rel.histogram(p[1], right == 1, bins=bins).stacked())
    top = rel.histogram(p.max(axis=0), p.argmax(axis=0) == right, bins=bins)
    return rel.expected_calibration_error(top.stacked())
