"""KernelSHAP: Shapley values of segments, exact for few segments and by constrained least squares for more.

S. Lundberg, S.-I. Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017. Paired sampling:
I. Covert, S.-I. Lee, "Improving KernelSHAP", AISTATS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from scipy.special import gammaln

from xaiseg.errors import UsageError
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.masks import DRAWN, Design
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.stopping import CellMap, Stop, painted, sampled_notes, settle
from xaiseg.explainers.superpixels import Cut, segments_of
from xaiseg.explainers.targets import Target

#: More segments than this are never enumerated: 2^16 masks are beyond any budget.
MOST_ENUMERATED: Final = 16


@dataclass(frozen=True)
class KernelShapParams:
    """Parameters of KernelSHAP.

    Attributes:
        masks: at most this many forwards besides the image and the baseline; where all masks are no more, all are run
            and the values are exact.
        cut: "slic" superpixels, "grid" rectangles, or "given" ``segments``.
        segments: with cut "given": the user's own segments, such as organs or predicted regions.
        count: at most this many superpixels or rectangles.
        sampling: "shapley" draws masks from the Shapley kernel in complementary pairs; "bernoulli" weighs the masks
            that LIME uses on the same segments, so that both share their forwards, at larger errors.
        baseline: what hidden segments show.
        agreement: see :class:`~xaiseg.explainers.stopping.Stop`.
        precision: see :class:`~xaiseg.explainers.stopping.Stop`.
    """

    masks: int = 2048
    cut: Cut = "slic"
    segments: Segments | None = None
    count: int = 64
    sampling: Literal["shapley", "bernoulli"] = "shapley"
    baseline: Replacement = "mean"
    agreement: float = 0.95
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.sampling not in ("shapley", "bernoulli"):
            got = self.sampling
            raise UsageError("no such sampling", where="kernelshap.sampling", got=got, allowed="shapley, bernoulli")


@explainer(
    "kernelshap", needs={"scores"}, unit="logit per segment", params=KernelShapParams,
    forwards=lambda params: params.masks + 2,
)  # fmt: skip
def kernelshap(session: Session, targets: Sequence[Target], *, params: KernelShapParams) -> Attribution:
    """Shapley values of segments, constant within each; they sum over segments to S(image) - S(baseline) exactly."""
    segments = segments_of(session, params.cut, params.count, params.segments)
    if segments.count <= MOST_ENUMERATED and 2**segments.count - 2 <= params.masks:
        return _exact(session, targets, segments, params.baseline)
    bank = session.bank(Design(params.sampling, segments=segments), params.baseline)
    if params.masks < 2 * segments.count:
        raise UsageError(
            "too few masks for the segments",
            where="kernelshap.masks",
            got=f"{params.masks} for {segments.count} segments",
            allowed=f"{2 * segments.count} or more",
        )
    stop = Stop(params.masks, max(256, 4 * segments.count), params.agreement, params.precision)
    settled = settle(bank, targets, partial(_estimated, bank, params.sampling), stop)
    notes = [_note(segments, params.sampling, params.baseline), *sampled_notes(targets, settled, stop)]
    return Attribution(
        np.stack([each.values for each in settled]).astype(np.float32),
        stderr=np.stack([each.stderr for each in settled]).astype(np.float32),
        completeness=np.zeros(len(targets)),
        notes=tuple(notes),
    )


def constrained(
    rows: np.ndarray, scores: np.ndarray, weights: np.ndarray, whole: np.ndarray, bare: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of scores on rows, through the empty mask and summing to the full one.

    Minimises sum w (S - S(b) - z'phi)^2 under sum phi = S(x) - S(b), for all targets at once.

    Args:
        rows: (n, d) of 0 and 1; rows 2 k and 2 k + 1 are taken to be drawn together.
        scores: (n, T).
        weights: (n,).
        whole: (T,) S of the image.
        bare: (T,) S of the baseline.

    Returns:
        Values (d, T), and squared standard errors (d, T): what leaving out one pair at a time does to the values (the
        jackknife of clustered regressions, R. M. Bell, D. F. McCaffrey, Survey Methodology 2002). The plain scatter of
        the residuals is too small, since a pair pulls the line towards itself: by 15 % at 4 pairs a segment.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> constrained(rows, rows @ [[3.0], [2.0]], np.ones(2), np.array([5.0]), np.array([0.0]))[0].ravel().tolist()
    [3.0, 2.0]
    """
    # The constraint is met by a direction of its own: phi = total / d + B c with the columns of B summing to 0.
    cells = rows.shape[1]
    basis = np.linalg.qr(np.column_stack([np.ones(cells), np.eye(cells)[:, 1:]]))[0][:, 1:]
    total = whole - bare
    left = scores - bare - np.outer(rows.sum(axis=1) / cells, total)
    z = rows @ basis
    inverse = np.linalg.pinv((z * weights[:, None]).T @ z, hermitian=True)
    inner = inverse @ ((z * weights[:, None]).T @ left)
    return total / cells + basis @ inner, _jackknifed(z, left - z @ inner, weights, inverse, basis)


def _jackknifed(
    z: np.ndarray, residuals: np.ndarray, weights: np.ndarray, inverse: np.ndarray, basis: np.ndarray
) -> np.ndarray:
    """Squared standard errors (d, T) of ``basis @ coefficients``, from leaving out one pair of rows at a time."""
    pairs = len(z) // 2
    rows, weight = z[: 2 * pairs].reshape(pairs, 2, -1), weights[: 2 * pairs].reshape(pairs, 2, 1)
    pulled = weight * rows  # (p, 2, e)
    # (I - H)^-1 r is what a pair is off by when it is left out. Pairs that alone decide a direction have no such error.
    left = np.linalg.pinv(np.eye(2) - np.einsum("pie,ef,pjf->pij", rows, inverse, pulled, optimize=True))
    errors = left @ residuals[: 2 * pairs].reshape(pairs, 2, -1)
    moved = np.einsum("de,pie,pit->pdt", basis @ inverse, pulled, errors, optimize=True)
    return np.asarray(((moved - moved.mean(axis=0)) ** 2).sum(axis=0) * (pairs - 1) / max(pairs, 1))


def kernel_weights(rows: np.ndarray, keep: float) -> np.ndarray:
    """(n,) the Shapley kernel over the chance of each mask when cells are shown independently; 0 for empty and full.

    >>> kernel_weights(np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]]), 0.5).round(3).tolist()
    [0.0, 1.0, 1.0]
    """
    cells = rows.shape[1]
    shown = rows.sum(axis=1)
    inner = (shown > 0) & (shown < cells)
    k = np.where(inner, shown, 1.0)
    choices = gammaln(cells + 1) - gammaln(k + 1) - gammaln(cells - k + 1)
    logs = -choices - np.log(k * (cells - k)) - k * np.log(keep) - (cells - k) * np.log(1 - keep)
    return np.asarray(np.where(inner, np.exp(logs - logs[inner].max(initial=-np.inf)), 0.0))


def _estimated(bank: MaskBank, sampling: str, responses: Responses) -> CellMap:
    rows = responses.rows.astype(np.float64)
    weights = np.ones(len(rows)) if sampling == "shapley" else kernel_weights(rows, bank.design.keep)
    whole, bare = bank.ends(responses.targets)
    values, variances = constrained(rows, responses.scores, weights, whole, bare)
    return CellMap(values[None], variances[None], np.zeros(1, dtype=np.int64))


def _exact(session: Session, targets: Sequence[Target], segments: Segments, baseline: Replacement) -> Attribution:
    """All masks: the kernel's least squares are the Shapley values themselves."""
    bank = session.bank(Design("subsets", segments=segments), baseline)
    whole, bare = bank.ends(targets)
    count = 2**segments.count - 2
    if count:
        responses = bank.responses(targets, count)
        weights = kernel_weights(responses.rows, 0.5)
        rows = responses.rows.astype(np.float64)
        values, _ = constrained(rows, responses.scores, weights, whole, bare)
    else:
        values = (whole - bare)[None]
    cells = CellMap(values[None], np.zeros_like(values)[None], np.zeros(1, dtype=np.int64))
    return Attribution(
        painted(bank, cells)[0].astype(np.float32),
        completeness=np.zeros(len(targets)),
        notes=(_note(segments, "subsets", baseline), f"exact: all {count:,} masks"),
    )


def _note(segments: Segments, sampling: str, baseline: Replacement) -> str:
    return f"{DRAWN[sampling]} of {segments.count} segments; a hidden segment shows {DESCRIPTION[baseline]}"
