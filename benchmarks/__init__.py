"""Side-by-side benchmarks against peers, in one run, printing ratios."""
