"""Most-significant-digit-first (MSDF) arithmetic: what a digit-serial accelerator would answer, in exact integers."""
