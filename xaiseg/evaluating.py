"""The Python door of the metrics: are these explanations of this image true? See :func:`evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.targets import Region
from xaiseg.explaining_open import open_session, open_targets
from xaiseg.faithfulness.evaluation import DEFAULT, Evaluation, Settings, evaluate_session
from xaiseg.subject import Segmenter

if TYPE_CHECKING:
    from torch import Tensor


def evaluate(
    model: str | Path | Segmenter,
    image: str | Path | np.ndarray | Tensor,
    *,
    method: str | Sequence[str] | Mapping[str, np.ndarray] = "hirescam",
    metrics: Sequence[str] = DEFAULT,
    target: object = "pred",
    reference: str | Path | np.ndarray | None = None,
    dataset_mean: str | Path | np.ndarray | Tensor | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 8,
) -> Evaluation:
    """Tests explanations of one image; model, image, target and reference are those of :func:`xaiseg.explain`.

    Args:
        model: a model.yaml, or a segmenter that is loaded already.
        image: a file, or an array (H, W), (H, W, C) or (C, H, W): integers of 8 or 16 bits, which span the declared
            range, or floats within it.
        method: name or names of explainers, which run with their defaults; or maps that exist: name -> (H, W), signed,
            more important = higher. Tests that need new maps (randomisation, max-sensitivity) have no value for these.
        metrics: see :data:`xaiseg.faithfulness.evaluation.METRICS`.
        target: one region: "pred" (the largest predicted foreground class), a class, "x,y", a mask file, a mask (H, W)
            of True and False, a mapping, or a :class:`~xaiseg.explainers.targets.Region`.
        reference: a mask file or (H, W) class indices, for targets that need one.
        dataset_mean: what the baseline "dataset-mean" shows: an image as ``image``, or one value a channel (C, 1, 1).
        settings: how maps are tested.
        seed: of everything that is drawn.
        device: where a model.yaml's model computes.
        batch_size: images a forward pass.

    Raises:
        UsageError: an unknown method, metric or target; a map of another size; nothing to explain in this image; or a
            target that is no region, whose probability could not be watched.
        DataError: the image or the reference cannot be used.
        SubjectError: the model does not offer what a method needs.

    >>> from torch import nn
    >>> from xaiseg.adapters import wrap_module
    >>> image = np.zeros((8, 8), dtype=np.float32)
    >>> image[2:5, 3:6] = 1.0
    >>> painted = {"edges": np.linspace(0.0, 1.0, 64).reshape(8, 8)}
    >>> region = Region(1, image > 0, label="square")
    >>> network = wrap_module(nn.Conv2d(1, 1, 3, padding=1))
    >>> evaluate(network, image, method=painted, metrics=["localisation"], target=region).score("pointing_game").value
    0.0
    """
    if not isinstance(cast(object, settings), Settings | None):
        kind = "xaiseg.faithfulness.evaluation.Settings(...), or None for its defaults"
        raise UsageError("these are no settings", where="settings", got=repr(settings), allowed=kind)
    with torch.inference_mode(False):  # within it no gradient can be had, whoever called
        session, described = open_session(
            model, image, seed=seed, device=device, batch_size=batch_size, dataset_mean=dataset_mean
        )
        targets = open_targets(session, target, reference, described=described)
        region = targets[0]
        if len(targets) != 1 or not isinstance(region, Region):
            raise UsageError(
                "an explanation is tested on one region",
                where="target",
                got=", ".join(f"{each.name} ({type(each).__name__})" for each in targets[:4]),
                allowed="pred, a class, x,y, a mask file, {object: ...}, {prob: ...} or {region: ...}",
                then="Evaluate several targets one after another",
            )
        return evaluate_session(session, region, method, metrics, settings)
