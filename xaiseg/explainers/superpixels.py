"""Segments of an image: superpixels, squares, or the map that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.cells import Segments

if TYPE_CHECKING:
    from xaiseg.explainers.base import Session

Cut = Literal["slic", "grid", "given"]

#: Weight of nearness against likeness; images are stretched to [0, 1] first, colours are compared in CIELAB.
COMPACTNESS: Final = {"grey": 0.3, "colour": 10.0}


def slic_segments(image: np.ndarray, count: int) -> Segments:
    """At most ``count`` superpixels (R. Achanta et al., SLIC, IEEE TPAMI 2012; scikit-image).

    Methods on segments need a bounded number of them: with 1,000 segments no affordable number of masks says anything.

    Args:
        image: (C, H, W) in any range.
        count: upper bound, 1 or more.

    Returns:
        Between 1 and ``count`` segments. The same image gives the same ones.

    Raises:
        UsageError: ``count`` is below 1.

    >>> slic_segments(np.zeros((1, 8, 8)), 4).count
    4
    """
    if count < 1:
        raise UsageError("no segments are left", where="segments", got=count, allowed="1 or more")
    if min(image.shape[1:]) < 2 or count == 1:
        return grid_segments((image.shape[1], image.shape[2]), count)
    # SLIC merges small pieces, so that it often returns fewer than it was asked for.
    wanted = count + count // 2
    while wanted >= 1:
        found = _slic(image, wanted)
        if found.count <= count:
            return found
        wanted = min(wanted - 1, round(wanted * count / found.count))
    return grid_segments((image.shape[1], image.shape[2]), count)


def grid_segments(shape: tuple[int, int], count: int) -> Segments:
    """At most ``count`` rectangles, about square.

    >>> grid_segments((4, 8), 2).labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    height, width = shape
    rows = min(height, max(1, int(np.sqrt(count * height / width))))
    columns = min(width, max(1, count // rows))
    down, across = (np.arange(side) * cells // side for side, cells in ((height, rows), (width, columns)))
    return Segments.of(down[:, None] * columns + across)


def segments_of(session: Session, cut: Cut, count: int, given: Segments | None) -> Segments:
    """The segments that a method asks for.

    Args:
        session: the image.
        cut: "slic", "grid", or "given".
        count: upper bound of the first two.
        given: the user's own: organs, predicted regions.

    Raises:
        UsageError: "given" without segments, or the other way round.
    """
    if (cut == "given") != (given is not None):
        got = f"cut {cut}, {'no ' if given is None else ''}segments"
        raise UsageError("segments and cut do not fit", where="segments", got=got, allowed="cut given with segments")
    if given is not None:
        return given
    if cut == "slic":
        return slic_segments(session.image.cpu().numpy(), count)
    if cut == "grid":
        return grid_segments((session.image.shape[1], session.image.shape[2]), count)
    raise UsageError("no such cut", where="cut", got=cut, allowed="slic, grid, given")


def _slic(image: np.ndarray, count: int) -> Segments:
    from skimage.segmentation import slic

    low, high = float(image.min()), float(image.max())
    stretched = np.moveaxis((image - low) / max(high - low, 1e-12), 0, -1).astype(np.float64)
    colour = stretched.shape[2] == 3
    compactness = COMPACTNESS["colour" if colour else "grey"]
    labels = slic(
        stretched, n_segments=count, compactness=compactness, channel_axis=-1, convert2lab=colour, start_label=0
    )
    return Segments.of(labels)
