"""Targets that compare the soft mask of a class with a frozen mask or with the reference.

They are the value functions of "KernelSHAP for nnU-Net" (arXiv:2604.11775): Dice, true positives, false positives and
false negatives, with probabilities in place of labels so that they are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.targets import check_fit, check_mask

Overlap = Literal["soft_dice", "tp", "fp", "fn"]

#: (probabilities (B, n), mask (n,) of 0 and 1) -> (B,).
_FORMULAS: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "soft_dice": lambda p, r: 2 * (p * r).sum(dim=1) / (p.sum(dim=1) + r.sum()),
    "tp": lambda p, r: (p * r).sum(dim=1) / r.sum(),
    "fp": lambda p, r: (p * (1 - r)).sum(dim=1),
    "fn": lambda p, r: ((1 - p) * r).sum(dim=1),
}
_UNITS: Final = {"soft_dice": "Dice", "tp": "probability", "fp": "pixel", "fn": "pixel"}
_WORDS: Final = {
    "soft_dice": "soft Dice of {} with the mask",
    "tp": "mean probability of {} over the mask",
    "fp": "sum of the probability of {} outside the mask, pixels",
    "fn": "sum of 1 - probability of {} over the mask, pixels",
}


@dataclass(frozen=True, eq=False)
class SoftOverlap:
    """How well the soft mask of a class agrees with a mask R; p is the softmax probability of the class.

    ========= ============================ ===================================
    kind      S                            asks
    ========= ============================ ===================================
    soft_dice 2 sum p R / (sum p + sum R)  what makes the two agree?
    tp        sum p R / sum R              what makes the object found?
    fp        sum p (1 - R)                what makes too much found?
    fn        sum (1 - p) R                what makes too little found?
    ========= ============================ ===================================

    Attributes:
        kind: which of them.
        class_index: the class.
        mask: (H, W) bool, R; only "fp" may have an empty one.
        label: name of the class.
        valid: (H, W) bool, pixels that count, or None for all.

    >>> logits = torch.zeros(1, 2, 1, 4)
    >>> mask = np.array([[True, True, False, False]])
    >>> [SoftOverlap(kind, 1, mask).score(logits).item() for kind in ("soft_dice", "tp", "fp", "fn")]
    [0.5, 0.5, 1.0, 1.0]
    """

    kind: Overlap
    class_index: int
    mask: np.ndarray
    label: str = ""
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.kind not in _FORMULAS:
            raise UsageError("no such overlap", where="kind", got=self.kind, allowed=", ".join(_FORMULAS))
        check_mask(self.mask, empty=self.kind == "fp")
        if self.valid is not None and (self.valid.shape != self.mask.shape or not self.valid.any()):
            raise UsageError("no pixel of the mask counts", where="valid", got=self.valid.shape)

    @property
    def name(self) -> str:
        """The kind and the class."""
        return f"{self.kind} of {self.label or f'class-{self.class_index}'}"

    @property
    def unit(self) -> str:
        """Unit of S."""
        return _UNITS[self.kind]

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        return _WORDS[self.kind].format(self.label or f"class-{self.class_index}")

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,).

        Raises:
            UsageError: the logits have another grid than the mask, or lack the class.
        """
        check_fit(self.class_index, self.mask, logits)
        counts = np.ones_like(self.mask) if self.valid is None else self.valid
        places = torch.from_numpy(np.flatnonzero(counts)).to(logits.device)
        mask = torch.from_numpy(self.mask[counts].astype(np.float32)).to(logits.device)
        chances = logits.flatten(2)[:, :, places].float().softmax(dim=1)[:, self.class_index]
        return _FORMULAS[self.kind](chances, mask)
