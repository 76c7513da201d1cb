"""Quantiles and the exact binomial interval; the one place that imports SciPy's special functions."""

from __future__ import annotations


def t_quantile(p: float, df: float) -> float:
    """Quantile of Student's t with ``df`` > 0 degrees of freedom (real numbers are allowed).

    >>> round(t_quantile(0.95, 7), 3)
    1.895
    """
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution.

    >>> round(normal_quantile(0.95), 3)
    1.645
    """
    from scipy.special import ndtri

    return float(ndtri(p))


def clopper_pearson(successes: float, n: float, alpha: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of a proportion, each at ``1 - alpha``.

    Args:
        successes: number of events in [0, n]; an effective number may be fractional.
        n: number (or effective number) of independent trials, > 0.
        alpha: error probability of each bound.

    Source: Clopper and Pearson, Biometrika 26 (1934); fractional numbers after Korn and Graubard,
    Survey Methodology 24 (1998).

    >>> [round(bound, 4) for bound in clopper_pearson(0, 29, 0.05)]
    [0.0, 0.0981]
    """
    from scipy.special import betaincinv

    misses = max(n - successes, 0.0)
    lower = 0.0 if successes <= 0 else float(betaincinv(successes, misses + 1.0, alpha))
    upper = 1.0 if misses <= 0 else float(betaincinv(successes + 1.0, misses, 1.0 - alpha))
    return lower, upper
