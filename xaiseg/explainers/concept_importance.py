"""Does the model use a concept? Take it away from the layer, run what follows again, and watch the target's score.

With A the layer's activations in one image and U V their concepts (:mod:`xaiseg.explainers.concepts`), concept j is
taken away by A - U_j V_j. Two more experiments say how much the concepts hold at all: A - U V takes all of them away,
and U V in place of A takes away what no concept holds, the residual. The drops of the concepts need not add up to that
of all of them: what follows the layer is no linear function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Cost, Session
from xaiseg.explainers.concepts import Concepts, amounts_of
from xaiseg.explainers.layout import Layout, layout_of
from xaiseg.explainers.pooling import Place, as_tensor, require
from xaiseg.explainers.replay import Recorded, ablated, record
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target
from xaiseg.subject import Segmenter

#: Replayed layers are trusted when the scores of the first variants are this close to those of the whole network.
AGREEMENT: Final = 1e-4
PROBES: Final = 2
#: Variants before those of the concepts: unchanged, without all concepts, without the residual.
OTHERS: Final = 3


@dataclass(frozen=True, eq=False)
class Importance:
    """How far the target's score falls in N images when something is taken away from the layer.

    Attributes:
        drops: (N, k) float64, for each concept; in the unit of the score, negative where the score rises.
        everything: (N,) for all concepts at once.
        residual: (N,) for what no concept holds.
        scores: (N,) S of the unchanged images.
        notes: what a reader must know; unstable concepts are named.
        cost: passes forward, counted in images; those that start at the layer count in full.
    """

    drops: np.ndarray
    everything: np.ndarray
    residual: np.ndarray
    scores: np.ndarray
    notes: tuple[str, ...]
    cost: Cost

    @property
    def mean(self) -> np.ndarray:
        """(k,) mean drop over the images."""
        return np.asarray(self.drops.mean(axis=0))


def importance(
    subject: Segmenter,
    cases: Iterable[tuple[Tensor | np.ndarray, Target]],
    concepts: Concepts,
    *,
    batch_size: int = 8,
) -> Importance:
    """Takes each concept away from each image in turn.

    Args:
        subject: the model that the concepts come from.
        cases: images (C, H, W), each with its own target; read one at a time.
        concepts: see :func:`~xaiseg.explainers.concepts.find_concepts`.
        batch_size: variants a forward pass.

    Raises:
        UsageError: no case.
        SubjectError: the subject does not offer activations, or a score is not finite.
    """
    module = require(subject, "taking concepts away")
    found: list[np.ndarray] = []
    notes: dict[str, None] = {}
    forwards = 0
    for image, target in cases:
        session = Session(subject, as_tensor(subject, image), budget=Budget(batch_size))
        scores, note = _without(session, module, target, concepts)
        if not np.isfinite(scores).all():
            raise SubjectError("the score of a changed layer is not finite", where=f"target {target.name}")
        found.append(scores)
        notes[note] = None
        forwards += session.forwards
    if not found:
        raise UsageError("there is no image to explain", where="cases", got="none", allowed="1 or more")
    table = np.stack(found)
    falls = table[:, :1] - table[:, 1:]
    named = (*concepts.notes, *notes)
    return Importance(falls[:, OTHERS - 1 :], falls[:, 0], falls[:, 1], table[:, 0], named, Cost(forwards))


def _without(session: Session, module: nn.Module, target: Target, concepts: Concepts) -> tuple[np.ndarray, str]:
    """S (3 + k,) of the variants of one image, and how it was computed."""
    size = session.budget.batch_size
    # Not inference mode: what a target keeps from its first call would then be of no use to a later gradient.
    with torch.no_grad(), evaluation_mode(module):
        recorded, grid = _record(session, module, concepts.place)
        variants = list(_taken(recorded.outputs[-1], grid, concepts.vectors))

        def scores(some: Sequence[Tensor], short: bool) -> np.ndarray:
            with _given(recorded, some, grid, short=short):
                logits = session.differentiable(session.image[None].expand(len(some), -1, -1, -1))
            return np.asarray(target.score(logits).cpu().double().numpy())

        found = [scores(variants[:PROBES], False)]
        short = _agrees(found[0], lambda: scores(variants[:PROBES], True))
        found += [scores(variants[start : start + size], short) for start in range(PROBES, len(variants), size)]
    return np.concatenate(found), "only what follows the layer was run again" if short else (
        "the whole network was run again, since its layers cannot be replayed"
    )


def _record(session: Session, module: nn.Module, place: Place) -> tuple[Recorded, Layout]:
    grids: list[tuple[int, int]] = []

    def entered(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            grids.append((int(inputs[0].shape[2]), int(inputs[0].shape[3])))

    handle = module.register_forward_pre_hook(entered)
    try:
        recorded = record(module, place.layer, place.run, lambda: session.differentiable(session.image[None]))
    finally:
        handle.remove()
    size = (int(session.image.shape[1]), int(session.image.shape[2]))
    shape = tuple(recorded.outputs[-1].shape) if len(recorded.outputs) > place.run else ()
    layout = layout_of(shape, recorded.layer, (*grids, size)[0], place.token_grid)
    if layout is None or shape[0] != 1:
        raise SubjectError("the layer gives no grid for the image", where=f"layer {place.layer}", got=shape)
    return recorded, layout


def _taken(output: Tensor, layout: Layout, vectors: np.ndarray) -> Iterator[Tensor]:
    """What is taken away from the layer's grid (C, h, w): nothing, all, the residual, each concept."""
    activation = layout.to_grid(output)[0].float()
    amounts = amounts_of(activation, vectors)
    each = [
        torch.from_numpy(np.einsum("hw,c->chw", amount, vector)).to(activation)
        for amount, vector in zip(amounts, vectors, strict=True)
    ]
    held = torch.stack(each).sum(dim=0)
    yield from (torch.zeros_like(held), held, activation - held, *each)


@contextmanager
def _given(recorded: Recorded, taken: Sequence[Tensor], layout: Layout, *, short: bool) -> Iterator[None]:
    """While it is open, a batch of copies of the image has something taken away from the layer in each."""
    changed = torch.cat([recorded.outputs[-1]] * len(taken))
    layout.to_grid(changed).sub_(torch.stack(list(taken)).to(changed.dtype))  # a view: writes into its own layout
    seen = 0

    def replaced(_: nn.Module, __: object, output: object) -> Tensor | None:
        nonlocal seen
        seen += isinstance(output, Tensor)
        # A copy, because a later operation may write into it.
        return changed.clone() if seen == len(recorded.outputs) and isinstance(output, Tensor) else None

    # The replay sets a channel to zero; this hook, which runs after its own, answers with the changed copies instead.
    with ablated(recorded, [0] * len(taken), layout.channel_axis, short=short):
        handle = recorded.layer.register_forward_hook(replaced)
        try:
            yield
        finally:
            handle.remove()


def _agrees(whole: np.ndarray, tail: Callable[[], np.ndarray]) -> bool:
    try:
        return bool(np.abs(tail() - whole).max() <= AGREEMENT * max(1.0, float(np.abs(whole).max())))
    except (RuntimeError, SubjectError):  # shapes that do not fit, for a network that cannot be replayed
        return False
