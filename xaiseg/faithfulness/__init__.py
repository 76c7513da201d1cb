"""Is an explanation true? Deletion, baselines that any map must beat, randomisation, and where the evidence lies."""
