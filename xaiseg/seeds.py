"""Seeds that depend on what a number is for, never on the order in which work is done."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(run_seed: int, purpose: str, case: str = "") -> int:
    """A 63-bit seed from the run's seed, the purpose and the case.

    >>> derive_seed(0, "sample") == derive_seed(0, "sample"), derive_seed(0, "sample") == derive_seed(1, "sample")
    (True, False)
    """
    digest = hashlib.sha256(f"{run_seed}\x1f{purpose}\x1f{case}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(run_seed: int, purpose: str, case: str = "") -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(run_seed, purpose, case))
