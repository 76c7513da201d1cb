"""Seeded samples that draw clusters first, then cases, and say how likely each case was to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xaiseg.seeds import derive_seed


def by_cluster(cases: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Groups (case, cluster) pairs: cluster -> sorted cases, clusters sorted."""
    groups: dict[str, list[str]] = {}
    for case, cluster in sorted(cases, key=lambda pair: (pair[1], pair[0])):
        groups.setdefault(cluster, []).append(case)
    return groups


def sample_cases(cases: Sequence[tuple[str, str]], size: int, *, seed: int, purpose: str) -> Mapping[str, float]:
    """Draws about ``size`` cases: whole rounds over randomly ordered clusters, one case a cluster and round.

    With fewer wanted cases than clusters, a simple random sample of ``size`` clusters gives one case each; otherwise
    every cluster gives the same number of cases (or all it has). The order of the input changes nothing.

    Args:
        cases: (case, cluster) pairs.
        size: wanted number of cases; all cases when it is not smaller than their number.
        seed: the run's seed.
        purpose: what the sample is for, e.g. the check's id.

    Returns:
        case -> inclusion probability in (0, 1], for the drawn cases only.

    >>> drawn = sample_cases([("a", "p"), ("b", "p"), ("c", "q")], 2, seed=0, purpose="x")
    >>> sorted(drawn.values())
    [0.5, 1.0]
    """
    if size >= len(cases):
        return {case: 1.0 for case, _ in cases}
    groups = by_cluster(cases)
    ordered = {
        cluster: sorted(members, key=lambda case: derive_seed(seed, f"{purpose}/case", case))
        for cluster, members in groups.items()
    }
    clusters = sorted(groups, key=lambda cluster: derive_seed(seed, f"{purpose}/cluster", cluster))
    if size <= len(clusters):
        share = size / len(clusters)
        return {ordered[cluster][0]: share / len(ordered[cluster]) for cluster in clusters[:size]}
    each = size // len(clusters)
    return {case: min(1.0, each / len(members)) for cluster, members in ordered.items() for case in members[:each]}


def limit_clusters(cases: Sequence[tuple[str, str]], limit: int, *, seed: int) -> frozenset[str]:
    """Cases of randomly drawn whole clusters, until at least ``limit`` cases (or all) are in.

    >>> sorted(limit_clusters([("a", "p"), ("b", "p"), ("c", "p")], 1, seed=0))
    ['a', 'b', 'c']
    """
    groups = by_cluster(cases)
    kept: list[str] = []
    for cluster in sorted(groups, key=lambda name: derive_seed(seed, "limit", name)):
        if len(kept) >= limit:
            break
        kept += groups[cluster]
    return frozenset(kept)
