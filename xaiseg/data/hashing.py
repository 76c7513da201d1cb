"""Digests that find the same file and nearly the same picture."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def dhash(image: np.ndarray) -> int:
    """Difference hash: 64 bits that say where brightness rises from left to right on an 8 x 9 grid.

    Copies that were rescaled or recompressed differ in a few bits. Source: N. Krawetz, "Kind of Like That" (2013).

    Args:
        image: (H, W) or (C, H, W), any range.

    Returns:
        An integer in [0, 2**64).

    >>> ramp = np.tile(np.arange(90.0), (80, 1))
    >>> dhash(ramp) == 2**64 - 1, dhash(ramp[:, ::-1])
    (True, 0)
    """
    from PIL import Image

    grey = image.mean(axis=0) if image.ndim == 3 else image
    small = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32)).resize((9, 8), Image.Resampling.BOX)
    rises = np.diff(np.asarray(small), axis=1) > 0
    return int.from_bytes(np.packbits(rises).tobytes(), "big")
