"""Compiled inner loops of :mod:`xaiseg.zoo.radiomics`; loaded on first use, since numba takes half a second to import.

Nothing here relaxes floating point (no fastmath, no contraction): a local binary pattern compares an interpolated value
with its centre, the two are often equal, and one rounding more or less would make another code. Indices of the two
hottest loops are unsigned because numba asks of every signed one whether it counts from the end, and that keeps the
compiler from working on several pixels at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numba
import numpy as np

_F = TypeVar("_F", bound=Callable[..., object])

#: Grey levels of the co-occurrence matrix; one more column takes the neighbours outside the image.
LEVELS: Final = 64
#: Neighbours of a pixel, their distance in px, and bins of the uniform patterns (0 to 24 ones, and 25 = not uniform).
NEIGHBOURS: Final = 24
RADIUS: Final = 3
PATTERN_BINS: Final = NEIGHBOURS + 2
#: Columns worked on at a time: the lines of a tile (8 x 10 x 256 float64, 164 kB) fit the second-level cache.
TILE: Final = 256
#: Rows whose lines are held: two rows of pixels are coded in one go, and they reach 3 px up and down.
HELD: Final = 2 * RADIUS + 2

_ONE: Final = np.uint32(1)
#: The neighbours that are no whole pixels away; 0, 6, 12 and 18 are 3 px right, up, left and down.
_SLANTED: Final = np.array([k for k in range(NEIGHBOURS) if k % 6])
_TURN: Final = 2 * np.pi * _SLANTED / NEIGHBOURS
#: Their row offsets; the distinct column offsets (10: a circle is symmetric) and which one a neighbour has. Five
#: decimals, as scikit-image rounds them.
_ROWS: Final = np.round(-RADIUS * np.sin(_TURN), 5)
_COLUMNS, _WHICH = np.unique(np.round(RADIUS * np.cos(_TURN), 5), return_inverse=True)
_WHOLE: Final = np.floor(_COLUMNS).astype(np.int64)


def compiled(function: _F) -> _F:
    """``function`` in machine code, kept on disk between processes where a folder for that can be written.

    The code is kept beside the module or, where that folder is read-only, in numba's folder of the user. Where neither
    can be written numba refuses to keep anything; then every process compiles for itself.
    """
    try:
        machine: _F = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        machine = numba.njit(nogil=True, error_model="numpy")(function)
    return machine


@compiled
def _interpolate_along(
    padded: np.ndarray, first: int, stride: int, weights: np.ndarray, lines: np.ndarray, line: int, wide: int
) -> None:
    """Values between the columns of two padded rows, one line a row for every distinct column offset of the circle."""
    kinds = _WHOLE.shape[0]
    for offset in range(kinds):
        left, below = np.uint64(first + _WHOLE[offset]), np.uint64(first + stride + _WHOLE[offset])
        right, below_right = left + np.uint64(1), below + np.uint64(1)
        target, next_target = np.uint64((line + offset) * wide), np.uint64((line + kinds + offset) * wide)
        weight = np.uint64(offset * wide)
        for c in range(np.uint64(wide)):
            part = weights[weight + c]
            rest = 1.0 - part
            lines[target + c] = rest * padded[left + c] + part * padded[right + c]
            lines[next_target + c] = rest * padded[below + c] + part * padded[below_right + c]


@compiled
def _compare_straight(padded: np.ndarray, first: int, stride: int, patterns: np.ndarray) -> None:
    """Starts the pattern of every pixel with the four neighbours that are whole pixels away."""
    zero, here, right, left = np.int64(0), np.uint64(first), np.uint64(first + RADIUS), np.uint64(first - RADIUS)
    up, down = np.uint64(first - RADIUS * stride), np.uint64(first + RADIUS * stride)
    bit0, bit6, bit12, bit18 = np.int64(1), np.int64(1 << 6), np.int64(1 << 12), np.int64(1 << 18)
    for c in range(np.uint64(patterns.shape[0])):
        centre = padded[here + c]
        found = bit0 if padded[right + c] >= centre else zero
        found |= bit6 if padded[up + c] >= centre else zero
        found |= bit12 if padded[left + c] >= centre else zero
        found |= bit18 if padded[down + c] >= centre else zero
        patterns[c] = found


@compiled
def _compare_slanted(
    lines: np.ndarray,
    at: np.ndarray,
    weight: np.ndarray,
    padded: np.ndarray,
    first: int,
    stride: int,
    found: np.ndarray,
) -> None:
    """Adds the neighbours between pixels: bit k is set where neighbour k, between two lines, is at least as bright.

    Two neighbours of two rows a pass: the lower line of a row is the upper line of the next, and is loaded once.
    """
    zero, start, below = np.int64(0), np.uint64(first), np.uint64(first + stride)
    here, there = found[0], found[1]
    for k in range(0, _SLANTED.shape[0], 2):
        a, b, a1, b1 = weight[0, k], weight[0, k + 1], weight[1, k], weight[1, k + 1]
        a_rest, b_rest, a1_rest, b1_rest = 1.0 - a, 1.0 - b, 1.0 - a1, 1.0 - b1
        a_up, a_middle, a_down = at[0, k], at[1, k], at[2, k]
        b_up, b_middle, b_down = at[0, k + 1], at[1, k + 1], at[2, k + 1]
        bit_a, bit_b = np.int64(1 << _SLANTED[k]), np.int64(1 << _SLANTED[k + 1])
        for c in range(np.uint64(found.shape[1])):
            centre, next_centre = padded[start + c], padded[below + c]
            middle = lines[a_middle + c]
            bits = bit_a if a_rest * lines[a_up + c] + a * middle >= centre else zero
            next_bits = bit_a if a1_rest * middle + a1 * lines[a_down + c] >= next_centre else zero
            middle = lines[b_middle + c]
            bits |= bit_b if b_rest * lines[b_up + c] + b * middle >= centre else zero
            next_bits |= bit_b if b1_rest * middle + b1 * lines[b_down + c] >= next_centre else zero
            here[c] |= bits
            there[c] |= next_bits


@compiled
def _ones(bits: int) -> int:
    """Number of ones among the low 32 bits, by adding neighbouring fields of 1, 2, 4 and 8 bits."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) & 0xFFFFFFFF) >> 24


@compiled
def _codes_of(patterns: np.ndarray, codes: np.ndarray) -> None:
    """Uniform codes: the number of ones where neighbours in line differ at most twice (last and first are no pair)."""
    for c in range(patterns.shape[0]):
        pattern = patterns[c]
        changes = _ones((pattern ^ (pattern >> 1)) & ((1 << (NEIGHBOURS - 1)) - 1))
        codes[c] = _ones(pattern) if changes <= 2 else NEIGHBOURS + 1


@compiled
def _lines_of(r: int, wide: int, at: np.ndarray, weight: np.ndarray) -> None:
    """Where the lines of every neighbour of rows ``r`` and ``r + 1`` start, and the weight of the lower one."""
    for k in range(_SLANTED.shape[0]):
        up = 0
        for n in range(2):
            # r + offset is rounded before its floor is taken away, so the weight depends on r in its last bits.
            position = r + n + _ROWS[k]
            weight[n, k] = position - np.floor(position)
            up = int(np.floor(position)) + RADIUS
            at[n, k] = np.uint64((up % HELD * _COLUMNS.shape[0] + _WHICH[k]) * wide)
        at[2, k] = np.uint64(((up + 1) % HELD * _COLUMNS.shape[0] + _WHICH[k]) * wide)


@compiled
def lbp_codes(image: np.ndarray) -> np.ndarray:
    """Codes of the uniform local binary patterns of a (H, W) uint8 image, as (H, W) uint8 in 0 to 25.

    A row is interpolated along its columns once for each distinct column offset and serves all neighbours above and
    below it. The image is surrounded by zeros; an odd number of rows gets one more.
    """
    height, width = image.shape
    even, kinds, stride = height + height % 2, _COLUMNS.shape[0], width + 2 * RADIUS + 1
    padded = np.zeros((even + 2 * RADIUS, stride))
    for r in range(height):
        for c in range(width):
            padded[r + RADIUS, c + RADIUS] = image[r, c]
    flat, codes = padded.reshape(-1), np.empty((even, width), np.uint8)
    at, weight = np.empty((3, _SLANTED.shape[0]), np.uint64), np.empty((2, _SLANTED.shape[0]))
    for first in range(0, width, TILE):
        wide = min(TILE, width - first)
        lines, patterns, weights = np.empty(HELD * kinds * wide), np.empty((2, wide), np.int64), np.empty(kinds * wide)
        for offset in range(kinds):
            for c in range(wide):
                position = first + c + _COLUMNS[offset]  # rounded, as in _lines_of
                weights[offset * wide + c] = position - np.floor(position)
        for p in range(0, even + 2 * RADIUS, 2):
            _interpolate_along(flat, p * stride + first + RADIUS, stride, weights, lines, p % HELD * kinds, wide)
            r = p - 2 * RADIUS
            if r >= 0:
                start = (r + RADIUS) * stride + first + RADIUS
                _lines_of(r, wide, at, weight)
                _compare_straight(flat, start, stride, patterns[0])
                _compare_straight(flat, start + stride, stride, patterns[1])
                _compare_slanted(lines, at, weight, flat, start, stride, patterns)
                _codes_of(patterns[0], codes[r, first : first + wide])
                _codes_of(patterns[1], codes[r + 1, first : first + wide])
    return codes[:height]


@compiled
def cooccurrences(image: np.ndarray) -> np.ndarray:
    """How often one grey level stands beside another, for 8 offsets.

    Args:
        image: (H, W) uint8.

    Returns:
        (8, 64, 65) uint32 ``[offset, level of the pixel, level of its neighbour]``; the last column counts neighbours
        outside. Offsets: distance 1 at 0, 45, 90 and 135 degrees, then distance 3, whose diagonals round to 2 px.
    """
    height, width = image.shape
    levels = np.full((height + 3, width + 6), np.uint8(LEVELS), np.uint8)
    for r in range(height):
        for c in range(width):
            levels[r, c + 3] = image[r, c] >> 2
    table = LEVELS * (LEVELS + 1)
    counts = np.zeros(8 * table, np.uint32)
    for r in range(height):
        row, next1, next2, next3 = levels[r], levels[r + 1], levels[r + 2], levels[r + 3]
        for c in range(3, width + 3):
            # Eight tables in one pass: their additions do not wait for each other as those to one table would.
            own = np.int64(row[c]) * (LEVELS + 1)
            counts[own + row[c + 1]] += _ONE
            counts[own + next1[c + 1] + table] += _ONE
            counts[own + next1[c] + 2 * table] += _ONE
            counts[own + next1[c - 1] + 3 * table] += _ONE
            counts[own + row[c + 3] + 4 * table] += _ONE
            counts[own + next2[c + 2] + 5 * table] += _ONE
            counts[own + next3[c] + 6 * table] += _ONE
            counts[own + next2[c - 2] + 7 * table] += _ONE
    return counts.reshape((8, LEVELS, LEVELS + 1))


@compiled
def histogram(values: np.ndarray, bins: int) -> np.ndarray:
    """How often each value of a (H, W) uint8 array occurs, as (bins,) int64; all values are below ``bins``."""
    # Four tables, so that a run of equal values does not wait for one counter.
    parts = np.zeros((4, bins), np.int64)
    flat = values.reshape(-1)
    whole = flat.shape[0] // 4 * 4
    for n in range(0, whole, 4):
        parts[0, flat[n]] += 1
        parts[1, flat[n + 1]] += 1
        parts[2, flat[n + 2]] += 1
        parts[3, flat[n + 3]] += 1
    for n in range(whole, flat.shape[0]):
        parts[0, flat[n]] += 1
    counts = np.empty(bins, np.int64)
    for value in range(bins):
        counts[value] = parts[0, value] + parts[1, value] + parts[2, value] + parts[3, value]
    return counts


@compiled
def texture(counts: np.ndarray) -> tuple[float, float, float, float, float]:
    """Contrast, dissimilarity, homogeneity, energy and correlation of one symmetric, normalised co-occurrence matrix.

    Args:
        counts: (64, 65) uint32, one table of :func:`cooccurrences`.
    """
    apart, margin, squares = np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64), np.int64(0)
    for i in range(LEVELS):
        for j in range(i):
            both = np.int64(counts[i, j]) + np.int64(counts[j, i])
            apart[i - j] += 2 * both
            margin[i] += both
            margin[j] += both
            squares += 2 * both * both
        own = 2 * np.int64(counts[i, i])
        apart[0] += own
        margin[i] += own
        squares += own * own
    total = float(margin.sum())
    contrast = dissimilarity = homogeneity = mean = variance = 0.0
    for d in range(LEVELS):
        contrast += apart[d] * (d * d) / total
        dissimilarity += apart[d] * d / total
        homogeneity += apart[d] / (1.0 + d * d) / total
        mean += margin[d] * d / total
    for d in range(LEVELS):
        variance += margin[d] * (d - mean) ** 2 / total
    # Both margins of a symmetric matrix are the same, so E(i - j)^2 = 2 (variance - covariance). One level alone has a
    # variance of rounding errors at most; two have 1 / (number of pairs) or more.
    correlation = 1.0 if margin.max() == margin.sum() else 1.0 - contrast / (2.0 * variance)
    return contrast, dissimilarity, homogeneity, np.sqrt(squares) / total, correlation


@compiled
def moments(counts: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, standard deviation, skewness and excess kurtosis (population) of the values 0, 1, ... that occur so often.

    Skewness and kurtosis are 0 where the standard deviation is below 1e-8.
    """
    total = float(counts.sum())
    mean = second = third = fourth = 0.0
    for value in range(counts.shape[0]):
        mean += counts[value] * value
    mean /= total
    for value in range(counts.shape[0]):
        square = (value - mean) ** 2
        second += counts[value] * square / total
        third += counts[value] * square * (value - mean) / total
        fourth += counts[value] * square * square / total
    std = np.sqrt(second)
    if std < 1e-8:
        return mean, std, 0.0, 0.0
    return mean, std, third / std**3, fourth / second**2 - 3.0
