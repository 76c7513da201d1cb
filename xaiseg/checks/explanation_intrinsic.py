"""What the architecture itself says: read-outs of an interpretable network, and whether the network listens to them.

A read-out is believed as far as the answer changes without it. The named features of gated networks are weighed in four
ways (two gradients, values of other images, the training mean), beside what all of them do together; spatial maps are
compared with post-hoc maps and flattened to their mean.

Rahman, "RadiomicNet", arXiv:2607.02185 (the gradient of the loss); Breiman, Machine Learning 45, 2001, and Fisher,
Rudin, Dominici, JMLR 20, 2019 (values of other images).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.intrinsic_quantities import intrinsic_quantities
from xaiseg.checks.pictures import picture_of, range_of, reduced
from xaiseg.data.case import Case
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session, explain, get_explainer
from xaiseg.explainers.intrinsic import (
    Change,
    GatedImage,
    identity_residual,
    importance,
    knock_outs,
    open_gates,
    read_outs,
    responses,
    slopes,
)
from xaiseg.explainers.targets import NO_FOREGROUND, Region, predicted_region
from xaiseg.faithfulness.randomisation import similarity
from xaiseg.seeds import derive_seed

#: Maps are compared with each other on a grid whose long side is at most this.
COMPARED_SIDE: Final = 128


@dataclass(frozen=True)
class Params:
    """How the architecture's own explanation is measured.

    Attributes:
        methods: post-hoc explainers that the maps are compared with.
        levels: values that each feature takes in turn, in standard deviations from the training mean; rising, with 0.
    """

    methods: tuple[str, ...] = ("hirescam", "integrated-gradients", "occlusion")
    levels: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(self.methods))  # YAML gives lists
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        for method in self.methods:
            get_explainer(method)
        if 0.0 not in self.levels or list(self.levels) != sorted(set(self.levels)):
            raise UsageError("the levels must rise and hold 0, the training mean", where="explanation.intrinsic.levels",
                             got=list(self.levels), allowed="e.g. [-2, -1, 0, 1, 2]")  # fmt: skip


@check(
    "explanation.intrinsic",
    question="What the architecture itself says",
    needs={"segmenter", "intrinsic"},
    params=Params,
    columns=[
        ("kind", pa.string()),  # case | feature | map | vector | agreement | posthoc | picture
        ("position", pa.int32()),  # of the feature in the network's order
        ("raw", pa.float64()),  # feature: as measured, and in standard deviations from the training mean
        ("normalised", pa.float64()),
        ("gradient_loss", pa.float64()),
        ("gradient_answer", pa.float64()),
        ("response", pa.list_(pa.float64())),  # mean absolute change of the foreground probability at each level
        ("response_dice", pa.list_(pa.float64())),
        ("change", pa.float64()),  # the same without all features (case), or with the map flattened (map)
        ("dice_change", pa.float64()),
        ("identity_residual", pa.float64()),
        ("replay_residual", pa.float64()),  # largest distance of the probability from the audited prediction
        ("low", pa.float64()),  # read-outs
        ("high", pa.float64()),
        ("mean", pa.float64()),
        ("slope", pa.list_(pa.float64())),  # mean over channels of |d read-out / d feature|
        ("inside_to_outside", pa.float64()),  # mean inside the predicted region over mean outside
        ("rank_correlation", pa.float64()),
        ("picture", pa.list_(pa.uint8())),  # rows from the top, 0 = low, 255 = high
        ("picture_width", pa.int32()),
    ],
)
class IntrinsicExplanation:
    """Rows of a case: one for the case, one a feature, one a read-out, one a map and post-hoc method, two pictures.

    The key column ``target`` names the feature, read-out or method; ``level`` names the method of an agreement.
    """

    def forwards(self, params: Params) -> int:
        """The most forwards that a case takes: the post-hoc maps, and a decoder run for each level of 13 features."""
        maps = sum(get_explainer(method).forwards() for method in params.methods)
        return maps + 13 * len(params.levels) + 8

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Reads the architecture's explanation of the case and takes it apart."""
        subject = context.segmenter
        image = torch.as_tensor(case.image, dtype=torch.float32).to(subject.device)
        context.count(forwards=1)
        read = read_outs(subject, image)
        gated = open_gates(subject, image, case.reference, batch=_batch(context))
        flattened: Mapping[str, Change] = {}
        steep: Mapping[str, np.ndarray] = {}
        if gated is not None:
            context.count(forwards=2 + len(gated.gates))
            flattened = {f"alpha_s_{number}": change for number, change in knock_outs(gated).items()}
            steep = slopes(gated)
            yield from _features(context, gated)
        region = predicted_region(context.prediction(), subject.info.classes)
        posthoc, absent = _posthoc(context, case, region)
        for name, values in read.items():
            if values.ndim == 1:
                slope = steep[name].tolist() if name in steep else None
                yield {"target": name, "kind": "vector", "slope": slope, **range_of(values.numpy())}
                continue
            whole = subject.to_image_grid(values[None, None].to(subject.device), case.shape)[0, 0].cpu().numpy()
            yield {"target": name, "kind": "map", **_map(whole, region), **_changed(flattened.get(name))}
            yield from _agreements(context.params.methods, name, whole, posthoc, absent)
        for method, found in posthoc.items():
            yield {"target": method, "kind": "posthoc", **picture_of(found)}
        yield {"target": "image", "kind": "picture", **picture_of(case.image.mean(axis=0))}
        yield {"target": "prediction", "kind": "picture", **picture_of(context.prediction().labels.astype(np.float64))}

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """Importances with their shares and rank agreement, effects of all features and of each map, agreements."""
        return intrinsic_quantities(tables, params.levels)


def _batch(context: Context) -> int:
    return int(context.facts.get("batch", Budget().batch_size))


def _features(context: Context, gated: GatedImage) -> Iterator[Row]:
    """The row of the case and one row a feature."""
    row: Row = {"target": "", "kind": "case", "identity_residual": identity_residual(gated)}
    held = context.prediction().probabilities
    if held is not None:
        row["replay_residual"] = float(np.abs(gated.probability - (1.0 - held[0].astype(np.float64))).max())
    if gated.normalised is None:
        yield row
        return
    levels = context.params.levels
    context.count(forwards=2 + len(levels) * len(gated.network.feature_names), backwards=2)
    by_loss, by_answer = importance(gated)
    changes = responses(gated, levels)
    yield row | _changed(next(gated.variants(None)))
    raw, normalised = gated.read["features"][0].tolist(), gated.normalised[0].tolist()
    for index, name in enumerate(gated.network.feature_names):
        dice = [change.dice for change in changes[index]]
        yield {
            "target": name,
            "kind": "feature",
            "position": index,
            "raw": raw[index],
            "normalised": normalised[index],
            "gradient_loss": None if by_loss is None else float(by_loss[index]),
            "gradient_answer": float(by_answer[index]),
            "response": [change.probability for change in changes[index]],
            "response_dice": None if None in dice else dice,
        }


def _changed(change: Change | None) -> Row:
    return {} if change is None else {"change": change.probability, "dice_change": change.dice}


def _map(whole: np.ndarray, region: Region | None) -> Row:
    """A map (H, W) by itself: range, picture, and how much higher it is inside the predicted region than outside."""
    row = picture_of(whole)
    if region is not None and not region.mask.all():
        inside, outside = (float(whole[m].mean(dtype=np.float64)) for m in (region.mask, ~region.mask))
        row["inside_to_outside"] = inside / outside if outside > 0 else None
    return row


def _posthoc(
    context: Context, case: Case, region: Region | None
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, str]]]:
    """Maps of the post-hoc methods; and for those without one the status and the reason."""
    subject, methods = context.segmenter, context.params.methods
    lacking = {name: get_explainer(name).missing(subject) for name in methods}
    absent = {name: ("not_applicable", reason) for name, reason in lacking.items() if reason}
    if region is None:
        return {}, dict.fromkeys(methods, ("not_applicable", NO_FOREGROUND)) | absent
    seed = derive_seed(context.seed, "explanation.intrinsic", case.id)
    session = Session(subject, case.image, seed=seed, budget=Budget(_batch(context)), prediction=context.prediction())
    found: dict[str, np.ndarray] = {}
    for name in methods:
        if name not in absent:
            try:
                found[name] = explain(session, name, [region]).values[0]
            except SubjectError as error:
                absent[name] = ("undefined", str(error))
    context.count(forwards=session.forwards, backwards=session.backwards)
    return found, absent


def _agreements(
    methods: Iterable[str],
    name: str,
    whole: np.ndarray,
    posthoc: Mapping[str, np.ndarray],
    absent: Mapping[str, tuple[str, str]],
) -> Iterator[Row]:
    """Rank correlation of a map with the absolute values of each post-hoc map, over the pixels of the image."""
    own = reduced(whole, COMPARED_SIDE)
    for method in methods:
        row: Row = {"target": name, "level": method, "kind": "agreement"}
        if method in absent:
            status, reason = absent[method]
            yield row | {"status": status, "reason": reason}
            continue
        alike = similarity(own, reduced(np.abs(posthoc[method]), COMPARED_SIDE))
        row["rank_correlation"] = alike
        yield row if alike is not None else row | {"status": "undefined", "reason": "one of the maps is constant"}
