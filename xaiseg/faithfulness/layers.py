"""Which layer should a class activation map be read from? The one whose map orders the pixels of an image best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session, explain, get_explainer
from xaiseg.explainers.tap import layer_choices
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.deletion import curves
from xaiseg.seeds import generator


@dataclass(frozen=True)
class RankedLayer:
    """A layer and how well its map orders pixels.

    Attributes:
        layer: dotted name.
        rows, columns: its grid.
        context: area over the deletion curve outside the region; NaN where the region fills the image.
        every: the same over all pixels.
    """

    layer: str
    rows: int
    columns: int
    context: float
    every: float

    @property
    def score(self) -> float:
        """What layers are ranked by: the mean of both areas, as far as they are defined."""
        return float(np.nanmean([self.context, self.every]))


def rank_layers(
    session: Session, region: Region, *, method: str = "hirescam", steps: int = 8
) -> tuple[RankedLayer, ...]:
    """The last layer on each grid of the network, best first, by the deletion curves of its map.

    A layer that was chosen on the image whose map is then tested looks better than it is. So choose on one set of
    images and test on another: the check ``explanation`` takes the layer as a parameter.

    Args:
        session: the image and the model.
        region: the frozen region.
        method: a class activation map.
        steps: points of each deletion curve.

    Raises:
        UsageError: the method reads no layer.
        SubjectError: the model shows no network, or no layer reaches the region.
    """
    entry, module = get_explainer(method), session.subject.module
    if "layer" not in {field.name for field in dataclasses.fields(entry.params)}:
        raise UsageError("the method reads no layer", where="method", got=method, allowed="a class activation map")
    if module is None:
        raise SubjectError("this subject shows no network", where="activations", got=session.subject.info.name)
    leaf = session.image[None].clone().requires_grad_(True)
    choices = layer_choices(module, lambda: session.differentiable(leaf), region.score)
    maps = {
        each.layer: explain(session, method, [region], params=entry.params(layer=each.layer)).values[0]
        for each in choices
    }
    ties = generator(session.seed, "rank layers").random(region.mask.shape)
    found = curves(session, region, maps, ties=ties, steps=steps).deletion
    missing = float("nan")
    ranked = [
        RankedLayer(
            each.layer,
            each.rows,
            each.columns,
            found["context"][each.layer].area_over if found["context"] else missing,
            found["object"][each.layer].area_over,
        )
        for each in choices
    ]
    return tuple(sorted(ranked, key=lambda each: -each.score))
