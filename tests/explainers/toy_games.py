"""Scores that are known functions of which cells of an image are shown: closed forms for perturbation methods.

The image is 1 everywhere and the baseline 0 (a dataset mean of 0), so a masked image is its own mask; the toy reads its
cells and answers with a game's value at every pixel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.explainers.toy_segmenters import ToySegmenter
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.targets import Region

SIDE = 12


def cell_labels(cells: int, side: int = SIDE) -> np.ndarray:
    """(side, side): ``cells`` x ``cells`` square segments."""
    index = np.arange(side) * cells // side
    return index[:, None] * cells + index


class Game(nn.Module):
    """Logit of every pixel = game((B, d) mean of each segment of the image)."""

    def __init__(self, labels: np.ndarray, game) -> None:
        super().__init__()
        one_hot = np.eye(labels.max() + 1)[labels.ravel()]
        self.means = torch.from_numpy(one_hot / one_hot.sum(axis=0))
        self.game = game

    def forward(self, x):
        cells = x[:, :1].double().flatten(1) @ self.means
        return self.game(cells)[:, None, None, None].float().expand(-1, 1, *x.shape[-2:])


def game_session(game, cells: int = 3, *, seed: int = 0, batch: int = 8, side: int = SIDE) -> tuple[Session, Segments]:
    labels = cell_labels(cells, side)
    subject = ToySegmenter(Game(labels, game), offers=frozenset({"scores"}))
    image = torch.ones(1, side, side)
    session = Session(subject, image, seed=seed, budget=Budget(batch), dataset_mean=torch.zeros(1, 1, 1))
    return session, Segments.of(labels)


def everywhere(side: int = SIDE) -> Region:
    return Region(1, np.ones((side, side), dtype=bool))


def additive(weights: np.ndarray):
    values = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    return lambda cells: cells @ values


def all_of(*players: int):
    """The AND game: 1 when all these cells are shown."""
    return lambda cells: (cells[:, list(players)] > 0.99).all(dim=1).double()
